package runid_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"wal-e/internal/runid"
)

func newID(t testing.TB, at time.Time, random []byte) runid.ID {
	t.Helper()
	id, err := runid.New(at, bytes.NewReader(random))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestGolden(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 4, 5, 6, 7, 8_900_000, time.FixedZone("", 3600))
	id := newID(t, at, slices.Repeat([]byte{0x00, 0xFF, 0xA5}, 6))
	const want = "06EBE1J3M00FZ980ZYJG1ZX503ZTA07ZMM0FZ98"
	if id.String() != want {
		t.Errorf("String() = %s, want %s", id, want)
	}
	if !id.Time().Equal(at.Truncate(time.Millisecond)) || id.Time().Location() != time.UTC {
		t.Errorf("Time() = %v, want %v", id.Time(), at.UTC())
	}
}

// Ids sort by time, as bytes and as text alike.
func TestOrder(t *testing.T) {
	t.Parallel()
	low, high := make([]byte, 18), bytes.Repeat([]byte{0xFF}, 18)
	var last runid.ID
	for _, ms := range []int64{0, 1, 2, 31, 32, 255, 256, 65535, 65536, 1 << 31, 1 << 32, 1763846497123, 1763846497124, 1<<48 - 1} {
		for i, random := range [][]byte{low, high} {
			id := newID(t, time.UnixMilli(ms), random)
			if (ms > 0 || i > 0) && (bytes.Compare(last[:], id[:]) >= 0 || last.String() >= id.String()) {
				t.Errorf("%s of millisecond %d doesn't sort after %s", id, ms, last)
			}
			if id.Time().UnixMilli() != ms {
				t.Errorf("Time() of %s = %v, want millisecond %d", id, id.Time(), ms)
			}
			last = id
		}
	}
}

func TestNewIsUnique(t *testing.T) {
	t.Parallel()
	seen := make(map[runid.ID]bool)
	now := time.Now()
	for range 1000 {
		id, err := runid.New(now, nil)
		if err != nil || seen[id] {
			t.Fatalf("New = %s, %v, seen before: %v", id, err, seen[id])
		}
		seen[id] = true
	}
}

func TestNewWithoutRandomness(t *testing.T) {
	t.Parallel()
	want := errors.New("no entropy")
	for _, r := range []io.Reader{iotest.ErrReader(want), io.MultiReader(bytes.NewReader(make([]byte, 17)), iotest.ErrReader(want))} {
		if id, err := runid.New(time.Now(), r); !errors.Is(err, want) || id != (runid.ID{}) {
			t.Errorf("New = %s, %v, want %v", id, err, want)
		}
	}
	if _, err := runid.New(time.Now(), bytes.NewReader(make([]byte, 17))); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("New with 17 random bytes = %v, want %v", err, io.ErrUnexpectedEOF)
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	const good = "06EBE1J3M00FZ980ZYJG1ZX503ZTA07ZMM0FZ98"
	if id, err := runid.Parse(good); err != nil || id.String() != good {
		t.Errorf("Parse(%s) = %s, %v", good, id, err)
	}
	for _, bad := range []string{
		"", good[:38], good + "0", strings.ToLower(good),
		good[:38] + "1", // bits that no byte has
		good[:38] + "\n", good[:37] + "\r\n", "\n" + good[:38],
		good[:38] + "=", good[:38] + "I", good[:38] + "L", good[:38] + "O", good[:38] + "U", good[:38] + "/",
		good[:20] + "\x00" + good[21:], good[:37] + "é",
	} {
		if id, err := runid.Parse(bad); err == nil {
			t.Errorf("Parse(%q) = %s, want an error", bad, id)
		}
	}
}

func TestJSON(t *testing.T) {
	t.Parallel()
	type object struct {
		Run  runid.ID
		Runs map[runid.ID]int
	}
	id := newID(t, time.UnixMilli(1), make([]byte, 18))
	in := object{Run: id, Runs: map[runid.ID]int{id: 3}}
	b, err := json.Marshal(in)
	want := `{"Run":"` + id.String() + `","Runs":{"` + id.String() + `":3}}`
	if err != nil || string(b) != want {
		t.Fatalf("Marshal = %s, %v, want %s", b, err, want)
	}
	var out object
	if err := json.Unmarshal(b, &out); err != nil || out.Run != id || out.Runs[id] != 3 {
		t.Errorf("Unmarshal = %+v, %v", out, err)
	}
	if err := json.Unmarshal([]byte(`{"Run":"x"}`), &out); err == nil || out.Run != id {
		t.Errorf("Unmarshal of no id = %+v, %v", out, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("06EBE1J3M00FZ980ZYJG1ZX503ZTA07ZMM0FZ98")
	f.Add(strings.Repeat("Z", 39))
	f.Add(strings.Repeat("0", 39))
	f.Fuzz(func(t *testing.T, s string) {
		if id, err := runid.Parse(s); err == nil && id.String() != s {
			t.Errorf("Parse(%q).String() = %s", s, id)
		}
	})
}

func FuzzString(f *testing.F) {
	f.Add(make([]byte, runid.Size), bytes.Repeat([]byte{0xFF}, runid.Size))
	f.Fuzz(func(t *testing.T, x, y []byte) {
		if len(x) != runid.Size || len(y) != runid.Size {
			t.Skip()
		}
		a, b := runid.ID(x), runid.ID(y)
		if back, err := runid.Parse(a.String()); err != nil || back != a {
			t.Errorf("Parse(%s) = %s, %v", a, back, err)
		}
		if bytes.Compare(x, y) != cmp.Compare(a.String(), b.String()) {
			t.Errorf("%s and %s sort otherwise than their bytes", a, b)
		}
	})
}

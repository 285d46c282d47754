package envelope_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"unicode/utf8"

	"wal-e/internal/envelope"
)

type thing struct {
	Name  string   `json:"name"`
	Count int      `json:"count"`
	Parts []string `json:"parts,omitempty"`
}

const golden = `wal-e thing 1 blake3:e927a6c006450e2a31a5053a47dd42ea9f3e1305757ff47402a4414c902ebb89
{
 "name": "a name",
 "count": 7
}
`

func encode(t testing.TB, kind string, version int, v any) []byte {
	t.Helper()
	b, err := envelope.Encode(kind, version, v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestGolden(t *testing.T) {
	t.Parallel()
	want := thing{Name: "a name", Count: 7}
	if got := encode(t, "thing", 1, want); string(got) != golden {
		t.Errorf("Encode =\n%s\nwant\n%s", got, golden)
	}
	var got thing
	if err := envelope.Decode([]byte(golden), "thing", 1, &got); err != nil || got.Name != want.Name || got.Count != want.Count {
		t.Errorf("Decode = %+v, %v, want %+v", got, err, want)
	}
}

func TestEncodeFails(t *testing.T) {
	t.Parallel()
	if b, err := envelope.Encode("thing", 1, math.NaN()); err == nil || !strings.HasPrefix(err.Error(), "encode thing: ") {
		t.Errorf("Encode(NaN) = %q, %v", b, err)
	}
}

// Fields that a newer program added are ignored; those of an older one are zero.
func TestFields(t *testing.T) {
	t.Parallel()
	b := encode(t, "thing", 2, map[string]any{"name": "n", "since": "version 2"})
	var got thing
	if err := envelope.Decode(b, "thing", 3, &got); err != nil || got.Name != "n" || got.Count != 0 {
		t.Errorf("Decode = %+v, %v", got, err)
	}
}

// Whatever byte is altered, lost or added, Decode notices before it looks at
// the body.
func TestDamaged(t *testing.T) {
	t.Parallel()
	whole := encode(t, "thing", 1, thing{Name: "a name", Count: 7, Parts: []string{"x", "y"}})
	try := func(what string, i int, b []byte) {
		t.Helper()
		got := thing{Name: "before"}
		err := envelope.Decode(b, "thing", 1, &got)
		var newer *envelope.VersionError
		versionDigit := i == len("wal-e thing ")
		if !errors.Is(err, envelope.ErrDamaged) && !(versionDigit && errors.As(err, &newer)) {
			t.Errorf("%s %d: Decode = %v, want %v", what, i, err, envelope.ErrDamaged)
		}
		if got.Name != "before" || got.Count != 0 || got.Parts != nil {
			t.Errorf("%s %d: Decode has changed its target: %+v", what, i, got)
		}
	}
	for i := range whole {
		for bit := range 8 {
			b := bytes.Clone(whole)
			b[i] ^= 1 << bit
			try("bit flipped in byte", i, b)
		}
		try("cut at", i, whole[:i])
		try("byte removed at", i, append(bytes.Clone(whole[:i]), whole[i+1:]...))
		if whole[i] != '\n' {
			try("line end at", i, append(append(bytes.Clone(whole[:i]), '\n'), whole[i:]...))
		}
	}
	try("appended to", len(whole), append(bytes.Clone(whole), '\n'))
}

func TestHeader(t *testing.T) {
	t.Parallel()
	whole := string(encode(t, "thing", 1, thing{Name: "n"}))
	head, body, _ := strings.Cut(whole, "\n")
	fields := strings.Split(head, " ")
	sum := fields[3]
	for _, tt := range []struct{ name, head, want string }{
		{"another kind", "wal-e intent 1 " + sum, "thing: "},
		{"another program", "restic thing 1 " + sum, "header is"},
		{"no hash", "wal-e thing 1", "header is"},
		{"more", head + " more", "header is"},
		{"two spaces", "wal-e  thing 1 " + sum, "header is"},
		{"carriage return", head + "\r", "hash differs"},
		{"version zero", "wal-e thing 0 " + sum, "version is"},
		{"negative version", "wal-e thing -1 " + sum, "version is"},
		{"signed version", "wal-e thing +1 " + sum, "version is"},
		{"padded version", "wal-e thing 01 " + sum, "version is"},
		{"version in words", "wal-e thing one " + sum, "version is"},
		{"upper-case hash", "wal-e thing 1 " + strings.ToUpper(sum), "hash differs"},
		{"another hash", "wal-e thing 1 sha256" + strings.TrimPrefix(sum, "blake3"), "hash differs"},
		{"long", "wal-e thing 1 " + sum + strings.Repeat(" ", 200), "no header line"},
	} {
		var got thing
		err := envelope.Decode([]byte(tt.head+"\n"+body), "thing", 1, &got)
		if !errors.Is(err, envelope.ErrDamaged) || !strings.Contains(err.Error(), tt.want) || got.Name != "" {
			t.Errorf("%s: Decode = %+v, %v, want %q", tt.name, got, err, tt.want)
		}
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	b := encode(t, "thing", 12, thing{Name: "n"})
	got := thing{Name: "before"}
	var newer *envelope.VersionError
	err := envelope.Decode(b, "thing", 11, &got)
	if !errors.As(err, &newer) || *newer != (envelope.VersionError{Kind: "thing", Version: 12, Known: 11}) || errors.Is(err, envelope.ErrDamaged) {
		t.Errorf("Decode of a newer version = %v", err)
	}
	if want := "thing of format version 12: this program reads up to 11: use a newer wal-e"; err.Error() != want || got.Name != "before" {
		t.Errorf("Decode = %q, %+v, want %q", err, got, want)
	}
	// A newer object that is damaged is damaged: that outlasts an upgrade.
	b[len(b)-3] ^= 1
	if err := envelope.Decode(b, "thing", 11, &got); !errors.Is(err, envelope.ErrDamaged) {
		t.Errorf("Decode of a newer, damaged one = %v, want %v", err, envelope.ErrDamaged)
	}
}

// An object that was written whole but has another shape is damaged, too.
func TestShape(t *testing.T) {
	t.Parallel()
	for _, v := range []any{[]int{1}, "text", map[string]any{"name": "n", "count": "seven"}, map[string]any{"count": 1e30}} {
		var got thing
		if err := envelope.Decode(encode(t, "thing", 1, v), "thing", 1, &got); !errors.Is(err, envelope.ErrDamaged) {
			t.Errorf("Decode of %v = %+v, %v, want %v", v, got, err, envelope.ErrDamaged)
		}
	}
}

func FuzzRoundTrip(f *testing.F) {
	f.Add("name", 7, "part")
	f.Add("<&>\u2028\x00\n", -1, "")
	f.Fuzz(func(t *testing.T, name string, count int, part string) {
		if !utf8.ValidString(name) || !utf8.ValidString(part) {
			t.Skip()
		}
		in := thing{Name: name, Count: count, Parts: []string{part}}
		var out thing
		err := envelope.Decode(encode(t, "thing", 3, in), "thing", 3, &out)
		if err != nil || out.Name != name || out.Count != count || len(out.Parts) != 1 || out.Parts[0] != part {
			t.Errorf("Decode = %+v, %v, want %+v", out, err, in)
		}
	})
}

// What Decode accepts has a right header over a JSON document.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(golden))
	f.Add([]byte("wal-e thing 1 blake3:"))
	f.Add([]byte("\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var raw json.RawMessage
		err := envelope.Decode(b, "thing", math.MaxInt, &raw)
		if err == nil && (!json.Valid(raw) || !bytes.HasPrefix(b, []byte("wal-e thing "))) {
			t.Errorf("Decode(%q) = %s", b, raw)
		}
		if err != nil && !errors.Is(err, envelope.ErrDamaged) {
			t.Errorf("Decode(%q) = %v", b, err)
		}
	})
}

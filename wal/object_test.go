package wal_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os/exec"
	"runtime"
	"slices"
	"testing"

	"wal-e/internal/postgres"
	"wal-e/internal/storage/mem"
	"wal-e/wal"
)

// smallObject is the object of a short history file.
func smallObject(t testing.TB) (plain, object []byte) {
	t.Helper()
	c := newCluster(t)
	b := mem.New(nil)
	plain = []byte("1\t0/A373778\tno recovery target specified\n")
	p := mustPush(t, c.config(b), c.write(t, "00000002.history", plain))
	return plain, readObject(t, b, p.Key)
}

// segmentObject is the object of a segment with a few random bytes.
func segmentObject(t testing.TB) (name string, plain, object []byte) {
	t.Helper()
	c := newCluster(t)
	b := mem.New(nil)
	name, plain = c.name(1, 3), c.segment(3, 900)
	p := mustPush(t, c.config(b), c.write(t, name, plain))
	return name, plain, readObject(t, b, p.Key)
}

func TestPlainZstdReadsObjects(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("zstd"); err != nil {
		t.Fatalf("%v; run: apt-get install zstd", err)
	}
	c := newCluster(t)
	c.segSize = 4 * mb
	for name, plain := range map[string][]byte{
		c.name(1, 3):       c.segment(3, 2*mb+17),
		"00000002.history": []byte("1\t0/A373778\tno recovery target specified\n"),
		"empty":            {},
	} {
		b := mem.New(nil)
		p := mustPush(t, c.config(b), c.write(t, name, plain))
		cmd := exec.Command("zstd", "-d", "-c")
		cmd.Stdin = bytes.NewReader(readObject(t, b, p.Key))
		got, err := cmd.Output()
		if err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%s: zstd -d gave %d bytes, %v, want the %d bytes pushed", name, len(got), err, len(plain))
		}
	}
}

// A flipped bit gives an error or, where zstd can say the same in two ways, the
// very bytes that were pushed. Missing and added bytes are always errors, and so
// is all that concerns the identity.
func TestDamageIsDetected(t *testing.T) {
	t.Parallel()
	history, small := smallObject(t)
	name, segment, large := segmentObject(t)
	step := 7
	if testing.Short() {
		step = 61
	}
	for _, object := range []struct {
		name          string
		plain, stored []byte
		step          int // bits
	}{{"00000002.history", history, small, 1}, {name, segment, large, step}} {
		for i := 0; i < 8*len(object.stored); i += object.step {
			bad := bytes.Clone(object.stored)
			bad[i/8] ^= 1 << (i % 8)
			var out bytes.Buffer
			if _, err := wal.Decode(&out, bytes.NewReader(bad), object.name); err == nil &&
				i >= 8*wal.HeaderSize && bytes.Equal(out.Bytes(), object.plain) {
				continue
			}
			mustBeDamaged(t, bad, object.name, "bit", i)
		}
		for n := 0; n < len(object.stored); n += object.step {
			mustBeDamaged(t, object.stored[:n], object.name, "cut at", n)
		}
		mustBeDamaged(t, append(bytes.Clone(object.stored), 0), object.name, "added", 1)
		mustBeDamaged(t, slices.Concat(object.stored, object.stored[wal.HeaderSize:]), object.name, "frame added", 1)
	}
}

func mustBeDamaged(t *testing.T, object []byte, name, what string, n int) {
	t.Helper()
	_, err := wal.Decode(io.Discard, bytes.NewReader(object), name)
	var damaged *wal.DamagedError
	if !errors.As(err, &damaged) {
		t.Errorf("%s: %s %d: Decode = %v, want a DamagedError", name, what, n, err)
	}
}

func TestDecodeChecksTheName(t *testing.T) {
	t.Parallel()
	name, _, object := segmentObject(t)
	for _, other := range []string{"000000010000000000000004", "000000020000000100000003"} {
		mustBeDamaged(t, object, other, "name", 0)
	}
	// The first segment of a timeline begins with a page of the one before.
	for _, same := range []string{"", name, name + ".partial", "00000002" + name[8:]} {
		if _, err := wal.Decode(io.Discard, bytes.NewReader(object), same); err != nil {
			t.Errorf("Decode as %q = %v", same, err)
		}
	}
}

func TestDecodePassesOnOtherErrors(t *testing.T) {
	t.Parallel()
	_, object := smallObject(t)
	broken := errors.New("broken")
	for n := range len(object) {
		r := io.MultiReader(bytes.NewReader(object[:n]), errorReader{broken})
		_, err := wal.Decode(io.Discard, r, "")
		var damaged *wal.DamagedError
		if !errors.Is(err, broken) || errors.As(err, &damaged) {
			t.Errorf("reader broken after %d bytes: Decode = %v, want its error", n, err)
		}
	}
	if _, err := wal.Decode(errorWriter{broken}, bytes.NewReader(object), ""); !errors.Is(err, broken) {
		t.Errorf("writer broken: Decode = %v, want its error", err)
	}
}

type errorReader struct{ err error }

func (r errorReader) Read([]byte) (int, error) { return 0, r.err }

type errorWriter struct{ err error }

func (w errorWriter) Write([]byte) (int, error) { return 0, w.err }

// A short object cannot make a reader allocate what it only claims to hold.
func TestDecodeAllocates(t *testing.T) {
	header, err := wal.Identity{System: 1, Length: wal.MaxLength}.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []uint64{1 << 20, 4 << 20, 4<<20 + 1, 1 << 30, 1 << 63} {
		frame := binary.LittleEndian.AppendUint32(nil, 0xFD2FB528)
		frame = append(frame, 0xE4)
		frame = binary.LittleEndian.AppendUint64(frame, size)
		frame = append(frame, 0x03, 0, 0x10, 0) // a last block of many equal bytes
		frame = append(frame, 0, 0, 0, 0)
		before := allocated()
		mustBeDamaged(t, slices.Concat(header, frame), "", "size", int(size))
		if got := allocated() - before; got > 16*mb {
			t.Errorf("a frame that claims %d bytes made Decode allocate %d", size, got)
		}
	}
}

func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

func FuzzDecode(f *testing.F) {
	plain, object := smallObject(f)
	name, segment, large := segmentObject(f)
	f.Add(object, "00000002.history")
	f.Add(large, name)
	f.Add(object[:wal.HeaderSize], "")
	f.Fuzz(func(t *testing.T, b []byte, as string) {
		var out bytes.Buffer
		id, err := wal.Decode(&out, bytes.NewReader(b), as)
		if err != nil {
			return
		}
		if int64(out.Len()) != id.Length {
			t.Errorf("Decode gave %d bytes and says %d", out.Len(), id.Length)
		}
		if len(b) == len(object) && bytes.Equal(b[:wal.HeaderSize], object[:wal.HeaderSize]) && !bytes.Equal(out.Bytes(), plain) {
			t.Errorf("altered object gave %q", out.Bytes())
		}
		if postgres.ParseWALFile(as).Kind == postgres.SegmentFile && len(segment) != out.Len() && out.Len() < mb {
			t.Errorf("%d bytes pass for the segment %s", out.Len(), as)
		}
	})
}

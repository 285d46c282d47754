package index_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"math"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"wal-e/index"
	"wal-e/internal/chunk"
)

func goldenPacks() []index.Pack {
	return []index.Pack{
		{Seq: 0, Size: 20},
		{Seq: 300, Size: 1 << 20, Records: []index.Record{
			{Offset: 20, Stored: 4000, Raw: 300, Chunks: []index.Chunk{{ID: chunk.ID{1, 2, 3}, Length: 100}, {ID: chunk.ID{15: 0xFF}, Length: 200}}},
			{Offset: 4020, Stored: 1},
		}},
	}
}

// The encodings of goldenPacks. They are what archives hold: a change here is a
// change of the format.
const (
	goldenPack   = "ac028080400214a01f0201020300000000000000000000000000640000000000000000000000000000" + "00ffc801b41f0100"
	goldenObject = "57414c4549445831000000000000000035000000" + "02001400" + goldenPack + "8277d12a"
)

func TestPackGolden(t *testing.T) {
	t.Parallel()
	packs := goldenPacks()
	if got := hex.EncodeToString(index.AppendPack(nil, packs[1])); got != goldenPack {
		t.Errorf("AppendPack = %s, want %s", got, goldenPack)
	}
	if got := hex.EncodeToString(index.EncodeObject(packs)); got != goldenObject {
		t.Errorf("EncodeObject = %s, want %s", got, goldenObject)
	}
	b, err := hex.DecodeString(goldenObject)
	check(t, err)
	got, err := index.DecodeObject(b)
	if err != nil || !samePacks(got, packs) {
		t.Errorf("DecodeObject = %+v, %v, want %+v", got, err, packs)
	}
}

// samePacks compares with no records equal to none.
func samePacks(a, b []index.Pack) bool {
	return bytes.Equal(index.EncodeObject(a), index.EncodeObject(b)) && len(a) == len(b)
}

func TestPackRoundTrip(t *testing.T) {
	t.Parallel()
	a := newArchive()
	a.add(index.ObjectID{Run: run(1)}, 5, 200, 0)
	packs := a.objects[index.ObjectID{Run: run(1)}]
	got, err := index.DecodeObject(index.EncodeObject(packs))
	if err != nil || !reflect.DeepEqual(got, packs) {
		t.Errorf("DecodeObject(EncodeObject) differs: %v", err)
	}
	if got, err := index.DecodeObject(index.EncodeObject(nil)); err != nil || len(got) != 0 {
		t.Errorf("DecodeObject of no packs = %v, %v", got, err)
	}
	b := index.AppendPack([]byte("before"), packs[0])
	p, rest, err := index.ParsePack(append(b, "rest"...)[len("before"):])
	if err != nil || string(rest) != "rest" || !reflect.DeepEqual(p, packs[0]) {
		t.Errorf("ParsePack = %v, %q, %v", p, rest, err)
	}
}

// Each byte of an object counts, and so does where it ends.
func TestDecodeObjectDamaged(t *testing.T) {
	t.Parallel()
	whole := index.EncodeObject(goldenPacks())
	for i := range whole {
		for bit := range 8 {
			b := bytes.Clone(whole)
			b[i] ^= 1 << bit
			if got, err := index.DecodeObject(b); !errors.Is(err, index.ErrDamaged) {
				t.Errorf("byte %d, bit %d flipped: %+v, %v", i, bit, got, err)
			}
		}
		if got, err := index.DecodeObject(whole[:i]); !errors.Is(err, index.ErrDamaged) {
			t.Errorf("cut at %d: %+v, %v", i, got, err)
		}
	}
	if got, err := index.DecodeObject(append(bytes.Clone(whole), 0)); !errors.Is(err, index.ErrDamaged) {
		t.Errorf("with a byte more: %+v, %v", got, err)
	}
}

// sealed puts a right length and checksum on a body.
func sealed(flags uint32, body []byte) []byte {
	b := append([]byte("WALEIDX1"), make([]byte, 12)...)
	binary.LittleEndian.PutUint32(b[8:], flags)
	binary.LittleEndian.PutUint32(b[16:], uint32(len(body)))
	b = append(b, body...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
}

func TestDecodeObjectNewer(t *testing.T) {
	t.Parallel()
	_, err := index.DecodeObject(sealed(4, []byte{0}))
	if err == nil || errors.Is(err, index.ErrDamaged) || !strings.Contains(err.Error(), "newer wal-e") {
		t.Errorf("DecodeObject with a flag of a newer program = %v", err)
	}
}

// numbers encodes uvarints.
func numbers(n ...uint64) []byte {
	var b []byte
	for _, v := range n {
		b = binary.AppendUvarint(b, v)
	}
	return b
}

// What a body says of its own length is believed only as far as there is one.
func TestDecodeObjectRefuses(t *testing.T) { // not in parallel: it looks at what is allocated
	oneChunk := func(length uint64) []byte {
		return append(append(numbers(1, 0, 1000, 1, 20, 900, 1), make([]byte, chunk.HashSize)...), numbers(length)...)
	}
	for _, tt := range []struct {
		name string
		body []byte
	}{
		{"no body", nil},
		{"packs", numbers(1 << 40)},
		{"fewer packs", numbers(2, 0, 20, 0)},
		{"more bytes", numbers(1, 0, 20, 0, 0)},
		{"pack number", numbers(1, 1<<32, 20, 0)},
		{"pack size", numbers(1, 0, index.MaxPackSize+1, 0)},
		{"records", numbers(1, 0, 1000, 1<<22)},
		{"too many records", append(numbers(1, 0, 1000, 1<<22+1), make([]byte, 100)...)},
		{"huge number of records", numbers(1, 0, 1000, math.MaxUint64)},
		{"record outside", numbers(1, 0, 1000, 1, 1001, 0, 0)},
		{"record ends outside", numbers(1, 0, 1000, 1, 500, 501, 0)},
		{"chunks", numbers(1, 0, 1000, 1, 20, 100, 1<<16)},
		{"too many chunks", append(numbers(1, 0, 1000, 1, 20, 100, 1<<16+1), make([]byte, 1<<21)...)},
		{"chunk without id", numbers(1, 0, 1000, 1, 20, 100, 1, 0, 0)},
		{"chunk too long", oneChunk(chunk.MaxSize + 1)},
		{"number without end", bytes.Repeat([]byte{0x80}, 12)},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		got, err := index.DecodeObject(sealed(0, tt.body))
		runtime.ReadMemStats(&after)
		if !errors.Is(err, index.ErrDamaged) {
			t.Errorf("%s: DecodeObject = %+v, %v, want %v", tt.name, got, err, index.ErrDamaged)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 16<<20 {
			t.Errorf("%s: DecodeObject of %d bytes allocates %d", tt.name, len(tt.body), n)
		}
	}
	if _, err := index.DecodeObject(sealed(0, oneChunk(chunk.MaxSize))); err != nil {
		t.Errorf("DecodeObject of the longest chunk: %v", err)
	}
}

func FuzzDecodeObject(f *testing.F) {
	f.Add(numbers(0))
	f.Add(index.EncodeObject(goldenPacks())[20 : len(index.EncodeObject(goldenPacks()))-4])
	f.Fuzz(func(t *testing.T, body []byte) {
		packs, err := index.DecodeObject(sealed(0, body))
		if err != nil {
			return
		}
		again, err := index.DecodeObject(index.EncodeObject(packs))
		if err != nil || !reflect.DeepEqual(again, packs) {
			t.Errorf("DecodeObject(EncodeObject(%+v)) = %+v, %v", packs, again, err)
		}
		for _, p := range packs {
			for _, r := range p.Records {
				if uint64(r.Offset)+uint64(r.Stored) > uint64(p.Size) || p.Size > index.MaxPackSize || r.Raw > index.MaxPackSize {
					t.Errorf("DecodeObject accepts record %+v in a pack of %d bytes", r, p.Size)
				}
			}
		}
	})
}

func FuzzParsePack(f *testing.F) {
	f.Add(index.AppendPack(nil, goldenPacks()[1]))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, rest, err := index.ParsePack(b)
		if err != nil {
			return
		}
		again, none, err := index.ParsePack(index.AppendPack(nil, p))
		if err != nil || len(none) != 0 || !reflect.DeepEqual(again, p) || !bytes.HasSuffix(b, rest) {
			t.Errorf("ParsePack(AppendPack(%+v)) = %+v, %d bytes, %v", p, again, len(none), err)
		}
	})
}

// Sealed and plain objects aren't taken for each other, and what can't be
// opened isn't read.
func TestDecodeSealed(t *testing.T) {
	t.Parallel()
	flip := func(b []byte) []byte {
		b = bytes.Clone(b)
		for i := range b {
			b[i] ^= 0x55
		}
		return b
	}
	open := func(b []byte) ([]byte, error) { return flip(b), nil }
	packs := []index.Pack{{Seq: 3, Size: 100, Records: []index.Record{}}}
	object := index.EncodeSealed(packs, flip)
	if got, err := index.DecodeSealed(object, open); err != nil || !reflect.DeepEqual(got, packs) {
		t.Errorf("DecodeSealed = %v, %v, want %v", got, err, packs)
	}
	if _, err := index.DecodeObject(object); err == nil {
		t.Error("DecodeObject read a sealed object")
	}
	if _, err := index.DecodeSealed(index.EncodeObject(packs), open); !errors.Is(err, index.ErrDamaged) {
		t.Errorf("DecodeSealed of a plain object = %v, want ErrDamaged", err)
	}
	broken := errors.New("broken")
	if _, err := index.DecodeSealed(object, func([]byte) ([]byte, error) { return nil, broken }); !errors.Is(err, broken) {
		t.Errorf("DecodeSealed = %v, want what open said", err)
	}
}

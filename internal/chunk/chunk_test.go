package chunk_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/zeebo/blake3"

	"wal-e/internal/chunk"
)

func testKey() [chunk.KeySize]byte {
	var key [chunk.KeySize]byte
	for i := range key {
		key[i] = byte(i + 1)
	}
	return key
}

func newHasher(t testing.TB) *chunk.Hasher {
	t.Helper()
	h, err := chunk.NewHasher(testKey())
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// counted returns n bytes that don't repeat soon.
func counted(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(uint32(i) * 2654435761 >> 24)
	}
	return b
}

// The ids of some chunks. They are what archives hold: a change here makes every
// archive unreadable.
func TestSumGolden(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		b    []byte
		want string
	}{
		{"empty", nil, "194a071488793a8bcd0cb78bed294bb5"},
		{"a byte", []byte("a"), "be71a075c30adf472603071319a9eab9"},
		{"a page less a byte", counted(chunk.PageSize - 1), "df80a7563f856ee6dd5f4eb19aa0e6ef"},
		{"a page", counted(chunk.PageSize), "fa68e0baeaff78d4a9f3fabf24e12987"},
		{"a page and a byte", counted(chunk.PageSize + 1), "a4f687fd2e1c341e4d49d12560800814"},
		{"three pages", counted(3 * chunk.PageSize), "d65e3bd5d421e6707537c99d46b9a483"},
		{"twelve pages", counted(12 * chunk.PageSize), "7b54d9eccd9f1b16c43abb5070220cf0"},
		{"a page of zeros", make([]byte, chunk.PageSize), "b2d9d565f52c28ac1df26146d81cf16d"},
	} {
		if got := newHasher(t).Sum(tt.b).String(); got != tt.want {
			t.Errorf("%s: Sum = %s, want %s", tt.name, got, tt.want)
		}
	}
}

// The definition of an id, in other words: the keyed hash of the length and of
// the keyed hashes of the pages, each with a key of its own.
func TestSumDefinition(t *testing.T) {
	t.Parallel()
	hash := func(context string, b []byte) []byte {
		key, sub := testKey(), make([]byte, chunk.KeySize)
		blake3.DeriveKey(context, key[:], sub)
		h, err := blake3.NewKeyed(sub)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = h.Write(b)
		return h.Sum(nil)[:chunk.HashSize]
	}
	for _, n := range []int{0, 1, chunk.PageSize, chunk.PageSize + 1, 5 * chunk.PageSize} {
		b := counted(n)
		list := binary.LittleEndian.AppendUint64(nil, uint64(n))
		var pages []chunk.PageHash
		for page := range slices.Chunk(b, chunk.PageSize) {
			sum := hash("wal-e 006 page hash", page)
			list = append(list, sum...)
			pages = append(pages, chunk.PageHash(sum))
		}
		want := chunk.ID(hash("wal-e 006 chunk id", list))
		h := newHasher(t)
		if got := h.Sum(b); got != want {
			t.Errorf("Sum of %d bytes = %s, want %s", n, got, want)
		}
		if got := h.Pages(nil, b); !slices.Equal(got, pages) {
			t.Errorf("Pages of %d bytes = %x, want %x", n, got, pages)
		}
		if got := h.ID(n, pages); got != want {
			t.Errorf("ID(%d) = %s, want %s", n, got, want)
		}
	}
}

// Ids differ when content, length, the order of pages or the key do.
func TestSumDiffers(t *testing.T) {
	t.Parallel()
	h := newHasher(t)
	b := counted(3 * chunk.PageSize)
	pages := h.Pages(nil, b)
	swapped := []chunk.PageHash{pages[1], pages[0], pages[2]}
	key := testKey()
	key[31]++
	other, err := chunk.NewHasher(key)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[chunk.ID]string{}
	for _, tt := range []struct {
		name string
		id   chunk.ID
	}{
		{"itself", h.Sum(b)},
		{"a length less", h.ID(len(b)-1, pages)},
		{"a page less", h.ID(len(b), pages[:2])},
		{"pages swapped", h.ID(len(b), swapped)},
		{"a byte less", h.Sum(b[:len(b)-1])},
		{"a zero more", h.Sum(append(bytes.Clone(b), 0))},
		{"a bit changed", h.Sum(append([]byte{b[0] ^ 1}, b[1:]...))},
		{"another key", other.Sum(b)},
		{"empty", h.Sum(nil)},
		{"a zero", h.Sum([]byte{0})},
		{"two zeros", h.Sum([]byte{0, 0})},
	} {
		if name, ok := seen[tt.id]; ok {
			t.Errorf("%q has the id of %q", tt.name, name)
		}
		seen[tt.id] = tt.name
	}
}

func TestPagesAppends(t *testing.T) {
	t.Parallel()
	h := newHasher(t)
	b := counted(2*chunk.PageSize + 100)
	all := h.Pages(nil, b)
	got := h.Pages(h.Pages(nil, b[:chunk.PageSize]), b[chunk.PageSize:])
	if len(all) != 3 || !slices.Equal(got, all) {
		t.Errorf("Pages in two steps = %x, want %x", got, all)
	}
}

func TestHasherClone(t *testing.T) {
	t.Parallel()
	h, b := newHasher(t), counted(20*chunk.PageSize)
	want := h.Sum(b)
	var wg sync.WaitGroup
	for range 4 {
		c := h.Clone()
		wg.Go(func() {
			for range 10 {
				if got := c.Sum(b); got != want {
					t.Errorf("Sum of a clone = %s, want %s", got, want)
				}
			}
		})
	}
	wg.Wait()
}

func TestNewHasherRefusesNoKey(t *testing.T) {
	t.Parallel()
	if _, err := chunk.NewHasher([chunk.KeySize]byte{}); err == nil {
		t.Error("NewHasher takes a key of zeros")
	}
}

func TestParseID(t *testing.T) {
	t.Parallel()
	const good = "000102030405060708090a0b0c0d0eff"
	if id, err := chunk.ParseID(good); err != nil || id.String() != good || id[1] != 1 || id[15] != 0xFF {
		t.Errorf("ParseID(%s) = %s, %v", good, id, err)
	}
	for _, bad := range []string{"", good[:30], good[:31], good + "00", good[:31] + "g", " " + good[1:], "0x" + good[2:]} {
		if id, err := chunk.ParseID(bad); err == nil {
			t.Errorf("ParseID(%q) = %s, want an error", bad, id)
		}
	}
}

func FuzzParseID(f *testing.F) {
	f.Add("000102030405060708090a0b0c0d0eff")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := chunk.ParseID(s)
		if err == nil && id.String() != strings.ToLower(s) {
			t.Errorf("ParseID(%q) = %s", s, id)
		}
	})
}

func BenchmarkSum(b *testing.B) {
	for _, pages := range []int{1, 4, 16} {
		data := counted(pages * chunk.PageSize)
		b.Run(fmt.Sprintf("%dpages", pages), func(b *testing.B) {
			h := newHasher(b)
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				h.Sum(data)
			}
		})
	}
}

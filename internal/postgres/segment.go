package postgres

import (
	"fmt"
	"iter"
)

// A SegmentSize is the size of a WAL segment file in bytes: a power of two from
// 1 MB to 1 GB, fixed by initdb. It is read from pg_control or a segment's first
// page and passed along.
type SegmentSize uint32

// The bounds of a segment size, and what initdb takes unless told.
const (
	MinSegmentSize     SegmentSize = 1 << 20
	DefaultSegmentSize SegmentSize = 16 << 20
	MaxSegmentSize     SegmentSize = 1 << 30
)

// Check returns an error unless PostgreSQL accepts the size
// (IsValidWalSegSize in xlog_internal.h).
func (size SegmentSize) Check() error {
	if size < MinSegmentSize || size > MaxSegmentSize || size&(size-1) != 0 {
		return fmt.Errorf("postgres: %d is not a WAL segment size: want a power of two from 1 MB to 1 GB", uint32(size))
	}
	return nil
}

// Offset returns the position of lsn within its segment.
func (size SegmentSize) Offset(lsn LSN) uint32 {
	return uint32(lsn) & (uint32(size) - 1)
}

// perLog is how many segments share the middle eight digits of a name
// (XLogSegmentsPerXLogId).
func (size SegmentSize) perLog() uint64 { return 1 << 32 / uint64(size) }

// A Segment is one WAL segment of a timeline. What bytes it holds depends on the
// cluster's segment size, as does its name.
type Segment struct {
	Timeline Timeline
	No       uint64 // counts segments from LSN 0
}

// SegmentAt returns the segment that holds the byte at lsn (XLByteToSeg): where
// reading from lsn begins.
func SegmentAt(tl Timeline, lsn LSN, size SegmentSize) Segment {
	return Segment{tl, uint64(lsn) / uint64(size)}
}

// SegmentBefore returns the segment that holds the last byte before lsn
// (XLByteToPrevSeg): the last one needed to read up to lsn, which at a boundary
// is not the one that begins there.
func SegmentBefore(tl Timeline, lsn LSN, size SegmentSize) Segment {
	return SegmentAt(tl, max(lsn, 1)-1, size)
}

// Segments yields the segments of tl that hold the WAL from start up to, and not
// including, stop. It yields none when stop is not after start.
func Segments(tl Timeline, start, stop LSN, size SegmentSize) iter.Seq[Segment] {
	return func(yield func(Segment) bool) {
		if stop <= start {
			return
		}
		last := SegmentBefore(tl, stop, size)
		for seg := SegmentAt(tl, start, size); seg.No <= last.No; seg = seg.Next() {
			if !yield(seg) {
				return
			}
		}
	}
}

// ParseSegment parses the 24 hexadecimal digits of a segment's file name, upper
// case as PostgreSQL writes them.
func ParseSegment(name string, size SegmentSize) (Segment, error) {
	if err := size.Check(); err != nil {
		return Segment{}, err
	}
	if !isSegmentName(name) {
		return Segment{}, fmt.Errorf("postgres: %q is not a segment name: want 24 hexadecimal digits, upper case", name)
	}
	tl, _ := parseHex(name[:8])
	log, _ := parseHex(name[8:16])
	seg, _ := parseHex(name[16:])
	if tl == 0 {
		return Segment{}, fmt.Errorf("postgres: %q is not a segment name: there is no timeline 0", name)
	}
	if uint64(seg) >= size.perLog() {
		return Segment{}, fmt.Errorf("postgres: %q is not a segment name: with segments of %d bytes the last eight digits end at %08X",
			name, uint32(size), size.perLog()-1)
	}
	return Segment{Timeline(tl), uint64(log)*size.perLog() + uint64(seg)}, nil
}

// isSegmentName is IsXLogFileName of xlog_internal.h.
func isSegmentName(name string) bool {
	return len(name) == 24 && isUpperHex(name)
}

// isUpperHex reports whether s has hexadecimal digits only, as PostgreSQL writes them.
func isUpperHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'A' || c > 'F') {
			return false
		}
	}
	return true
}

// Name returns the segment's file name (XLogFileName).
func (s Segment) Name(size SegmentSize) string {
	return fmt.Sprintf("%08X%08X%08X", uint32(s.Timeline), s.No/size.perLog(), s.No%size.perLog())
}

// Start returns the segment's first position. Its end is the start of Next.
func (s Segment) Start(size SegmentSize) LSN { return LSN(s.No * uint64(size)) }

// Next returns the segment that follows on the same timeline.
func (s Segment) Next() Segment { return Segment{s.Timeline, s.No + 1} }

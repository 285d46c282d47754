package postgres

import (
	"encoding/binary"
	"math/bits"

	"wal-e/internal/fault"
)

// The sizes of XLogPageHeaderData and XLogLongPageHeaderData. WALHeaderSize bytes
// are what ParseWALHeader needs.
const (
	walPageHeaderSize = 24
	walLongHeaderSize = 40
	WALHeaderSize     = walLongHeaderSize
)

// A WALHeader is the long header of a WAL segment's first page
// (XLogLongPageHeaderData in xlog_internal.h).
type WALHeader struct {
	Magic        uint16 // changes with the WAL's format: see Version
	Timeline     Timeline
	PageAddr     LSN // where the segment begins
	SystemID     SystemID
	SegmentSize  SegmentSize
	WALBlockSize uint32
}

// ParseWALHeader parses the first bytes of a segment. It refuses what is not a
// segment's beginning, but not the magic of a release it doesn't know.
func ParseWALHeader(b []byte) (WALHeader, error) {
	const longHeader, allFlags = 0x0002, 0x000F
	if len(b) < WALHeaderSize {
		return WALHeader{}, fault.BadSegment.Errorf("postgres: WAL segment has %d bytes: want at least %d", len(b), WALHeaderSize)
	}
	h := WALHeader{
		Magic:        binary.LittleEndian.Uint16(b),
		Timeline:     Timeline(binary.LittleEndian.Uint32(b[4:])),
		PageAddr:     LSN(binary.LittleEndian.Uint64(b[8:])),
		SystemID:     SystemID(binary.LittleEndian.Uint64(b[24:])),
		SegmentSize:  SegmentSize(binary.LittleEndian.Uint32(b[32:])),
		WALBlockSize: binary.LittleEndian.Uint32(b[36:]),
	}
	flags := binary.LittleEndian.Uint16(b[2:])
	switch {
	case h.Magic == 0:
		return WALHeader{}, fault.BadSegment.Errorf("postgres: WAL segment begins with zeros: it was never written")
	case !isWALMagic(h.Magic) && isWALMagic(bits.ReverseBytes16(h.Magic)):
		return WALHeader{}, fault.BadSegment.Errorf("postgres: WAL segment is big-endian: clusters of little-endian machines only are supported")
	case !isWALMagic(h.Magic):
		return WALHeader{}, fault.BadSegment.Errorf("postgres: WAL segment begins with %04X, which is no WAL page", h.Magic)
	case flags&longHeader == 0 || flags&^allFlags != 0:
		return WALHeader{}, fault.BadSegment.Errorf("postgres: WAL segment's first page has flags %04X: want those of a segment's beginning", flags)
	case h.Timeline == 0 || h.SystemID == 0:
		return WALHeader{}, fault.BadSegment.Errorf("postgres: WAL segment's first page has no timeline or system identifier")
	case !isPageSize(h.WALBlockSize, 64<<10):
		return WALHeader{}, fault.BadSegment.Errorf("postgres: WAL segment has block size %d", h.WALBlockSize)
	}
	if err := h.SegmentSize.Check(); err != nil {
		return WALHeader{}, err
	}
	if h.SegmentSize.Offset(h.PageAddr) != 0 {
		return WALHeader{}, fault.BadSegment.Errorf("postgres: WAL segment says it begins at %s, which is no multiple of its size %d", h.PageAddr, h.SegmentSize)
	}
	return h, nil
}

// isWALMagic accepts what XLOG_PAGE_MAGIC has been since 2000, and some years to come.
func isWALMagic(m uint16) bool { return m>>8 == 0xD0 || m>>8 == 0xD1 }

// Version returns the major release whose format the segment has, zero if unknown.
func (h WALHeader) Version() Version {
	switch h.Magic {
	case 0xD093:
		return V9_6
	case 0xD097:
		return V10
	case 0xD098:
		return V11
	case 0xD101:
		return V12
	case 0xD106:
		return V13
	case 0xD10D:
		return V14
	case 0xD110:
		return V15
	case 0xD113:
		return V16
	case 0xD116:
		return V17
	case 0xD118:
		return V18
	}
	return 0
}

// CheckName returns an error unless a segment with this header can have that
// name, which may end in ".partial". A timeline's first segment is a copy of its
// parent's, so the header's timeline may be lower than the name's.
func (h WALHeader) CheckName(name string) (Segment, error) {
	f := ParseWALFile(name)
	if f.Kind != SegmentFile && f.Kind != PartialFile {
		return Segment{}, fault.BadSegment.Errorf("postgres: %q is not a segment name", name)
	}
	seg, err := ParseSegment(f.Segment, h.SegmentSize)
	if err != nil {
		return Segment{}, err
	}
	if start := seg.Start(h.SegmentSize); start != h.PageAddr {
		return Segment{}, fault.BadSegment.Errorf("postgres: WAL segment %s should begin at %s but its first page says %s: the file was misnamed or recycled",
			name, start, h.PageAddr)
	}
	if h.Timeline > seg.Timeline {
		return Segment{}, fault.BadSegment.Errorf("postgres: WAL segment %s holds timeline %d: want at most %d", name, h.Timeline, seg.Timeline)
	}
	return seg, nil
}

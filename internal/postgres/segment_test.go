package postgres_test

import (
	"math"
	"slices"
	"strings"
	"testing"

	"wal-e/internal/postgres"
)

const (
	mb = 1 << 20
	gb = 1 << 30
)

var sizes = [...]postgres.SegmentSize{mb, 16 * mb, 64 * mb, gb}

func TestLSN(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want postgres.LSN
		out  string
	}{
		{"0/0", 0, "0/0"},
		{"16/B374D848", 0x16B374D848, "16/B374D848"},
		{"16/b374d848", 0x16B374D848, "16/B374D848"},
		{"0/00000028", 0x28, "0/28"},
		{"FFFFFFFF/FFFFFFFF", postgres.MaxLSN, "FFFFFFFF/FFFFFFFF"},
	} {
		got, err := postgres.ParseLSN(tt.in)
		if err != nil || got != tt.want || got.String() != tt.out {
			t.Errorf("ParseLSN(%q) = %v, %v, want %s", tt.in, got, err, tt.out)
		}
	}
	for _, in := range []string{"", "/", "0/", "/0", "0", "0/0/0", "0x1/0", "+1/0", "1/-0", "1_0/0", "100000000/0", "0/123456789", " 0/0", "0/0\n", "G/0"} {
		if got, err := postgres.ParseLSN(in); err == nil {
			t.Errorf("ParseLSN(%q) = %v, want an error", in, got)
		}
	}
}

func TestTimelineAndSystemID(t *testing.T) {
	if tl, err := postgres.ParseTimeline("4294967295"); err != nil || tl != math.MaxUint32 {
		t.Errorf("ParseTimeline(4294967295) = %d, %v", tl, err)
	}
	if got, want := postgres.Timeline(10).HistoryName(), "0000000A.history"; got != want {
		t.Errorf("HistoryName = %q, want %q", got, want)
	}
	if id, err := postgres.ParseSystemID("7711102949736948969"); err != nil || id.String() != "7711102949736948969" {
		t.Errorf("ParseSystemID = %v, %v", id, err)
	}
	for _, in := range []string{"", "0", "-1", "4294967296", "1 ", "0x1"} {
		if tl, err := postgres.ParseTimeline(in); err == nil {
			t.Errorf("ParseTimeline(%q) = %d, want an error", in, tl)
		}
	}
	for _, in := range []string{"", "0", "01", "-1", "18446744073709551616", "a"} {
		if id, err := postgres.ParseSystemID(in); err == nil {
			t.Errorf("ParseSystemID(%q) = %v, want an error", in, id)
		}
	}
}

func TestSegmentNames(t *testing.T) {
	const tl = 0x1F
	for _, tt := range []struct {
		size   postgres.SegmentSize
		lsn    postgres.LSN
		name   string
		offset uint32
	}{
		{mb, 0, "0000001F0000000000000000", 0},
		{mb, mb - 8192, "0000001F0000000000000000", mb - 8192},
		{mb, mb, "0000001F0000000000000001", 0},
		{mb, 0x2_FFF00000, "0000001F0000000200000FFF", 0},
		{mb, 0x2_FFFFE000, "0000001F0000000200000FFF", mb - 8192},
		{mb, 0x3_00000000, "0000001F0000000300000000", 0},
		{16 * mb, 0x2000028, "0000001F0000000000000002", 0x28},
		{16 * mb, 0x2_FFFFE000, "0000001F00000002000000FF", 16*mb - 8192},
		{16 * mb, 0x3_00000000, "0000001F0000000300000000", 0},
		{64 * mb, 0x2_FC000000, "0000001F000000020000003F", 0},
		{64 * mb, 0x2_FFFFE000, "0000001F000000020000003F", 64*mb - 8192},
		{64 * mb, 0x3_00000000, "0000001F0000000300000000", 0},
		{gb, 0x2_C0000000, "0000001F0000000200000003", 0},
		{gb, 0x2_FFFFE000, "0000001F0000000200000003", gb - 8192},
		{gb, 0x3_00000000, "0000001F0000000300000000", 0},
		{mb, postgres.MaxLSN, "0000001FFFFFFFFF00000FFF", mb - 1},
		{gb, postgres.MaxLSN, "0000001FFFFFFFFF00000003", gb - 1},
	} {
		seg := postgres.SegmentAt(tl, tt.lsn, tt.size)
		if got := seg.Name(tt.size); got != tt.name {
			t.Errorf("SegmentAt(%s, %d).Name = %s, want %s", tt.lsn, tt.size, got, tt.name)
		}
		if got := tt.size.Offset(tt.lsn); got != tt.offset {
			t.Errorf("SegmentSize(%d).Offset(%s) = %d, want %d", tt.size, tt.lsn, got, tt.offset)
		}
		if got := seg.Start(tt.size); got != tt.lsn-postgres.LSN(tt.offset) {
			t.Errorf("Start of %s = %s, want %s", tt.name, got, tt.lsn-postgres.LSN(tt.offset))
		}
		if got, err := postgres.ParseSegment(tt.name, tt.size); err != nil || got != seg {
			t.Errorf("ParseSegment(%s, %d) = %v, %v, want %v", tt.name, tt.size, got, err, seg)
		}
	}
}

func TestParseSegmentRefuses(t *testing.T) {
	for _, tt := range []struct {
		name string
		size postgres.SegmentSize
		want string
	}{
		{"00000002.history", 16 * mb, "want 24 hexadecimal digits"},
		{"00000001000000000000000a", 16 * mb, "upper case"},
		{"0000000100000000000000010", 16 * mb, "want 24"},
		{"00000001000000000000000", 16 * mb, "want 24"},
		{"000000010000000000000001.partial", 16 * mb, "want 24"},
		{"", 16 * mb, "want 24"},
		{"000000000000000000000001", 16 * mb, "no timeline 0"},
		{"000000010000000000000100", 16 * mb, "end at 000000FF"},
		{"000000010000000000001000", mb, "end at 00000FFF"},
		{"000000010000000000000040", 64 * mb, "end at 0000003F"},
		{"000000010000000000000004", gb, "end at 00000003"},
		{"000000010000000000000001", 0, "power of two"},
		{"000000010000000000000001", 3 * mb, "power of two"},
		{"000000010000000000000001", mb / 2, "power of two"},
		{"000000010000000000000001", 2 * gb, "power of two"},
	} {
		if seg, err := postgres.ParseSegment(tt.name, tt.size); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("ParseSegment(%q, %d) = %v, %v, want an error with %q", tt.name, tt.size, seg, err, tt.want)
		}
	}
}

// At a boundary a range ends in the segment before, and starts in the one that begins there.
func TestSegments(t *testing.T) {
	names := func(start, stop postgres.LSN, size postgres.SegmentSize) []string {
		var got []string
		for seg := range postgres.Segments(3, start, stop, size) {
			got = append(got, seg.Name(size)[8:])
		}
		return got
	}
	for _, size := range sizes {
		s := postgres.LSN(size)
		for _, tt := range []struct {
			name        string
			start, stop postgres.LSN
			first, n    uint64
		}{
			{"within one", 2*s + 40, 2*s + 300, 2, 1},
			{"whole segment", 2 * s, 3 * s, 2, 1},
			{"ends at a boundary", 2*s + 40, 3 * s, 2, 1},
			{"ends one byte on", 2*s + 40, 3*s + 1, 2, 2},
			{"ends behind the page header", 2*s + 40, 3*s + 40, 2, 2},
			{"last page to last page", 3*s - 8192, 5*s - 8192, 2, 3},
			{"last byte", 3*s - 1, 3 * s, 2, 1},
			{"across logs", 1<<32 - 1, 1<<32 + 1, 1<<32/uint64(size) - 1, 2},
			{"from the beginning", 0, 1, 0, 1},
			{"end of all positions", postgres.MaxLSN - 1, postgres.MaxLSN, math.MaxUint64 / uint64(size), 1},
		} {
			var want []string
			for i := range tt.n {
				want = append(want, postgres.Segment{Timeline: 3, No: tt.first + i}.Name(size)[8:])
			}
			if got := names(tt.start, tt.stop, size); !slices.Equal(got, want) {
				t.Errorf("size %d, %s: Segments(%s, %s) = %v, want %v", size, tt.name, tt.start, tt.stop, got, want)
			}
		}
		for _, stop := range []postgres.LSN{0, 2 * s, 2*s + 8} {
			if got := names(2*s+8, stop, size); got != nil {
				t.Errorf("size %d: Segments(%s, %s) = %v, want none", size, 2*s+8, stop, got)
			}
		}
		for seg := range postgres.Segments(3, 0, postgres.MaxLSN, size) {
			if seg.No == 5 {
				break
			}
		}
		if got := postgres.SegmentBefore(1, 0, size); got.No != 0 {
			t.Errorf("SegmentBefore(0) = %v, want segment 0", got)
		}
	}
}

func TestParseWALFile(t *testing.T) {
	const seg = "0000000A00000002000000FF"
	for _, tt := range []struct {
		name string
		want postgres.WALFile
	}{
		{seg, postgres.WALFile{Kind: postgres.SegmentFile, Timeline: 10, Segment: seg}},
		{seg + ".partial", postgres.WALFile{Kind: postgres.PartialFile, Timeline: 10, Segment: seg}},
		{seg + ".00FFFF28.backup", postgres.WALFile{Kind: postgres.BackupHistoryFile, Timeline: 10, Segment: seg, Offset: 0xFFFF28}},
		{"0000000A.history", postgres.WALFile{Kind: postgres.HistoryFile, Timeline: 10}},
	} {
		if got := postgres.ParseWALFile(tt.name); got != tt.want {
			t.Errorf("ParseWALFile(%q) = %+v, want %+v", tt.name, got, tt.want)
		}
	}
	for _, name := range []string{
		"", ".", ".history", ".partial", "0000000a.history", "00000000.history", "000000001.history", "0000000A.history.tmp",
		seg + ".", seg + "0", seg + ".28.backup", seg + ".0000002g.backup", seg + ".000000028.backup", seg + ".00000028.backup2",
		seg + "_00000028.backup", seg + ".partial.partial", seg + ".gz", "x" + seg, strings.ToLower(seg),
		"00000000" + seg[8:], "../" + seg, "RECOVERYXLOG", "archive_status", "0000000A.histor", seg[:23],
	} {
		if got := postgres.ParseWALFile(name); got != (postgres.WALFile{}) {
			t.Errorf("ParseWALFile(%q) = %+v, want an other file", name, got)
		}
	}
}

func FuzzNames(f *testing.F) {
	f.Add("0000000A00000002000000FF", uint32(16*mb))
	f.Add("0000000A00000002000000FF.partial", uint32(mb))
	f.Add("0000000A00000002000000FF.00000028.backup", uint32(gb))
	f.Add("0000000A.history", uint32(64*mb))
	f.Add("16/B374D848", uint32(16*mb))
	f.Fuzz(func(t *testing.T, name string, n uint32) {
		size := postgres.SegmentSize(n)
		if seg, err := postgres.ParseSegment(name, size); err == nil {
			if got := seg.Name(size); got != name {
				t.Errorf("ParseSegment(%q).Name() = %q", name, got)
			}
			if got := postgres.SegmentAt(seg.Timeline, seg.Start(size), size); got != seg {
				t.Errorf("SegmentAt(Start of %v) = %v", seg, got)
			}
			if got := postgres.ParseWALFile(name).Kind; got != postgres.SegmentFile {
				t.Errorf("ParseWALFile(%q).Kind = %v, want a segment", name, got)
			}
		}
		if w := postgres.ParseWALFile(name); w.Kind == postgres.HistoryFile && w.Timeline.HistoryName() != name {
			t.Errorf("HistoryName of %q = %q", name, w.Timeline.HistoryName())
		}
		if lsn, err := postgres.ParseLSN(name); err == nil {
			if back, err := postgres.ParseLSN(lsn.String()); err != nil || back != lsn {
				t.Errorf("ParseLSN(%q) = %v, %v, want %v", lsn.String(), back, err, lsn)
			}
		}
		_, _ = postgres.ParseTimeline(name)
		_, _ = postgres.ParseSystemID(name)
		if v, err := postgres.ParseVersion(name); err == nil {
			if back, err := postgres.ParseVersion(v.Major()); err != nil || back != v {
				t.Errorf("ParseVersion(%q) = %v, %v, want %v", v.Major(), back, err, v)
			}
		}
	})
}

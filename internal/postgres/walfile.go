package postgres

import "strings"

// A WALFileKind says what a file of pg_wal is, by its name.
type WALFileKind int

// The kinds of WAL files that PostgreSQL archives. OtherFile is everything else.
const (
	OtherFile         WALFileKind = iota
	SegmentFile                   // 000000010000000000000002
	PartialFile                   // 000000010000000000000002.partial, left by a promotion
	BackupHistoryFile             // 000000010000000000000002.00000028.backup
	HistoryFile                   // 00000002.history
)

func (k WALFileKind) String() string {
	switch k {
	case SegmentFile:
		return "segment"
	case PartialFile:
		return "partial segment"
	case BackupHistoryFile:
		return "backup history file"
	case HistoryFile:
		return "timeline history file"
	}
	return "unknown file"
}

// A WALFile is what the name of a WAL file says. Whether Segment exists in the
// cluster's segment size is for ParseSegment to tell.
type WALFile struct {
	Kind     WALFileKind
	Timeline Timeline
	Segment  string // the 24 digits; empty for HistoryFile and OtherFile
	Offset   uint32 // BackupHistoryFile only: where in Segment the backup starts
}

// ParseWALFile classifies a file name without folder. A name that PostgreSQL
// would not archive is an OtherFile with every other field zero.
func ParseWALFile(name string) WALFile {
	if digits, ok := strings.CutSuffix(name, ".history"); ok {
		if len(digits) != 8 || !isUpperHex(digits) {
			return WALFile{}
		}
		tl, _ := parseHex(digits)
		return walFile(HistoryFile, tl, "", 0)
	}
	if len(name) < 24 || !isSegmentName(name[:24]) {
		return WALFile{}
	}
	seg, rest := name[:24], name[24:]
	tl, _ := parseHex(seg[:8])
	switch {
	case rest == "":
		return walFile(SegmentFile, tl, seg, 0)
	case rest == ".partial":
		return walFile(PartialFile, tl, seg, 0)
	case len(rest) == len(".00000028.backup") && rest[0] == '.' && rest[9:] == ".backup" && isUpperHex(rest[1:9]):
		offset, _ := parseHex(rest[1:9])
		return walFile(BackupHistoryFile, tl, seg, offset)
	}
	return WALFile{}
}

func walFile(kind WALFileKind, tl uint32, seg string, offset uint32) WALFile {
	if tl == 0 {
		return WALFile{}
	}
	return WALFile{kind, Timeline(tl), seg, offset}
}

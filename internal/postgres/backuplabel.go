package postgres

import (
	"fmt"
	"strings"

	"wal-e/internal/fault"
)

// A BackupLabel is the content of backup_label (build_backup_content in
// xlogbackup.c, before 16 in xlog.c).
type BackupLabel struct {
	Start      LSN    // where recovery begins
	StartFile  string // the segment that holds it
	Timeline   Timeline
	Checkpoint LSN
	Method     string // "streamed", or "pg_start_backup" of an exclusive backup
	From       string // "primary" (before 14 "master") or "standby"
	StartTime  string // as the server's log_timezone writes it
	Label      string // its first line

	// Since 17 an incremental backup names the backup it builds on. It can't be
	// started without pg_combinebackup.
	IncrementalFrom         LSN
	IncrementalFromTimeline Timeline
}

// ParseBackupLabel parses backup_label. Lines that it doesn't know are left alone.
func ParseBackupLabel(b []byte) (BackupLabel, error) {
	l, err := parseLabelLines(labelLines(b))
	if err != nil {
		return BackupLabel{}, fmt.Errorf("postgres: backup_label: %w", err)
	}
	return l, nil
}

// A BackupHistory is the content of a backup history file, whose name ends in
// ".backup": a backup_label and where the backup ended.
type BackupHistory struct {
	BackupLabel
	Stop         LSN
	StopFile     string
	StopTime     string
	StopTimeline Timeline // zero before 11
}

// ParseBackupHistory parses a backup history file.
func ParseBackupHistory(b []byte) (BackupHistory, error) {
	h, err := parseHistoryLines(labelLines(b))
	if err != nil {
		return BackupHistory{}, fmt.Errorf("postgres: backup history file: %w", err)
	}
	return h, nil
}

func parseHistoryLines(lines map[string]string) (h BackupHistory, err error) {
	if h.BackupLabel, err = parseLabelLines(lines); err != nil {
		return h, err
	}
	if h.Stop, h.StopFile, err = parseLocation(lines["STOP WAL LOCATION"]); err != nil {
		return h, fmt.Errorf("STOP WAL LOCATION: %w", err)
	}
	h.StopTime = lines["STOP TIME"]
	h.StopTimeline, err = parseOptionalTimeline(lines, "STOP TIMELINE")
	return h, err
}

// labelLines returns the values of the lines "KEY: value". Of a key that comes
// twice the first counts, as it does for PostgreSQL.
func labelLines(b []byte) map[string]string {
	lines := map[string]string{}
	for line := range strings.Lines(string(b)) {
		key, value, ok := strings.Cut(strings.TrimRight(line, "\r\n"), ": ")
		if _, seen := lines[key]; ok && !seen {
			lines[key] = value
		}
	}
	return lines
}

func parseLabelLines(lines map[string]string) (l BackupLabel, err error) {
	if l.Start, l.StartFile, err = parseLocation(lines["START WAL LOCATION"]); err != nil {
		return l, fmt.Errorf("START WAL LOCATION: %w", err)
	}
	if l.Checkpoint, err = ParseLSN(lines["CHECKPOINT LOCATION"]); err != nil {
		return l, fmt.Errorf("CHECKPOINT LOCATION: %w", err)
	}
	l.Method = lines["BACKUP METHOD"]
	l.From = lines["BACKUP FROM"]
	l.StartTime = lines["START TIME"]
	l.Label = lines["LABEL"]

	l.Timeline = ParseWALFile(l.StartFile).Timeline
	stated, err := parseOptionalTimeline(lines, "START TIMELINE") // since 11
	if err != nil {
		return l, err
	}
	if stated != 0 && stated != l.Timeline {
		return l, fault.BadControl.Errorf("START TIMELINE is %d, but the backup starts in segment %s", stated, l.StartFile)
	}
	if from, ok := lines["INCREMENTAL FROM LSN"]; ok {
		if l.IncrementalFrom, err = ParseLSN(from); err != nil {
			return l, fmt.Errorf("INCREMENTAL FROM LSN: %w", err)
		}
		l.IncrementalFromTimeline, err = parseOptionalTimeline(lines, "INCREMENTAL FROM TLI")
	}
	return l, err
}

// parseLocation parses "0/2000028 (file 000000010000000000000002)".
func parseLocation(s string) (LSN, string, error) {
	location, file, _ := strings.Cut(s, " (file ")
	lsn, err := ParseLSN(location)
	if err != nil {
		return 0, "", err
	}
	file, ok := strings.CutSuffix(file, ")")
	if !ok || ParseWALFile(file).Kind != SegmentFile {
		return 0, "", fault.BadControl.Errorf("%q names no WAL segment", s)
	}
	return lsn, file, nil
}

func parseOptionalTimeline(lines map[string]string, key string) (Timeline, error) {
	s, ok := lines[key]
	if !ok {
		return 0, nil
	}
	tl, err := ParseTimeline(s)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", key, err)
	}
	return tl, nil
}

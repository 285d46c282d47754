package postgres_test

import (
	"strings"
	"testing"

	"wal-e/internal/postgres"
)

const label13 = `START WAL LOCATION: 2/2000028 (file 000000010000000200000002)
CHECKPOINT LOCATION: 2/2000060
BACKUP METHOD: streamed
BACKUP FROM: master
START TIME: 2026-11-22 21:06:49 UTC
LABEL: nightly: host a
START TIMELINE: 1
`

func TestParseBackupLabel(t *testing.T) {
	want := postgres.BackupLabel{Start: 0x2_02000028, StartFile: "000000010000000200000002", Timeline: 1, Checkpoint: 0x2_02000060,
		Method: "streamed", From: "master", StartTime: "2026-11-22 21:06:49 UTC", Label: "nightly: host a"}
	old, _, _ := strings.Cut(label13, "START TIMELINE")
	standby := want
	standby.From = "standby"
	multi := want
	multi.Label = "a"
	empty := want
	empty.Label = ""
	incremental := want
	incremental.IncrementalFrom, incremental.IncrementalFromTimeline = 0x1_00000028, 1
	for _, tt := range []struct {
		name, label string
		want        postgres.BackupLabel
	}{
		{"13", label13, want},
		{"before 11", old, want},
		{"standby", strings.Replace(label13, "master", "standby", 1), standby},
		{"CR LF", strings.ReplaceAll(label13, "\n", "\r\n"), want},
		{"no last line end", strings.TrimSuffix(label13, "\n"), want},
		{"label with a line end", strings.Replace(label13, "nightly: host a", "a\nSTART WAL LOCATION: 0/0\nb", 1), multi},
		{"empty label", strings.Replace(label13, "nightly: host a", "", 1), empty},
		{"17, incremental", label13 + "INCREMENTAL FROM LSN: 1/28\nINCREMENTAL FROM TLI: 1\n", incremental},
	} {
		if got, err := postgres.ParseBackupLabel([]byte(tt.label)); err != nil || got != tt.want {
			t.Errorf("%s: ParseBackupLabel = %+v, %v\nwant %+v", tt.name, got, err, tt.want)
		}
	}
}

func TestParseBackupLabelRefuses(t *testing.T) {
	for _, tt := range []struct{ name, old, new, want string }{
		{"empty", label13, "", "START WAL LOCATION"},
		{"no start", "START WAL", "STOP WAL", "START WAL LOCATION"},
		{"no file", " (file 000000010000000200000002)", "", "names no WAL segment"},
		{"no parenthesis", "2)", "2", "names no WAL segment"},
		{"history file", "000000010000000200000002", "00000001.history", "names no WAL segment"},
		{"no checkpoint", "CHECKPOINT", "X", "CHECKPOINT LOCATION"},
		{"bad timeline", "TIMELINE: 1", "TIMELINE: x", "START TIMELINE"},
		{"other timeline", "TIMELINE: 1", "TIMELINE: 2", "START TIMELINE is 2, but the backup starts in segment 000000010000000200000002"},
		{"bad increment", "LABEL: nightly: host a", "INCREMENTAL FROM LSN: x", "INCREMENTAL FROM LSN"},
	} {
		got, err := postgres.ParseBackupLabel([]byte(strings.Replace(label13, tt.old, tt.new, 1)))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: ParseBackupLabel = %+v, %v, want an error with %q", tt.name, got, err, tt.want)
		}
	}
}

func TestParseBackupHistory(t *testing.T) {
	const tail = "STOP TIME: 2026-11-22 21:07:00 UTC\nSTOP TIMELINE: 1\n"
	start, rest, _ := strings.Cut(label13, "\n")
	text := start + "\nSTOP WAL LOCATION: 2/2000100 (file 000000010000000200000002)\n" + rest + tail
	got, err := postgres.ParseBackupHistory([]byte(text))
	if err != nil || got.Start != 0x2_02000028 || got.Stop != 0x2_02000100 || got.StopFile != "000000010000000200000002" ||
		got.StopTime != "2026-11-22 21:07:00 UTC" || got.StopTimeline != 1 || got.Label != "nightly: host a" {
		t.Errorf("ParseBackupHistory = %+v, %v", got, err)
	}
	for _, bad := range []string{label13, tail, strings.Replace(text, "STOP TIMELINE: 1", "STOP TIMELINE: -", 1)} {
		if got, err := postgres.ParseBackupHistory([]byte(bad)); err == nil {
			t.Errorf("ParseBackupHistory(%q) = %+v, want an error", bad, got)
		}
	}
}

func FuzzParseBackupLabel(f *testing.F) {
	f.Add([]byte(label13))
	f.Add([]byte(label13 + "INCREMENTAL FROM LSN: 1/28\nINCREMENTAL FROM TLI: 1\n"))
	f.Add([]byte(label13 + "STOP WAL LOCATION: 2/2000100 (file 000000010000000200000002)\nSTOP TIMELINE: 1\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := postgres.ParseBackupLabel(b)
		if err == nil && l.Timeline != postgres.ParseWALFile(l.StartFile).Timeline {
			t.Errorf("ParseBackupLabel = %+v: the timelines differ", l)
		}
		if h, err2 := postgres.ParseBackupHistory(b); err2 == nil && (err != nil || h.BackupLabel != l) {
			t.Errorf("ParseBackupHistory = %+v, but ParseBackupLabel = %+v, %v", h, l, err)
		}
	})
}

package main

import (
	"os"
	"path/filepath"
	"strings"

	"wal-e/internal/postgres"
)

// standbyRequested reports whether the server of the data directory dir is a
// standby. A server before 12 is told by recovery.conf, any other, and one whose
// version can't be read, by standby.signal.
func standbyRequested(dir string) bool {
	if v, err := postgres.ReadVersion(dir); err == nil && v < postgres.V12 {
		b, err := os.ReadFile(filepath.Join(dir, "recovery.conf"))
		return err == nil && standbyMode(string(b))
	}
	_, err := os.Stat(filepath.Join(dir, "standby.signal"))
	return err == nil
}

// standbyMode returns standby_mode of a recovery.conf. The last line counts.
func standbyMode(conf string) bool {
	on := false
	for line := range strings.Lines(conf) {
		line, _, _ = strings.Cut(line, "#")
		line = strings.TrimSpace(line)
		end := strings.IndexAny(line, "= \t")
		if end < 0 || !strings.EqualFold(line[:end], "standby_mode") {
			continue
		}
		on = isTrue(strings.Trim(line[end:], "= \t'"))
	}
	return on
}

// isTrue reports whether PostgreSQL takes a setting as true: it may be shortened.
func isTrue(s string) bool {
	s = strings.ToLower(s)
	return s == "on" || s == "1" || s != "" && (strings.HasPrefix("true", s) || strings.HasPrefix("yes", s))
}

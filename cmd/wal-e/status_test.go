package main_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"wal-e/internal/pgtest"
)

// Status says how an archive is, and what is wrong with it.
func TestStatus(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	c := a.start(t, pgtest.Options{Major: 15})
	a.sh(t, "mkdir -p "+a.prefix)
	a.fails(t, c, 1, []string{"PROBLEM there is no base backup", "wal-e backup-push"}, "--terse", "status")
	a.push(t, c)
	c.Exec(t, "CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) i")
	gap := c.SwitchWAL(t)
	p := a.push(t, c)
	last := c.SwitchWAL(t)
	c.WaitArchived(t, last)
	a.fails(t, c, 0, []string{
		"last backup     " + p.Name + ", ", "backups         2; the last stored ", "newest WAL      " + last, "restores        any moment from ",
		" times the packs\n", "last drill        none", "0 WAL files to be archived", "no problems\n",
	}, "--terse", "status", c.Dir)

	// An open push, a drill that failed, a gap, an old backup, files that wait.
	writeText := func(path, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	outcomes, err := filepath.Glob(filepath.Join(a.prefix, "basebackups_006", p.Name, "*.outcome"))
	if err != nil || len(outcomes) != 1 {
		t.Fatalf("outcomes %v, %v", outcomes, err)
	}
	a.sh(t, "rm "+outcomes[0]+" "+filepath.Join(a.prefix, "wal_006", "*", gap))
	a.sh(t, "touch -d '3 days ago' "+strings.TrimSuffix(outcomes[0], "outcome")+"intent")
	a.fails(t, nil, 1, []string{"FAILED"}, "drill", "--scratch", pgtest.TempDir(t), "--pg-bindir", pgtest.Require(t, 15).Bin, "--no-amcheck", "--query", "SELECT 1 WHERE false")
	for _, name := range []string{"A", "B"} {
		writeText(filepath.Join(a.prefix, "data", "pg_wal", "archive_status", "00000001000000000000000"+name+".ready"), "")
	}
	r := a.run(t, c, "--terse", "status", "--json", "--max-backup-age", "1ms", "--max-backlog", "1", filepath.Join(a.prefix, "data"))
	var report struct {
		OK       bool
		Problems []struct{ Problem, Todo string }
		Open     []struct{ Stalled bool } `json:"open_pushes"`
		Waiting  int                      `json:"wal_waiting"`
	}
	if err := json.Unmarshal([]byte(r.stdout), &report); err != nil || r.code != 1 || report.OK || report.Waiting != 2 || len(report.Open) != 1 || !report.Open[0].Stalled {
		t.Errorf("status %d, %v: %s", r.code, err, r.stdout)
	}
	for _, want := range []string{"the last backup, ", "segments are missing: " + gap, "the push of " + p.Name, "the last drill", "2 WAL files wait"} {
		found := false
		for _, p := range report.Problems {
			found = found || strings.Contains(p.Problem, want) && p.Todo != ""
		}
		if !found {
			t.Errorf("no problem says %q: %s", want, r.stdout)
		}
	}
}

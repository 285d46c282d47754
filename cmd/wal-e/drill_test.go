package main_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wal-e/internal/pgtest"
)

// A drill restores, recovers, looks and cleans up, and leaves no trace but its
// record, whatever the cluster is set to do; a drill that fails says why.
func TestDrill(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, major int) {
		a := newArchive(t)
		// Settings that a copy must not act upon, and a library that isn't here.
		c := a.start(t, pgtest.Options{Major: major})
		inTablespace(t, c)
		c.Exec(t, "CREATE TABLE orders AS SELECT i, now() AS created FROM generate_series(1, 1000) i")
		c.Exec(t, "CREATE INDEX ON orders (i)")
		c.Exec(t, "ALTER SYSTEM SET recovery_end_command = 'touch "+c.Dir+"/reached'")
		c.Exec(t, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
		a.push(t, c)
		c.Exec(t, "SET synchronous_commit = local; INSERT INTO orders VALUES (1001, now())")
		c.WaitArchived(t, c.SwitchWAL(t))
		before := archived(t, a)

		scratch := pgtest.TempDir(t)
		bindir := "--pg-bindir=" + pgtest.Require(t, major).Bin
		drill := func(args ...string) []string {
			return append([]string{"--terse", "drill", "--scratch", scratch, bindir}, args...)
		}
		r := a.must(t, nil, drill("--query", "SELECT max(i), count(*) FROM orders")...)
		for _, w := range []string{": OK\n", "  restore ", "  recover ", "  check ", "amcheck\n", "1 row, the first: 1001 | 1001\n"} {
			if !strings.Contains(r.stdout, w) {
				t.Errorf("drill printed no %q:\n%s%s", w, r.stdout, r.stderr)
			}
		}
		records, err := filepath.Glob(filepath.Join(a.prefix, "drills_006", "*"))
		if err != nil || len(records) != 1 {
			t.Errorf("records %q, %v", records, err)
		}

		// To a time before the last row, as JSON; nothing is recorded.
		at := c.Query(t, "SELECT max(created) - interval '1 ms' FROM orders")
		r = a.must(t, nil, drill("--json", "--no-record", "--no-amcheck", "--target-time", strings.TrimSpace(at), "--query", "SELECT max(i) FROM orders")...)
		var report struct {
			OK    bool     `json:"ok"`
			First []string `json:"query_first_row"`
		}
		if err := json.Unmarshal([]byte(r.stdout), &report); err != nil || !report.OK || len(report.First) != 1 || report.First[0] != "1000" {
			t.Errorf("drill --json printed %s: %v", r.stdout, err)
		}

		a.fails(t, nil, 1, []string{": FAILED\n", "returned no row"}, drill("--no-amcheck", "--query", "SELECT 1 WHERE false")...)
		a.fails(t, nil, 1, []string{"query of the drill", "nothing_here"}, drill("--no-amcheck", "--query", "SELECT * FROM nothing_here")...)
		future := time.Now().Add(time.Hour).Format(time.RFC3339)
		a.fails(t, nil, 1, []string{"PostgreSQL ended during recovery", "recovery ended before configured recovery target was reached"},
			drill("--no-record", "--target-time", future)...)
		a.fails(t, nil, 1, []string{"no server of PostgreSQL", "--pg-bindir"}, "drill", "--scratch", scratch, "--pg-bindir", scratch)
		a.fails(t, nil, 1, []string{"Name another with --scratch"}, "drill", "--scratch", scratch+"/absent", bindir)

		if left, err := os.ReadDir(scratch); err != nil || len(left) > 0 {
			t.Errorf("left in the scratch folder: %v, %v", left, err)
		}
		if after := archived(t, a); after != before {
			t.Errorf("WAL files in the archive:\n%s\nbefore the drills:\n%s", after, before)
		}
		if _, err := os.Stat(filepath.Join(c.Dir, "reached")); err == nil {
			t.Error("the copy ran recovery_end_command")
		}
	})
}

// archived lists the WAL files of an archive.
func archived(t *testing.T, a *archive) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(a.prefix, "wal_006", "*", "*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("WAL files: %v, %v", files, err)
	}
	return strings.Join(files, "\n")
}

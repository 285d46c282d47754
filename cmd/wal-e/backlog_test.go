package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"wal-e/internal/pgtest"
)

// A server whose archive was away for a while catches up: PostgreSQL's archiver
// finds done what was pushed beside the file that it named, starts far fewer
// commands than there are segments, and misses none. All of it is replayed.
func TestBacklog(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, major int) {
		a := newArchive(t)
		log := filepath.Join(pgtest.TempDir(t), "calls")
		away := a.prefix + ".away"
		c := pgtest.Start(t, pgtest.Options{
			Major: major, SegmentSizeMB: 1, Env: a.env, Conf: map[string]string{"autovacuum": "off"},
			ArchiveCommand: fmt.Sprintf("test ! -e %s && echo %%f >> %s && %s --terse wal-push %%p", away, log, a.bin),
		})
		c.Exec(t, "CREATE TABLE written (i int, v text)")
		a.push(t, c)
		if err := os.WriteFile(away, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		var last string
		for part := range 16 {
			c.Exec(t, fmt.Sprintf("INSERT INTO written SELECT %d + i, repeat(md5(i::text), 24) FROM generate_series(1, 4000) i", part*4000))
			last = c.SwitchWAL(t)
		}
		want := c.Query(t, recoveryContents)
		ready, err := filepath.Glob(filepath.Join(c.Dir, "pg_wal/archive_status/*.ready"))
		if err != nil || len(ready) < 40 {
			t.Fatalf("%d segments wait (%v), want at least 40", len(ready), err)
		}
		if err := os.Rename(log, log+".before"); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(away); err != nil {
			t.Fatal(err)
		}
		c.WaitArchived(t, last)
		calls, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		n := strings.Count(string(calls), "\n")
		t.Logf("%d segments with %d commands", len(ready), n)
		if n >= len(ready) {
			t.Errorf("%d segments took %d commands", len(ready), n)
		}
		a.must(t, c, "wal-verify", "--read-data")
		c.Stop(t, pgtest.Immediate)
		dir := target(t)
		a.must(t, nil, "backup-fetch", "--recover", dir, "LATEST")
		r := a.adopt(t, dir)
		if got := r.Query(t, recoveryContents); got != want {
			t.Errorf("recovered:\n%s\nwant:\n%s", got, want)
		}
	})
}

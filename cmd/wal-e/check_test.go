package main_test

import (
	"encoding/json"
	"testing"

	"wal-e/internal/checkup"
	"wal-e/internal/pgtest"
)

// check tells what is wrong with a server, and that nothing is once it is mended.
func TestCheckServer(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, major int) {
		a := newArchive(t)
		c := a.start(t, pgtest.Options{Major: major, DataChecksums: true, Conf: map[string]string{"archive_timeout": "60s"}})
		c.WaitArchived(t, c.SwitchWAL(t))
		c.WaitFor(t, "SELECT archived_count > 0 FROM pg_stat_archiver", "t")
		a.push(t, c)
		r := a.must(t, c, "--terse", "check", "--json", c.Dir)
		var all struct{ Findings checkup.Findings }
		if err := json.Unmarshal([]byte(r.stdout), &all); err != nil || len(all.Findings) < 10 {
			t.Fatalf("check --json printed %q: %v", r.stdout, err)
		}
		for _, f := range all.Findings {
			// pgtest switches fsync off, which check rightly dislikes.
			if f.Status != checkup.OK && f.Check != "fsync" {
				t.Errorf("of a sound server: %+v", f)
			}
		}
		c.Exec(t, "ALTER SYSTEM SET archive_command = '/bin/false'")
		c.Exec(t, "SELECT pg_reload_conf()")
		c.SwitchWAL(t)
		c.WaitFor(t, "SELECT last_failed_time > last_archived_time FROM pg_stat_archiver", "t")
		a.fails(t, c, 1, []string{"failure  server", "archiving fails", "it doesn't call wal-e"}, "--terse", "check", c.Dir)
		c.Stop(t, pgtest.Fast)
		a.fails(t, c, 1, []string{"failure  server", "connects", "start the server"}, "--terse", "check", c.Dir)
	})
}

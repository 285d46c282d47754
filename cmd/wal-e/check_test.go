package main_test

import (
	"strings"
	"testing"

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
		r := a.must(t, c, "--terse", "check", c.Dir)
		for line := range strings.Lines(r.stdout) {
			// pgtest switches fsync off, which check rightly dislikes.
			if !strings.HasPrefix(line, "ok ") && !strings.Contains(line, "fsync") {
				t.Errorf("of a sound server: %s", line)
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

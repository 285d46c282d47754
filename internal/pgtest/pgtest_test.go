package pgtest_test

import (
	"fmt"
	"testing"

	"wal-e/internal/pgtest"
)

// eachVersion runs f for every supported release, at the same time.
func eachVersion(t *testing.T, f func(t *testing.T, major int)) {
	for _, major := range pgtest.Versions() {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			f(t, major)
		})
	}
}

func TestStart(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, major int) {
		c := pgtest.Start(t, pgtest.Options{Major: major, SegmentSizeMB: 1, DataChecksums: major != 18,
			Conf: map[string]string{"application_name": "it's"}})
		for sql, want := range map[string]string{
			"SELECT current_setting('server_version_num')::int / 10000": fmt.Sprint(major),
			"SHOW wal_segment_size": "1MB",
			"SHOW application_name": "it's",
			"SHOW fsync":            "off",
			"SHOW data_checksums":   map[bool]string{true: "on", false: "off"}[major != 18],
			"SELECT 1; SELECT a, NULL, 'x' FROM generate_series(1, 2) a": "1||x\n2||x",
		} {
			if got := c.Query(t, sql); got != want {
				t.Errorf("%s = %q, want %q", sql, got, want)
			}
		}
		c.Exec(t, "CREATE TABLE t AS SELECT 1 AS a")
		c.Stop(t, pgtest.Immediate)
		if c.Running() {
			t.Error("runs after Stop")
		}
		c.StartAgain(t)
		c.Restart(t)
		if got := c.Query(t, "SELECT a FROM t"); got != "1" {
			t.Errorf("after a crash the table holds %q, want 1", got)
		}
	})
}

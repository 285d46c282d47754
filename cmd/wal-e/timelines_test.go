package main_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"wal-e/internal/pgtest"
)

// A fail-over: a standby that follows by restore_command alone is promoted and
// archives on, while the old primary, which nobody has stopped, goes on on its own
// timeline. wal-show and wal-verify tell both apart, and both restore.
func TestTimelines(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, major int) {
		a := newArchive(t)
		c := a.start(t, pgtest.Options{Major: major, SegmentSizeMB: 1, Conf: map[string]string{"autovacuum": "off"}})
		c.Exec(t, "CREATE TABLE written (i int, v text)")
		fill := func(c *pgtest.Cluster, from int) {
			c.Exec(t, "INSERT INTO written SELECT "+strconv.Itoa(from)+" + i, repeat(md5(i::text), 24) FROM generate_series(1, 4000) i")
		}
		a.push(t, c)
		fill(c, 0)
		c.WaitArchived(t, c.SwitchWAL(t))
		standby := target(t)
		a.must(t, nil, "backup-fetch", "--recover", "--standby", standby, "LATEST")
		s := pgtest.Adopt(t, standby, pgtest.Options{Env: a.env, Conf: map[string]string{"wal_retrieve_retry_interval": "100ms"}})
		s.WaitFor(t, recoveryContents, c.Query(t, recoveryContents))
		s.Promote(t)
		s.WaitArchived(t, "00000002.history")
		fill(s, 4000)
		onSecond := s.Query(t, recoveryContents)
		s.WaitArchived(t, s.SwitchWAL(t))
		fill(c, 8000)
		onFirst := c.Query(t, recoveryContents)
		c.WaitArchived(t, c.SwitchWAL(t))

		a.must(t, nil, "wal-verify")
		shown := a.must(t, nil, "wal-show").stdout
		for _, want := range []string{"  2         1 at 0/", "  base_"} {
			if !strings.Contains(shown, want) {
				t.Errorf("wal-show lacks %q:\n%s", want, shown)
			}
		}
		for timeline, want := range map[string]string{"1": onFirst, "2": onSecond} {
			dir := target(t)
			a.must(t, nil, "backup-fetch", "--recover", "--target-timeline", timeline, dir, "LATEST")
			r := a.adopt(t, dir)
			if got := r.Query(t, recoveryContents); got != want {
				t.Errorf("timeline %s recovers to\n%s\nwant\n%s", timeline, got, want)
			}
			r.Stop(t, pgtest.Immediate)
		}
		if major == 15 {
			testGap(t, a, s)
		}
	})
}

// testGap loses a segment on the way to what c archives.
func testGap(t *testing.T, a *archive, c *pgtest.Cluster) {
	t.Helper()
	lost := c.SwitchWAL(t)
	c.WaitArchived(t, lost)
	c.WaitArchived(t, c.SwitchWAL(t))
	a.must(t, nil, "wal-verify")
	found, err := filepath.Glob(filepath.Join(a.prefix, "wal_006", "*", lost))
	if err != nil || len(found) != 1 {
		t.Fatalf("%s: %v, %v", lost, found, err)
	}
	if err := os.Remove(found[0]); err != nil {
		t.Fatal(err)
	}
	alarm := "no base backup recovers to the newest WAL, timeline 2"
	a.fails(t, nil, 1, []string{"1 segment is missing: " + lost, alarm}, "wal-verify")
	a.fails(t, nil, 1, []string{"known gap: " + lost, alarm}, "wal-verify", "--known-gap", lost)
	a.push(t, c)
	a.fails(t, nil, 1, []string{"1 segment is missing: " + lost}, "wal-verify")
	r := a.must(t, nil, "wal-verify", "--read-data", "--json", "--known-gap", lost)
	var verdict struct {
		OK      bool
		Systems []struct {
			Windows []struct {
				Backup  string
				Missing string `json:"missing_segment"`
			}
		}
	}
	if err := json.Unmarshal([]byte(r.stdout), &verdict); err != nil || !verdict.OK || len(verdict.Systems) != 1 {
		t.Fatalf("wal-verify --json printed %s (%v)", r.stdout, err)
	}
	// The first backup reaches the end of 1, and the gap on 2; the second the end of 2.
	if w := verdict.Systems[0].Windows; len(w) != 3 || w[0].Missing != "" || w[1].Missing != lost || w[2].Missing != "" {
		t.Errorf("windows %+v", w)
	}
}

// A primary that dies before it has archived its last segments leaves a hole between
// its timeline and the next, over which no backup of before recovers.
func TestGapBetweenTimelines(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	c := a.start(t, pgtest.Options{SegmentSizeMB: 1, Conf: map[string]string{"autovacuum": "off"}})
	heir := c.Standby(t, pgtest.Options{Env: a.env})
	first := a.push(t, c)
	c.WaitArchived(t, c.SwitchWAL(t))
	c.Exec(t, "ALTER SYSTEM SET archive_command = 'false'")
	c.Exec(t, "SELECT pg_reload_conf()")
	var lost []string
	for i := range 3 {
		c.Exec(t, "CREATE TABLE lost"+strconv.Itoa(i)+" AS SELECT 1")
		lost = append(lost, c.SwitchWAL(t))
	}
	heir.WaitCaughtUp(t, c)
	c.Stop(t, pgtest.Immediate)
	heir.Promote(t)
	heir.WaitArchived(t, "00000002.history")
	heir.WaitArchived(t, heir.SwitchWAL(t))
	missing := "3 segments are missing: " + lost[0] + " to " + lost[2]
	a.fails(t, nil, 1, []string{missing, "no base backup recovers to the newest WAL, timeline 2"}, "wal-verify")
	a.push(t, heir)
	a.fails(t, nil, 1, []string{missing}, "wal-verify")
	a.must(t, nil, "wal-verify", "--known-gap", lost[0]+"-"+lost[2])
	if r := a.must(t, nil, "wal-show"); !strings.Contains(r.stdout, "missing: "+lost[0]+" to "+lost[2]+", 3 segments; a backup needs it") {
		t.Errorf("wal-show of a hole that %s can't cross:\n%s", first.Name, r.stdout)
	}
}

// After a fail-over, a standby that still follows the old timeline is refused before
// it is read: the segment in which the new one began never comes.
func TestPushOfStandbyLeftBehind(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	c := a.start(t, pgtest.Options{SegmentSizeMB: 1, Conf: map[string]string{"autovacuum": "off"}})
	heir := c.Standby(t, pgtest.Options{Env: a.env})
	left := c.Standby(t, pgtest.Options{Env: a.env, Conf: map[string]string{"recovery_target_timeline": "current"}})
	c.WaitArchived(t, c.SwitchWAL(t))
	c.Exec(t, "CHECKPOINT")
	left.WaitCaughtUp(t, c)
	left.Exec(t, "CHECKPOINT")
	c.Stop(t, pgtest.Immediate)
	heir.Promote(t)
	heir.WaitArchived(t, "00000002.history")
	a.fails(t, left, 1, []string{"follows timeline 1, which was left at 0/", "for timeline 2", "WALE-1307"}, "backup-push", left.Dir)
	if _, err := os.Stat(filepath.Join(a.prefix, "basebackups_006")); !os.IsNotExist(err) {
		t.Errorf("the push that was refused began a run (%v)", err)
	}
	a.push(t, heir)
}

package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wal-e/internal/pgtest"
)

// A recovery is an archive with one base backup and some thirty segments of 1 MB
// behind it, and a copy restored from it that was not started.
type recovery struct {
	*archive
	major int
	dir   string // restored, to recover to the end
	want  string // answer of recoveryContents then
	at    string // a segment in the middle
}

const recoveryContents = "SELECT count(*), sum(i), md5(string_agg(v, ',' ORDER BY i)) FROM written"

// newRecovery makes one with a server that is gone afterwards.
func newRecovery(t *testing.T, major int, args ...string) *recovery {
	t.Helper()
	r := &recovery{archive: newArchive(t), major: major, dir: target(t)}
	c := r.start(t, pgtest.Options{Major: major, SegmentSizeMB: 1, Conf: map[string]string{"autovacuum": "off"}})
	c.Exec(t, "CREATE TABLE written (i int, v text)")
	r.push(t, c)
	for part := range 8 {
		c.Exec(t, fmt.Sprintf("INSERT INTO written SELECT %d + i, repeat(md5(i::text), 24) FROM generate_series(1, 4000) i", part*4000))
		if part == 3 {
			r.at = c.SwitchWAL(t)
		}
	}
	r.want = c.Query(t, recoveryContents)
	c.WaitArchived(t, c.SwitchWAL(t))
	c.Stop(t, pgtest.Immediate)
	r.must(t, nil, append(append([]string{"backup-fetch", "--recover"}, args...), r.dir, "LATEST")...)
	return r
}

// away is where a command moves the archive when the segment r.at is asked for.
func (r *recovery) away() string { return r.prefix + ".away" }

func (r *recovery) giveBack(t *testing.T) {
	t.Helper()
	if err := os.Rename(r.away(), r.prefix); err != nil {
		t.Fatal(err)
	}
}

// options are those of a server whose restore_command loses its storage in the
// middle; env goes to wal-e.
func (r *recovery) options(t *testing.T, env ...string) pgtest.Options {
	t.Helper()
	script := filepath.Join(pgtest.TempDir(t), "restore")
	text := fmt.Sprintf("#!/bin/sh\n[ $1 = %s ] && [ ! -e %[3]s.was ] && mv %[2]s %[3]s && touch %[3]s.was\nexec %[4]s wal-fetch $1 $2\n",
		r.at, r.prefix, r.away(), r.bin)
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return pgtest.Options{Env: append(r.env, env...), Conf: map[string]string{
		"restore_command":             script + " %f %p",
		"wal_retrieve_retry_interval": "100ms",
		"autovacuum":                  "off",
		"archive_mode":                "off",
	}}
}

// notPromoted checks that recovery in dir didn't end on a timeline of its own.
func notPromoted(t *testing.T, dir string) {
	t.Helper()
	histories, err := filepath.Glob(filepath.Join(dir, "pg_wal", "0000000[2-9].history"))
	if err != nil || len(histories) > 0 {
		t.Errorf("promoted: %v (%v)", histories, err)
	}
}

// waitEnd waits until a server has ended by itself.
func waitEnd(t *testing.T, c *pgtest.Cluster) {
	t.Helper()
	for began := time.Now(); c.Running(); time.Sleep(20 * time.Millisecond) {
		if time.Since(began) > 2*time.Minute {
			t.Fatalf("the server goes on:\n%s", c.Log(t))
		}
	}
}

// waitLog waits until a server has logged a text a number of times.
func waitLog(t *testing.T, c *pgtest.Cluster, text string, times int) {
	t.Helper()
	for began := time.Now(); strings.Count(c.Log(t), text) < times; time.Sleep(20 * time.Millisecond) {
		if time.Since(began) > 2*time.Minute {
			t.Fatalf("the server has not logged %q %d times:\n%s", text, times, c.Log(t))
		}
	}
}

// recovered checks what the server on dir has, and that it was promoted.
func (r *recovery) recovered(t *testing.T, c *pgtest.Cluster) {
	t.Helper()
	c.WaitRecovered(t)
	if got := c.Query(t, recoveryContents); got != r.want {
		t.Errorf("recovered:\n%s\nwant:\n%s", got, r.want)
	}
	c.AmCheck(t)
}

// Storage that goes away in the middle of a recovery stops it: the server must
// not come up with what it has. Once the storage is back, the same directory
// recovers to the end.
func TestOutageStopsRecovery(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, major int) {
		r := newRecovery(t, major)
		c, _ := pgtest.TryAdopt(t, r.dir, r.options(t, "WALE_FETCH_RETRY=0")) // it may come as far as answering queries
		waitEnd(t, c)
		for _, want := range []string{"Exit status 126: PostgreSQL stops", "could not restore file"} {
			if !strings.Contains(c.Log(t), want) {
				t.Errorf("the log lacks %q:\n%s", want, c.Log(t))
			}
		}
		notPromoted(t, r.dir)
		r.giveBack(t)
		c.StartAgain(t)
		r.recovered(t, c)
	})
}

// A standby that follows the archive alone survives an outage, and a server that
// is stopped while wal-fetch waits for storage has not come to the end of WAL.
func TestOutageOfStandby(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, major int) {
		r := newRecovery(t, major, "--standby")
		copied := target(t)
		pgtest.CopyDir(t, r.dir, copied)

		c := pgtest.Adopt(t, r.dir, r.options(t, "WALE_FETCH_RETRY=0"))
		waitLog(t, c, "Exit status 75: the standby asks again", 3)
		if !c.Running() {
			t.Fatal("the standby is down")
		}
		r.giveBack(t)
		c.WaitFor(t, recoveryContents, r.want)
		notPromoted(t, r.dir)
		c.Promote(t)
		r.recovered(t, c)

		if err := os.Remove(r.away() + ".was"); err != nil {
			t.Fatal(err)
		}
		s := pgtest.Adopt(t, copied, r.options(t, "WALE_FETCH_RETRY=1h"))
		waitLog(t, s, "trying again", 1)
		s.Stop(t, pgtest.Fast)
		if !strings.Contains(s.Log(t), "stopped by signal: terminated") {
			t.Errorf("wal-fetch was not stopped by a signal:\n%s", s.Log(t))
		}
		notPromoted(t, copied)
		r.giveBack(t)
		s.StartAgain(t)
		s.WaitFor(t, recoveryContents, r.want)
		notPromoted(t, copied)
	})
}

// A restore_command with a mistake in it never ends recovery.
func TestWrongRestoreCommand(t *testing.T) {
	t.Parallel()
	r := newRecovery(t, 15)
	for _, tc := range []struct{ name, command, env string }{
		{"option", r.bin + " wal-fetch --frob %f %p", ""},
		{"arguments", r.bin + " wal-fetch %f", ""},
		{"prefix", r.bin + " wal-fetch %f %p", "WALE_FILE_PREFIX=" + r.prefix},
		{"envdir", "WALE_ENVDIR=/nonexistent " + r.bin + " wal-fetch %f %p", ""},
		{"setting", r.bin + " wal-fetch %f %p", "WALE_FETCH_RETRY=soon"},
	} {
		o := pgtest.Options{Env: append(r.env, tc.env), Conf: map[string]string{"restore_command": tc.command}}
		if tc.env == "" {
			o.Env = r.env
		}
		c, err := pgtest.TryAdopt(t, r.dir, o)
		if err == nil {
			t.Errorf("%s: the server came up:\n%s", tc.name, c.Log(t))
		}
		notPromoted(t, r.dir)
	}
	r.recovered(t, pgtest.Adopt(t, r.dir, pgtest.Options{Env: r.env}))
}

package main_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wal-e/internal/pgtest"
)

// An archive is a prefix on file storage with the binary that tests run
// against it, as the user that PostgreSQL runs as.
type archive struct {
	bin    string
	prefix string // folder
	env    []string
}

func newArchive(t *testing.T) *archive {
	t.Helper()
	dir := pgtest.TempDir(t)
	a := &archive{bin: pgtest.Binary(t), prefix: filepath.Join(dir, "archive")}
	a.env = []string{
		"WALE_FILE_PREFIX=file://localhost" + a.prefix,
		"WALE_STATE_DIR=" + filepath.Join(dir, "state"),
		"WALE_LOG_DESTINATION=stderr",
	}
	return a
}

// start starts a cluster that archives here.
func (a *archive) start(t *testing.T, o pgtest.Options) *pgtest.Cluster {
	t.Helper()
	o.ArchiveCommand = a.bin + " --terse wal-push %p"
	o.Env = append(o.Env, a.env...)
	return pgtest.Start(t, o)
}

// A result is what a run of wal-e printed and returned.
type result struct {
	stdout, stderr string
	code           int
}

// command prepares wal-e with the environment of a cluster (nil: of none).
func (a *archive) command(t *testing.T, c *pgtest.Cluster, args ...string) *exec.Cmd {
	t.Helper()
	if c != nil {
		cmd := c.Command(t, a.bin, args...)
		cmd.Env = append(cmd.Env, a.env...)
		return cmd
	}
	cmd := pgtest.RunAs(t, exec.CommandContext(t.Context(), a.bin, args...))
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=/tmp"}, a.env...)
	return cmd
}

func (a *archive) run(t *testing.T, c *pgtest.Cluster, args ...string) result {
	t.Helper()
	return runCommand(t, a.command(t, c, args...))
}

func runCommand(t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%v: %v", cmd.Args[1:], err)
	}
	if holdsSecret(stdout.String()+stderr.String()+strings.Join(cmd.Args, " "), secretsIn(cmd.Env)) {
		t.Errorf("wal-e %q shows a secret of its environment in its arguments or its output", cmd.Args[1:])
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// must runs wal-e and fails the test unless it exits 0.
func (a *archive) must(t *testing.T, c *pgtest.Cluster, args ...string) result {
	t.Helper()
	r := a.run(t, c, args...)
	if r.code != 0 {
		t.Fatalf("wal-e %s: exit %d\n%s%s", strings.Join(args, " "), r.code, r.stdout, r.stderr)
	}
	return r
}

// fails runs wal-e and fails the test unless it exits with code and prints all
// of words.
func (a *archive) fails(t *testing.T, c *pgtest.Cluster, code int, words []string, args ...string) {
	t.Helper()
	r := a.run(t, c, args...)
	if r.code != code {
		t.Errorf("wal-e %s: exit %d, want %d\n%s%s", strings.Join(args, " "), r.code, code, r.stdout, r.stderr)
	}
	for _, w := range words {
		if !strings.Contains(r.stdout+r.stderr, w) {
			t.Errorf("wal-e %s: its output lacks %q:\n%s%s", strings.Join(args, " "), w, r.stdout, r.stderr)
		}
	}
}

// push takes a base backup with a fast checkpoint and returns its figures.
func (a *archive) push(t *testing.T, c *pgtest.Cluster, args ...string) pushed {
	t.Helper()
	args = append([]string{"backup-push", "--checkpoint", "fast", "--json"}, args...)
	r := a.must(t, c, append(args, c.Dir)...)
	var p pushed
	if err := json.Unmarshal([]byte(r.stdout), &p); err != nil {
		t.Fatalf("backup-push --json printed %q: %v", r.stdout, err)
	}
	return p
}

// pushed is what backup-push --json prints.
type pushed struct {
	Name   string `json:"name"`
	Run    string `json:"run"`
	Files  int64  `json:"files"`
	Read   int64  `json:"bytes_read"`
	New    int64  `json:"bytes_new"`
	Stored int64  `json:"bytes_stored"`
}

// verified runs verify over everything.
func (a *archive) verified(t *testing.T, c *pgtest.Cluster) {
	t.Helper()
	a.must(t, c, "verify", "--all", "--read-data", "--wal")
}

// target is an absent folder to restore to.
func target(t *testing.T) string {
	t.Helper()
	return filepath.Join(pgtest.TempDir(t), "restored")
}

// adopt starts a server on a restored directory and waits until recovery is
// over.
func (a *archive) adopt(t *testing.T, dir string) *pgtest.Cluster {
	t.Helper()
	c := pgtest.Adopt(t, dir, pgtest.Options{Env: a.env})
	c.WaitRecovered(t)
	return c
}

// eachVersion runs f on every release that is tested, side by side.
func eachVersion(t *testing.T, f func(t *testing.T, major int)) {
	t.Helper()
	for _, major := range pgtest.Versions() {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			f(t, major)
		})
	}
}

// inTablespace makes a table in a new tablespace and returns its folder.
func inTablespace(t *testing.T, c *pgtest.Cluster) string {
	t.Helper()
	dir := c.AddTablespace(t, "fast")
	c.Exec(t, "CREATE TABLE spaced (id int PRIMARY KEY, v text) TABLESPACE fast")
	c.Exec(t, "INSERT INTO spaced SELECT i, repeat(md5(i::text), 10) FROM generate_series(1, 20000) i")
	return dir
}

// load runs pgbench in the background until the returned function is called.
func load(t *testing.T, c *pgtest.Cluster) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cmd := c.Command(t, pgtest.Tool(t, "pgbench"), "-n", "-c", "2", "-T", "600", "postgres")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		<-ctx.Done()
		_ = cmd.Process.Kill() // it may have ended by itself
	}()
	go func() {
		_ = cmd.Wait() // killed
		close(done)
	}()
	return func() {
		cancel()
		<-done
		// What the clients had begun the server still ends.
		c.WaitFor(t, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'", "0")
	}
}

const contents = "SELECT 'accounts', count(*), sum(abalance), md5(string_agg(t::text, ',' ORDER BY aid)) FROM pgbench_accounts t " +
	"UNION ALL SELECT 'history', count(*), sum(delta), '' FROM pgbench_history " +
	"UNION ALL SELECT 'spaced', count(*), sum(id), md5(string_agg(s::text, ',' ORDER BY id)) FROM spaced s"

// The main job: push under load with a tablespace, then restore elsewhere with
// the original still running, to a time, to an LSN and to the end.
func TestMainJob(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, major int) {
		a := newArchive(t)
		segment := map[int]int{13: 1, 15: 16, 18: 64}[major] // MB
		c := a.start(t, pgtest.Options{Major: major, DataChecksums: true, SegmentSizeMB: segment})
		c.Pgbench(t, "-i", "-q", "-s", "4")
		inTablespace(t, c)
		stop := load(t, c)
		first := a.push(t, c)
		second := a.push(t, c)
		stop()
		if second.New >= first.New {
			t.Errorf("second push found %d new bytes, the first %d", second.New, first.New)
		}

		c.Exec(t, "CHECKPOINT")
		atTime := c.Query(t, contents)
		moment := c.Query(t, "SELECT clock_timestamp()")
		time.Sleep(50 * time.Millisecond) // lets the clock pass the moment
		c.Exec(t, "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid < 1000")
		lsn := c.Query(t, "SELECT pg_current_wal_insert_lsn()")
		atLSN := c.Query(t, contents)
		c.Exec(t, "DELETE FROM spaced WHERE id % 7 = 0")
		atEnd := c.Query(t, contents)
		c.WaitArchived(t, c.SwitchWAL(t))
		a.verified(t, c)

		for _, tc := range []struct {
			name string
			args []string
			want string
		}{
			{"time", []string{"--target-time", moment}, atTime},
			{"lsn", []string{"--target-lsn", lsn}, atLSN},
			{"end", nil, atEnd},
		} {
			t.Run(tc.name, func(t *testing.T) {
				dir, space := target(t), target(t)
				args := append([]string{"backup-fetch", "--recover", "--tablespace-map", "fast=" + space}, tc.args...)
				a.must(t, c, append(args, dir, "LATEST")...)
				r := a.adopt(t, dir)
				if got := r.Query(t, contents); got != tc.want {
					t.Errorf("contents:\n%s\nwant:\n%s", got, tc.want)
				}
				if got := r.Query(t, "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'fast'"); got != space {
					t.Errorf("tablespace is in %s, want %s", got, space)
				}
				if got := r.Query(t, "SHOW archive_mode"); got != "off" {
					t.Errorf("archive_mode of the copy = %s, want off", got)
				}
				r.AmCheck(t)
			})
		}
		if got := c.Query(t, contents); got != atEnd {
			t.Errorf("the original changed:\n%s\nwant:\n%s", got, atEnd)
		}
	})
}

// A standby is pushed, and the restored copy has what the primary had.
func TestStandbyPush(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, major int) {
		a := newArchive(t)
		c := a.start(t, pgtest.Options{Major: major, DataChecksums: true})
		c.Pgbench(t, "-i", "-q", "-s", "2")
		c.Exec(t, "CREATE TABLE spaced (id int PRIMARY KEY, v text)")
		s := c.Standby(t, pgtest.Options{Major: major, Env: a.env})
		s.WaitCaughtUp(t, c)
		stop := load(t, c)
		// A standby's backup ends where replay is; the primary must archive it.
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range 100 {
				if _, err := c.TryQuery(t.Context(), "SELECT pg_switch_wal()"); err != nil {
					return
				}
				time.Sleep(200 * time.Millisecond)
			}
		}()
		a.push(t, s)
		stop()
		want := c.Query(t, contents)
		c.WaitArchived(t, c.SwitchWAL(t))
		<-done
		dir := target(t)
		a.must(t, nil, "backup-fetch", "--recover", dir, "LATEST")
		for _, name := range []string{"standby.signal", "postmaster.pid"} {
			if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
				t.Errorf("restored directory has %s", name)
			}
		}
		r := a.adopt(t, dir)
		if got := r.Query(t, contents); got != want {
			t.Errorf("contents:\n%s\nwant:\n%s", got, want)
		}
		r.AmCheck(t)
	})
}

// An offline backup starts without any archive.
func TestOfflinePush(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, major int) {
		a := newArchive(t)
		c := pgtest.Start(t, pgtest.Options{Major: major, DataChecksums: true})
		c.Pgbench(t, "-i", "-q", "-s", "2")
		inTablespace(t, c)
		c.Exec(t, "CREATE UNLOGGED TABLE scratch AS SELECT generate_series(1, 1000) AS n")
		want := c.Query(t, contents)
		a.fails(t, c, 1, []string{"postmaster.pid"}, "backup-push", "--while-offline", c.Dir)
		c.Stop(t, pgtest.Fast)
		a.must(t, nil, "backup-push", "--while-offline", c.Dir)
		dir, space := target(t), target(t)
		oid := filepath.Base(onlyEntry(t, filepath.Join(c.Dir, "pg_tblspc")))
		a.must(t, nil, "backup-fetch", "--tablespace-map", oid+"="+space, dir, "LATEST")
		if err := os.RemoveAll(a.prefix); err != nil {
			t.Fatal(err)
		}
		r := pgtest.Adopt(t, dir, pgtest.Options{})
		if got := r.Query(t, contents); got != want {
			t.Errorf("contents:\n%s\nwant:\n%s", got, want)
		}
		if got := r.Query(t, "SELECT count(*) FROM scratch"); got != "1000" {
			t.Errorf("unlogged table has %s rows, want 1000", got)
		}
		r.AmCheck(t)
	})
}

// onlyEntry returns the only entry of a folder.
func onlyEntry(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Fatalf("%s has %d entries (%v), want 1", dir, len(entries), err)
	}
	return filepath.Join(dir, entries[0].Name())
}

// What did not change isn't stored again.
func TestSecondPushIsSmall(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	c := a.start(t, pgtest.Options{DataChecksums: true})
	c.Pgbench(t, "-i", "-q", "-s", "5")
	c.Exec(t, "CHECKPOINT")
	first := a.push(t, c)
	second := a.push(t, c)
	t.Logf("first: %+v, second: %+v", first, second)
	if second.Stored > 200<<10 {
		t.Errorf("push of an unchanged cluster stored %d bytes, want at most 200 KiB", second.Stored)
	}
	a.verified(t, c)
}

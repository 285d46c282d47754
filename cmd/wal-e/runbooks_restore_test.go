package main_test

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"wal-e/internal/pgtest"
)

// moment is the server's time, between two commits.
func moment(t *testing.T, c *pgtest.Cluster) string {
	t.Helper()
	time.Sleep(20 * time.Millisecond)
	at := c.Query(t, "SELECT clock_timestamp()")
	time.Sleep(20 * time.Millisecond)
	return at
}

func TestPointInTimeRunbook(t *testing.T) {
	t.Parallel()
	r := newRunbook(t, "point_in_time.md")
	c := r.start(t, pgtest.Options{SegmentSizeMB: 1})
	newWritten(t, c)
	r.push(t, c)
	c.Exec(t, "INSERT INTO written VALUES (1, 'good')")
	r.vars = []string{"MOMENT=" + moment(t, c)}
	c.Exec(t, "UPDATE written SET v = 'spoiled'")
	c.WaitArchived(t, c.SwitchWAL(t))
	r.next(t, c, "wal-show")
	if out := r.next(t, c, "--dry-run"); !strings.Contains(out, "recovery_target_time") {
		t.Errorf("the plan doesn't show the target:\n%s", out)
	}
	r.next(t, c, "--target-action pause")
	dir := filepath.Join(r.dir, "restored")
	copied := pgtest.Adopt(t, dir, pgtest.Options{Env: r.env})
	copied.WaitFor(t, "SELECT pg_get_wal_replay_pause_state()", "paused")
	if got := copied.Query(t, "SELECT v FROM written"); got != "good" {
		t.Errorf("at the moment it was %q, want good", got)
	}
	copied.Exec(t, "SELECT pg_wal_replay_resume()")
	copied.WaitRecovered(t)
	c.Stop(t, pgtest.Fast)
	r.next(t, copied, "archive_mode")
	copied.Restart(t)
	copied.Exec(t, "INSERT INTO written VALUES (2, 'after')")
	r.next(t, copied, "backup-push")
	r.end(t)
}

func TestDroppedTableRunbook(t *testing.T) {
	t.Parallel()
	r := newRunbook(t, "dropped_table.md")
	c := r.start(t, pgtest.Options{SegmentSizeMB: 1})
	newWritten(t, c)
	r.push(t, c)
	fill(t, c)
	want := c.Query(t, recoveryContents)
	r.vars = []string{"PGDATA=" + c.Dir, "TABLE=written", "DATABASE=postgres", "COPY_PORT=" + freePort(t), "MOMENT=" + moment(t, c)}
	c.Exec(t, "DROP TABLE written")
	c.Exec(t, "CREATE TABLE other AS SELECT 1")
	c.WaitArchived(t, c.SwitchWAL(t))
	r.next(t, c, "backup-list")
	r.next(t, c, "--target-time")
	copied := filepath.Join(r.dir, "copy")
	t.Cleanup(func() {
		pid, err := os.ReadFile(filepath.Join(copied, "postmaster.pid"))
		if err != nil {
			return // stopped, or never started
		}
		first, _, _ := strings.Cut(string(pid), "\n")
		if n, err := strconv.Atoi(first); err == nil {
			_ = syscall.Kill(n, syscall.SIGQUIT) // the test has failed before
		}
	})
	r.next(t, c, "pg_ctl start")
	r.next(t, c, "pg_dump")
	r.next(t, c, "rm -rf")
	r.end(t)
	if got := c.Query(t, recoveryContents); got != want {
		t.Errorf("brought over:\n%s\nwant:\n%s", got, want)
	}
	if _, err := os.Stat(copied); err == nil {
		t.Error("the copy is there still")
	}
	r.verified(t, c)
}

// freePort returns a port of the loopback that nobody uses.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // it was only asked for
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func TestLostKeyRunbook(t *testing.T) {
	t.Parallel()
	r := newRunbook(t, "lost_key.md")
	left, fresh, last := newKeyPair(t, "left@example.com"), newKeyPair(t, "new@example.com"), newKeyPair(t, "last@example.com")
	plain := r.archive
	host := left.host(plain)
	c := host.start(t, pgtest.Options{SegmentSizeMB: 1})
	newWritten(t, c)
	c.Exec(t, "INSERT INTO written VALUES (1, 'sealed')")
	first := host.push(t, c)
	c.Exec(t, "INSERT INTO written VALUES (2, 'in WAL')")
	c.WaitArchived(t, c.SwitchWAL(t))
	printout := filepath.Join(r.dir, "printout")
	if err := os.WriteFile(printout, []byte(left.owner(t, plain).must(t, nil, "key", "export-recovery").stdout), 0o644); err != nil {
		t.Fatal(err)
	}
	with := func(k keyPair) { r.archive = k.owner(t, plain) }

	r.archive = host
	if out := r.next(t, c, "key show"); !strings.Contains(out, "written by this host") {
		t.Errorf("key show printed\n%s", out)
	}
	with(left)
	r.vars = []string{"LEFT_PUBLIC=" + left.public, "NEW_PUBLIC=" + fresh.public}
	r.next(t, c, "cat $LEFT_PUBLIC")
	fresh.owner(t, plain).must(t, nil, "backup-fetch", target(t), first.Name)

	// The key ring is lost, and a printout isn't.
	nobody := *plain
	nobody.env = append(nobody.env[:len(nobody.env):len(nobody.env)], "GNUPGHOME=/nonexistent")
	r.archive = &nobody
	r.vars = []string{"PRINTOUT=" + printout, "NEW_PUBLIC=" + last.public}
	last.owner(t, plain).fails(t, nil, 1, []string{"private key", "WALE-1703"}, "backup-fetch", target(t), first.Name)
	r.next(t, c, "--from $PRINTOUT")
	with(last)
	r.next(t, c, "key show --try")
	dir := target(t)
	r.must(t, nil, "backup-fetch", "--recover", dir, "LATEST")
	if got := r.adopt(t, dir).Query(t, "SELECT string_agg(v, ', ' ORDER BY i) FROM written"); got != "sealed, in WAL" {
		t.Errorf("restored with the key that came last: %q", got)
	}

	// Nothing is left: a new key, and all of the cluster once more.
	fourth := newKeyPair(t, "fourth@example.com")
	r.archive = host
	r.vars = []string{"NEW_PUBLIC=" + fourth.public, "PGDATA=" + c.Dir}
	r.next(t, c, "key rotate")
	with(fourth)
	r.vars = nil
	r.next(t, c, "wal-e drill")
	r.archive = host
	if out := r.next(t, c, "retain 1"); !strings.Contains(out, first.Name) {
		t.Errorf("the old backup wasn't deleted:\n%s", out)
	}
	r.end(t)
	fourth.owner(t, plain).must(t, nil, "verify", "--all", "--read-data")
}

func TestPendingRunbook(t *testing.T) {
	t.Parallel()
	r := newRunbook(t, "pending.md")
	c := r.start(t, pgtest.Options{})
	c.Pgbench(t, "-i", "-q", "-s", "3")
	first := r.push(t, c)
	c.Exec(t, "UPDATE pgbench_accounts SET filler = md5(aid::text)")
	frozen := r.command(t, c, "backup-push", "--checkpoint", "fast", "--cluster-read-rate-limit", "20000000", c.Dir)
	if err := frozen.Start(); err != nil {
		t.Fatal(err)
	}
	intents := filepath.Join(r.prefix, "basebackups_006", "*", "*.intent")
	for found, _ := filepath.Glob(intents); len(found) < 2; found, _ = filepath.Glob(intents) {
		time.Sleep(10 * time.Millisecond)
	}
	if err := frozen.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = frozen.Wait() // it was killed
	r.must(t, c, "delete", "--confirm", "everything")
	if out := r.next(t, c, "gc --dry-run"); !strings.Contains(out, "pending") {
		t.Errorf("gc doesn't say pending:\n%s", out)
	}
	r.next(t, c, "pgrep")
	r.next(t, c, "--abort-running")
	if packs, err := filepath.Glob(filepath.Join(r.prefix, "chunks_006/packs/*/*")); err != nil || len(packs) > 0 {
		t.Errorf("of %s and the push that was killed %d packs are left (%v)", first.Name, len(packs), err)
	}
	r.push(t, c) // without a backup there is nothing to verify
	r.next(t, c, "verify")
	r.end(t)
}

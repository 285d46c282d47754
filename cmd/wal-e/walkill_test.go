package main_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"wal-e/internal/pgtest"
)

// written is an archive with a stopped cluster that has segments of 1 MB, none of
// which was archived.
func written(t *testing.T) (a *archive, c *pgtest.Cluster, segments []string) {
	t.Helper()
	a = newArchive(t)
	c = pgtest.Start(t, pgtest.Options{SegmentSizeMB: 1, Env: a.env, ArchiveCommand: "false", Conf: map[string]string{"autovacuum": "off"}})
	for range 3 {
		c.Exec(t, "CREATE TABLE IF NOT EXISTS written (v text)")
		c.Exec(t, "INSERT INTO written SELECT repeat(md5(i::text), 24) FROM generate_series(1, 5000) i")
	}
	c.SwitchWAL(t)
	c.Stop(t, pgtest.Immediate)
	ready, err := filepath.Glob(filepath.Join(c.Dir, "pg_wal/archive_status/*.ready"))
	if err != nil || len(ready) < 10 {
		t.Fatalf("%d segments wait (%v), want at least 10", len(ready), err)
	}
	for _, path := range ready {
		segments = append(segments, strings.TrimSuffix(filepath.Base(path), ".ready"))
	}
	return a, c, segments
}

// in prepares wal-e as PostgreSQL starts it.
func (a *archive) in(t *testing.T, c *pgtest.Cluster, args ...string) *exec.Cmd {
	t.Helper()
	cmd := a.command(t, c, args...)
	cmd.Dir = c.Dir
	return cmd
}

// killedAfter runs a command and kills it after a while, unless it has ended.
func killedAfter(t *testing.T, cmd *exec.Cmd, after time.Duration) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() }) // it may have ended
	_ = cmd.Wait()                                                    // killed, or not
	timer.Stop()
}

// A push of many files can be killed at any moment: whatever is said to be done the
// archive has, what isn't stays ready, and the next ones end it.
func TestPoolKilled(t *testing.T) {
	t.Parallel()
	a, c, segments := written(t)
	status := filepath.Join(c.Dir, "pg_wal/archive_status")
	compare := func(name string) {
		t.Helper()
		dest := filepath.Join(pgtest.TempDir(t), name)
		if r := runCommand(t, a.in(t, c, "wal-fetch", "-p0", name, dest)); r.code != 0 {
			t.Fatalf("%s is done, and wal-fetch exits %d\n%s", name, r.code, r.stderr)
		}
		if read(t, dest) != read(t, filepath.Join(c.Dir, "pg_wal", name)) {
			t.Errorf("the archive has another %s", name)
		}
	}
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	done := make(map[string]bool)
	for try := range 12 {
		after := time.Duration(r.IntN(30+30*try)) * time.Millisecond
		killedAfter(t, a.in(t, c, "--terse", "wal-push", "pg_wal/"+segments[len(segments)-1]), after)
		for _, name := range segments {
			_, errReady := os.Lstat(filepath.Join(status, name+".ready"))
			_, errDone := os.Lstat(filepath.Join(status, name+".done"))
			if (errReady == nil) == (errDone == nil) {
				t.Fatalf("%s: .ready %v, .done %v, want one of them", name, errReady, errDone)
			}
			if errDone == nil && !done[name] {
				done[name] = true
				compare(name)
			}
		}
	}
	t.Logf("%d of %d segments were done by killed pushes", len(done), len(segments))
	for _, name := range segments {
		if r := runCommand(t, a.in(t, c, "--terse", "wal-push", "pg_wal/"+name)); r.code != 0 {
			t.Errorf("wal-push %s: exit %d\n%s", name, r.code, r.stderr)
		}
		compare(name)
	}
}

// The helper that fetches ahead, and the command that uses what it fetched, can be
// killed at any moment: what is delivered is complete, and recovery goes on.
func TestPrefetchKilled(t *testing.T) {
	t.Parallel()
	a, c, segments := written(t)
	for _, name := range segments {
		a.must(t, c, "wal-push", filepath.Join(c.Dir, "pg_wal", name))
	}
	base := filepath.Join(pgtest.TempDir(t), "pg_wal")
	if out, err := pgtest.RunAs(t, exec.Command("mkdir", base)).CombinedOutput(); err != nil {
		t.Fatalf("mkdir: %v\n%s", err, out)
	}
	dest := filepath.Join(base, "RECOVERYXLOG")
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	helpers := 0
	for _, name := range segments {
		want := read(t, filepath.Join(c.Dir, "pg_wal", name))
		for try := 0; ; try++ {
			fetch := a.in(t, c, "--terse", "wal-fetch", name, dest)
			if try < 2 {
				killedAfter(t, fetch, time.Duration(r.IntN(50))*time.Millisecond)
			} else if r := runCommand(t, fetch); r.code != 0 {
				t.Fatalf("wal-fetch %s: exit %d\n%s", name, r.code, r.stderr)
			}
			if r.IntN(4) > 0 {
				helpers += killHelpers(t, base)
			}
			got, err := os.ReadFile(dest)
			if err == nil && string(got) != want {
				t.Fatalf("%s was delivered with %d bytes that are not its own", name, len(got))
			}
			if err == nil {
				break
			}
		}
		if err := os.Remove(dest); err != nil {
			t.Fatal(err)
		}
	}
	// Helpers of short segments end soon, and a machine that is busy looks for them late:
	// what was started since is looked at first.
	for try := 0; helpers == 0; try++ {
		if try == 100 {
			t.Error("no helper was there to be killed")
			break
		}
		killHelpers(t, base) // one of before may write there
		if err := os.RemoveAll(filepath.Join(base, ".wal-e")); err != nil {
			continue // it still does
		}
		fetch := a.in(t, c, "--terse", "wal-fetch", segments[0], dest)
		if out, err := fetch.CombinedOutput(); err != nil {
			t.Fatalf("wal-fetch %s: %v\n%s", segments[0], err, out)
		}
		for pid := fetch.Process.Pid + 1; pid <= fetch.Process.Pid+500; pid++ {
			helpers += killHelper(pid, base)
		}
	}
	t.Logf("%d segments, %d helpers killed", len(segments), helpers)
	killHelpers(t, base)
}

// killHelpers kills the processes that fetch ahead into base, and returns how many.
func killHelpers(t *testing.T, base string) (n int) {
	t.Helper()
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range processes {
		pid, err := strconv.Atoi(filepath.Base(path))
		if err != nil {
			t.Fatal(err)
		}
		n += killHelper(pid, base)
	}
	return n
}

// killHelper kills a process if it fetches ahead into base, and returns how many that
// makes.
func killHelper(pid int, base string) int {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	args := strings.Split(string(line), "\x00")
	if err != nil || len(args) < 4 || !strings.Contains(string(line), "\x00wal-prefetch\x00") || args[len(args)-3] != base {
		return 0 // another process, or it is gone
	}
	if syscall.Kill(pid, syscall.SIGKILL) != nil {
		return 0
	}
	return 1
}

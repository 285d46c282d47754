package main_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
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
		// What a restart of the cluster itself would fail over, and what a server empties.
		c.Exec(t, "ALTER SYSTEM SET shared_preload_libraries = 'nothing_here'")
		c.Exec(t, "ALTER SYSTEM SET max_worker_processes = 7")
		stats := pgtest.TempDir(t)
		if major < 15 {
			c.Exec(t, "ALTER SYSTEM SET stats_temp_directory = '"+stats+"'")
		}
		if err := os.WriteFile(filepath.Join(stats, "global.stat"), nil, 0o666); err != nil {
			t.Fatal(err)
		}
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
		for _, w := range []string{": OK\n", "  restore ", "  recover ", "  check ", "amcheck\n", "1 row, the first: 1001 | 1001\n", "without the libraries nothing_here,"} {
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
		cmd := a.command(t, nil, drill("--json", "--no-record", "--no-amcheck", "--target-time", strings.TrimSpace(at), "--scratch", ".",
			"--query", "SELECT max(i) FROM orders, (SELECT count(*) FROM spaced) s WHERE current_setting('max_worker_processes') = '0'")...)
		cmd.Dir = scratch
		r = runCommand(t, cmd)
		var report struct {
			OK    bool     `json:"ok"`
			First []string `json:"query_first_row"`
		}
		if err := json.Unmarshal([]byte(r.stdout), &report); err != nil || !report.OK || len(report.First) != 1 || report.First[0] != "1000" {
			t.Errorf("drill --json printed %s%s: %v", r.stdout, r.stderr, err)
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
		if _, err := os.Stat(filepath.Join(stats, "global.stat")); err != nil {
			t.Errorf("the copy touched stats_temp_directory: %v", err)
		}
	})
}

// A drill that is killed takes its server with it.
func TestKilledDrill(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	c := a.start(t, pgtest.Options{Major: 15})
	a.push(t, c)
	scratch := pgtest.TempDir(t)
	cmd := a.command(t, nil, "--terse", "drill", "--scratch", scratch, "--pg-bindir="+pgtest.Require(t, 15).Bin, "--no-record", "--no-amcheck", "--query", "SELECT pg_sleep(3600)")
	cmd.Env = append(cmd.Env, "TMPDIR="+scratch) // what is left goes with the test
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	server := 0
	for end := time.Now().Add(time.Minute); server == 0 && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		files, err := filepath.Glob(filepath.Join(scratch, "*", "data", "postmaster.pid"))
		if err != nil || len(files) == 0 {
			continue
		}
		if text, err := os.ReadFile(files[0]); err == nil && strings.Count(string(text), "\n") >= 5 {
			server, _ = strconv.Atoi(strings.SplitN(string(text), "\n", 2)[0])
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
	if server == 0 {
		t.Fatal("the drill started no server")
	}
	for end := time.Now().Add(30 * time.Second); syscall.Kill(server, 0) == nil; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			_ = syscall.Kill(server, syscall.SIGQUIT) // so that the test leaves nothing
			t.Fatal("the server of a drill that was killed runs on")
		}
	}

	// What it left, a cluster and the folder of the server, the next one removes.
	folders := func() []string {
		t.Helper()
		found, err := filepath.Glob(filepath.Join(scratch, "wal-e-drill-*"))
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	left := folders()
	if len(left) != 2 {
		t.Fatalf("folders that are left: %q, want two", left)
	}
	a.env = append(a.env, "TMPDIR="+scratch)
	again := []string{"drill", "--scratch", scratch, "--pg-bindir=" + pgtest.Require(t, 15).Bin, "--no-record", "--no-amcheck"}
	a.fails(t, nil, 0, append([]string{"removed what drills had left that were killed"}, left...), again...)
	if now := folders(); len(now) > 0 {
		t.Errorf("folders after a drill that ended: %q", now)
	}
	// One that is kept on purpose stays.
	a.fails(t, nil, 1, []string{"the folder of the drill was left"}, append(again, "--keep", "--query", "SELECT 1 WHERE false")...)
	kept := folders()
	a.must(t, nil, again...)
	if now := folders(); len(now) != 1 || !slices.Equal(now, kept) {
		t.Errorf("folders after another drill: %q, want %q, which is kept", now, kept)
	}
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

package pgtest_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

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

func TestStandby(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, major int) {
		primary := pgtest.Start(t, pgtest.Options{Major: major})
		primary.AddTablespace(t, "fast")
		primary.Exec(t, "CREATE TABLE before AS SELECT 1 AS a; CREATE TABLE apart TABLESPACE fast AS SELECT 2 AS a")
		standby := primary.Standby(t, pgtest.Options{Conf: map[string]string{"application_name": "follower"}})
		primary.Exec(t, "CREATE TABLE after AS SELECT 3 AS a")
		standby.WaitCaughtUp(t, primary)
		if got := standby.Query(t, "SELECT pg_is_in_recovery(), current_setting('application_name')"); got != "t|follower" {
			t.Errorf("the standby says %q", got)
		}
		if got, want := standby.Checksum(t), primary.Checksum(t); got != want {
			t.Errorf("the standby holds\n%s, want\n%s", got, want)
		}
		primary.AmCheck(t)
		standby.WaitCaughtUp(t, primary)
		standby.AmCheck(t)
		dir := "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'fast'"
		if got := standby.Query(t, dir); got == primary.Query(t, dir) {
			t.Errorf("both have their tablespace in %s", got)
		}
		standby.Promote(t)
		standby.WaitRecovered(t)
		standby.Exec(t, "INSERT INTO apart VALUES (4)")
	})
}

func TestArchiveAndTablespaces(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, major int) {
		archive := pgtest.TempDir(t)
		c := pgtest.Start(t, pgtest.Options{Major: major, SegmentSizeMB: 1,
			ArchiveCommand: `cp "%p" "$ARCHIVE/%f"`, Env: []string{"ARCHIVE=" + archive}})
		c.Pgbench(t, "-i", "-q", "-s", "1")
		segment := c.SwitchWAL(t)
		c.WaitArchived(t, segment)
		if info, err := os.Stat(filepath.Join(archive, segment)); err != nil || info.Size() != 1<<20 {
			t.Errorf("archived segment: %v, %v, want 1 MB", info, err)
		}

		c.AddTablespace(t, "fast")
		c.Exec(t, "CREATE TABLE apart TABLESPACE fast AS SELECT 1 AS a; CREATE UNLOGGED TABLE u(a int)")
		c.Exec(t, "CHECKPOINT")
		files := c.BaseBackupFiles(t)
		apart := c.Query(t, "SELECT pg_relation_filepath('apart')")
		unlogged := c.Query(t, "SELECT pg_relation_filepath('u')")
		for _, name := range []string{"global/pg_control", "backup_label", "tablespace_map", "PG_VERSION", "pg_wal/", apart, unlogged + "_init"} {
			if !slices.Contains(files, name) {
				t.Errorf("the base backup lacks %s", name)
			}
		}
		for _, name := range []string{"postmaster.pid", unlogged, "pg_wal/" + segment} {
			if slices.Contains(files, name) {
				t.Errorf("the base backup has %s", name)
			}
		}
		if len(files) < 500 || !slices.IsSorted(files) {
			t.Errorf("%d files, sorted %v", len(files), slices.IsSorted(files))
		}
	})
}

func TestAdopt(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, major int) {
		c := pgtest.Start(t, pgtest.Options{Major: major})
		c.Pgbench(t, "-i", "-q", "-s", "1")
		want := c.Checksum(t)
		c.Stop(t, pgtest.Fast)
		dir := filepath.Join(pgtest.TempDir(t), "copy")
		pgtest.CopyDir(t, c.Dir, dir)
		c.StartAgain(t)

		restored := pgtest.Adopt(t, dir, pgtest.Options{Conf: map[string]string{"application_name": "copy"}})
		if got := restored.Checksum(t); got != want || !strings.Contains(got, "public.pgbench_accounts 100000 ") {
			t.Errorf("the copy holds\n%s, want\n%s", got, want)
		}
		restored.Exec(t, "DELETE FROM pgbench_accounts WHERE aid = 1")
		if restored.Checksum(t, "pgbench_accounts") == c.Checksum(t, "pgbench_accounts") {
			t.Error("Checksum does not see a missing row")
		}
		if _, err := pgtest.TryAdopt(t, dir, pgtest.Options{}); err == nil || !strings.Contains(err.Error(), "lock file") {
			t.Errorf("two servers on one directory: %v, want PostgreSQL's refusal", err)
		}
		if restored.Query(t, "SHOW application_name") != "copy" {
			t.Error("Conf of the adopted cluster did not reach it")
		}
	})
}

func TestRunAs(t *testing.T) {
	t.Parallel()
	dir := pgtest.TempDir(t)
	out, err := pgtest.RunAs(t, exec.Command("sh", "-c", `id -u; pwd; touch "$0/mine"`, dir)).CombinedOutput()
	uid, rest, _ := strings.Cut(string(out), "\n")
	if err != nil || uid == "0" || rest != "/\n" {
		t.Errorf("RunAs printed %q, %v, want a user other than root, in /", out, err)
	}
}

// TestKilledProcess kills a test process while its server runs.
func TestKilledProcess(t *testing.T) {
	t.Parallel()
	start := func() (helper *exec.Cmd, dir string) {
		helper = exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestHelperProcess$", "-test.v")
		helper.Env = append(os.Environ(), "PGTEST_HELPER=1")
		if _, err := helper.StdinPipe(); err != nil { // held open: the helper waits for its end
			t.Fatal(err)
		}
		stdout, err := helper.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := helper.Start(); err != nil {
			t.Fatal(err)
		}
		for s := bufio.NewScanner(stdout); s.Scan(); {
			if dir, ok := strings.CutPrefix(s.Text(), "dir: "); ok {
				return helper, dir
			}
		}
		t.Fatal("the helper started no server")
		return nil, ""
	}
	kill := func(helper *exec.Cmd, dir string) {
		if err := helper.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		helper.Wait()
		pid := filepath.Join(dir, "postmaster.pid")
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			if _, err := os.Stat(pid); os.IsNotExist(err) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("the server outlives its killed test process")
			}
		}
	}
	helper, dir := start()
	kill(helper, dir)
	next, nextDir := start()
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the next process did not sweep %s: %v", dir, err)
	}
	kill(next, nextDir)
}

func TestHelperProcess(t *testing.T) {
	if os.Getenv("PGTEST_HELPER") == "" {
		return // it is a part of TestKilledProcess
	}
	c := pgtest.Start(t, pgtest.Options{})
	fmt.Printf("dir: %s\n", c.Dir)
	bufio.NewReader(os.Stdin).ReadByte()
}

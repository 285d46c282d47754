package main_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"wal-e/internal/pgtest"
)

// stored returns the bytes of packs under the prefix.
func (a *archive) stored(t *testing.T) int64 {
	t.Helper()
	var total int64
	for _, p := range a.packs(t) {
		info, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
	}
	return total
}

// packs returns the files of packs.
func (a *archive) packs(t *testing.T) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(filepath.Join(a.prefix, "chunks_006", "packs"), func(p string, d fs.DirEntry, err error) error {
		switch {
		case os.IsNotExist(err):
			return nil // nothing yet, or a temporary file that is gone
		case err == nil && d.Type().IsRegular() && !strings.HasPrefix(d.Name(), "."):
			list = append(list, p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// A push that is killed late and repeated uploads little twice.
func TestKilledPush(t *testing.T) {
	t.Parallel()
	whole := newArchive(t)
	a := newArchive(t)
	c := a.start(t, pgtest.Options{DataChecksums: true})
	c.Pgbench(t, "-i", "-q", "-s", "10")
	// Rows that don't compress, so that there are packs enough to be killed among.
	c.Exec(t, "CREATE TABLE noise AS SELECT i, gen_random_uuid() a, gen_random_uuid() b, gen_random_uuid() c, gen_random_uuid() d, "+
		"gen_random_uuid() e, gen_random_uuid() f, gen_random_uuid() g, gen_random_uuid() h FROM generate_series(1, 1400000) i")
	c.Exec(t, "CHECKPOINT")
	c.Stop(t, pgtest.Fast)
	whole.must(t, nil, "backup-push", "--while-offline", c.Dir)
	once := whole.stored(t)

	cmd := a.command(t, nil, "backup-push", "--while-offline", "--cluster-read-rate-limit", "100000000", c.Dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for a.stored(t) < once*8/10 {
		time.Sleep(5 * time.Millisecond)
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	killed := a.stored(t)
	if killed >= once {
		t.Fatalf("the push was killed too late: %d of %d bytes were stored", killed, once)
	}
	a.must(t, nil, "backup-push", "--while-offline", c.Dir)
	total := a.stored(t)
	t.Logf("one push stores %d bytes; killed after %d, in all %d (%.2f)", once, killed, total, float64(total)/float64(once))
	if total > once*11/10 {
		t.Errorf("a killed and a repeated push stored %d bytes, want at most 1.1 times %d", total, once)
	}
	a.verified(t, nil)
}

// What can be wrong before a byte is read gives a clear error, and nothing is
// left behind that looks like a backup.
func TestPushRefuses(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	c := a.start(t, pgtest.Options{DataChecksums: true})
	empty := pgtest.TempDir(t)

	a.fails(t, c, 1, []string{"PG_VERSION"}, "backup-push", empty)
	a.fails(t, c, 1, []string{"no such file"}, "backup-push", filepath.Join(empty, "absent"))
	t.Run("relative path works", func(t *testing.T) {
		cmd := a.command(t, c, "backup-push", "--checkpoint", "fast", "data")
		cmd.Dir = filepath.Dir(c.Dir)
		if r := runCommand(t, cmd); r.code != 0 {
			t.Errorf("exit %d\n%s", r.code, r.stderr)
		}
	})

	c.Exec(t, "CREATE ROLE weak LOGIN")
	t.Run("role without rights", func(t *testing.T) {
		cmd := a.command(t, c, "backup-push", c.Dir)
		cmd.Env = append(cmd.Env, "PGUSER=weak")
		r := runCommand(t, cmd)
		if r.code != 1 || !strings.Contains(r.stderr, "GRANT EXECUTE") {
			t.Errorf("exit %d, want 1 and the GRANTs\n%s", r.code, r.stderr)
		}
	})

	t.Run("another server", func(t *testing.T) {
		other := pgtest.Start(t, pgtest.Options{})
		cmd := a.command(t, other, "backup-push", c.Dir)
		r := runCommand(t, cmd)
		if r.code != 1 || !strings.Contains(r.stderr, "PGPORT") {
			t.Errorf("exit %d, want 1 and a word on PGPORT\n%s", r.code, r.stderr)
		}
	})

	t.Run("unwritable target", func(t *testing.T) {
		cmd := a.command(t, c, "--file-prefix", "file://localhost/proc/archive", "backup-push", c.Dir)
		r := runCommand(t, cmd)
		if r.code == 0 || !strings.Contains(r.stderr, "/proc/archive") {
			t.Errorf("exit %d, want an error that names the folder\n%s", r.code, r.stderr)
		}
	})

	c.Exec(t, "ALTER SYSTEM SET archive_command = '/bin/true'")
	c.Exec(t, "SELECT pg_reload_conf()")
	a.fails(t, c, 1, []string{"WAL segment"}, "backup-push", "--checkpoint", "fast", "--wal-timeout", "3s", c.Dir)

	c.Exec(t, "ALTER SYSTEM SET archive_command = '/bin/false'")
	c.Exec(t, "SELECT pg_reload_conf()")
	c.SwitchWAL(t)
	c.WaitFor(t, "SELECT failed_count > 0 FROM pg_stat_archiver", "t")
	a.fails(t, c, 1, []string{"archiv"}, "backup-push", c.Dir)

	c.Stop(t, pgtest.Fast)
	a.fails(t, c, 1, []string{"connect"}, "backup-push", c.Dir)
	if r := a.must(t, nil, "backup-list"); strings.Count(r.stdout, "\n") != 2 {
		t.Errorf("backup-list shows more than the one backup that succeeded:\n%s", r.stdout)
	}
	a.fails(t, nil, 1, []string{"base_000000010000000000000099_00000040"}, "backup-fetch", target(t), "base_000000010000000000000099_00000040")
}

// Of two pushes of a cluster at once one says that the other runs.
func TestTwoPushesAtOnce(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	c := a.start(t, pgtest.Options{})
	c.Pgbench(t, "-i", "-q", "-s", "5")
	slow := a.command(t, c, "backup-push", "--checkpoint", "fast", "--cluster-read-rate-limit", "20000000", c.Dir)
	var stderr strings.Builder
	slow.Stderr = &stderr
	if err := slow.Start(); err != nil {
		t.Fatal(err)
	}
	intents := filepath.Join(a.prefix, "basebackups_006", "*", "*.intent")
	for found, _ := filepath.Glob(intents); len(found) == 0; found, _ = filepath.Glob(intents) {
		time.Sleep(10 * time.Millisecond)
	}
	a.fails(t, c, 1, []string{"another backup-push", "pid"}, "backup-push", c.Dir)
	if err := slow.Wait(); err != nil {
		t.Errorf("the first push: %v\n%s", err, stderr.String())
	}
	a.verified(t, c)
}

// A damaged pack is found and named; a push after a pack went away stores what
// it held again, and that backup restores.
func TestDamagedAndMissingPacks(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	c := a.start(t, pgtest.Options{DataChecksums: true})
	c.Pgbench(t, "-i", "-q", "-s", "3")
	c.Exec(t, "CHECKPOINT")
	p := a.push(t, c)
	pack := a.packs(t)[0]
	b, err := os.ReadFile(pack)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	replace(t, pack, b)
	key := strings.TrimPrefix(pack, a.prefix+"/")
	a.fails(t, c, 1, []string{key, p.Name}, "verify", "--all", "--read-data")
	dir := target(t)
	a.fails(t, c, 1, []string{key, p.Name, "back"}, "backup-fetch", dir, "LATEST")
	if r, err := pgtest.TryAdopt(t, dir, pgtest.Options{}); err == nil {
		t.Errorf("a server started on an unfinished restore on port %d", r.Port)
	}

	if err := os.Remove(pack); err != nil {
		t.Fatal(err)
	}
	a.fails(t, c, 1, []string{key, "missing"}, "backup-fetch", target(t), "LATEST")
	second := a.run(t, c, "backup-push", "--checkpoint", "fast", c.Dir)
	if second.code != 0 || !strings.Contains(second.stderr, "gone") {
		t.Fatalf("push after a pack went away: exit %d\n%s", second.code, second.stderr)
	}
	a.must(t, c, "verify", "LATEST", "--read-data", "--wal")
	want := c.Query(t, "SELECT md5(string_agg(t::text, ',' ORDER BY aid)) FROM pgbench_accounts t")
	restored := target(t)
	a.must(t, c, "backup-fetch", "--recover", restored, "LATEST")
	if got := a.adopt(t, restored).Query(t, "SELECT md5(string_agg(t::text, ',' ORDER BY aid)) FROM pgbench_accounts t"); got != want {
		t.Errorf("restored accounts are %s, want %s", got, want)
	}
}

// replace puts other bytes in the place of a stored object.
func replace(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// Local state that is gone, damaged or another's costs bytes, not the backup.
func TestLocalStateIsACache(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	c := a.start(t, pgtest.Options{DataChecksums: true})
	c.Pgbench(t, "-i", "-q", "-s", "3")
	c.Exec(t, "CHECKPOINT")
	a.push(t, c)
	state := strings.TrimPrefix(a.env[1], "WALE_STATE_DIR=")
	tables := func() []string {
		var list []string
		_ = filepath.WalkDir(state, func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.Name() == "index.db" {
				list = append(list, p)
			}
			return nil
		})
		return list
	}
	if len(tables()) != 1 {
		t.Fatalf("index tables: %v, want one", tables())
	}
	for _, tc := range []struct {
		name string
		do   func(t *testing.T, path string)
	}{
		{"deleted", func(t *testing.T, p string) { _ = os.Remove(p) }},
		{"cut", func(t *testing.T, p string) { _ = os.Truncate(p, 5000) }},
		{"empty", func(t *testing.T, p string) { _ = os.Truncate(p, 0) }},
		{"altered", func(t *testing.T, p string) {
			b, err := os.ReadFile(p)
			if err != nil {
				t.Fatal(err)
			}
			for i := 9000; i < len(b); i += 511 {
				b[i] ^= 0x40
			}
			if err := os.WriteFile(p, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		for _, p := range tables() {
			tc.do(t, p)
		}
		got := a.push(t, c)
		t.Logf("%s: %+v", tc.name, got)
		a.verified(t, c)
	}
	t.Run("not writable", func(t *testing.T) {
		cmd := a.command(t, c, "backup-push", "--checkpoint", "fast", c.Dir)
		cmd.Env = append(cmd.Env, "WALE_STATE_DIR=/proc/state")
		if r := runCommand(t, cmd); r.code != 0 || !strings.Contains(r.stderr, "WALE_STATE_DIR") {
			t.Errorf("exit %d, want 0 and a warning on WALE_STATE_DIR\n%s", r.code, r.stderr)
		}
	})
}

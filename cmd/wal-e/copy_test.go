package main_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"wal-e/internal/enginetest"
	"wal-e/internal/pgtest"
)

// copied is what copy --json prints.
type copied struct {
	Packs   int
	Bytes   int64
	WAL     int `json:"wal_files"`
	Backups []struct{ Backup, Copy, State string }
}

func (a *archive) copyTo(t *testing.T, args ...string) copied {
	t.Helper()
	r := a.must(t, nil, append([]string{"copy", "--json"}, args...)...)
	var c copied
	if err := json.Unmarshal([]byte(r.stdout), &c); err != nil {
		t.Fatalf("copy --json printed %q: %v", r.stdout, err)
	}
	return c
}

// A copy on other storage restores to the same rows when the archive is gone,
// sends what is new alone, and takes pushes.
func TestCopy(t *testing.T) {
	t.Parallel()
	a, b := newArchive(t), newArchive(t)
	s3 := s3Env(t, enginetest.MinIO(t))
	envdir := pgtest.TempDir(t)
	b.env = b.env[1:]
	for name, value := range s3 {
		b.env = append(b.env, name+"="+value)
		if err := os.WriteFile(filepath.Join(envdir, name), []byte(value+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	to := []string{"--to", s3["WALE_S3_PREFIX"], "--to-envdir", envdir}
	c := a.start(t, pgtest.Options{SegmentSizeMB: 1})
	c.Pgbench(t, "-i", "-q", "-s", "2")
	first := a.push(t, c)
	c.Exec(t, "CREATE TABLE later AS SELECT 1 AS i")
	if got := a.copyTo(t, append(to, "LATEST")...); len(got.Backups) != 1 || got.Backups[0].State != "copied" || got.WAL == 0 || got.Bytes == 0 {
		t.Errorf("the first copy: %+v", got)
	}
	second := a.push(t, c)
	c.Exec(t, "INSERT INTO later VALUES (2)")
	c.WaitArchived(t, c.SwitchWAL(t))
	got := a.copyTo(t, append(to, "--wal", "--last", "7")...)
	if len(got.Backups) != 2 || got.Backups[0].State != "present" || got.Backups[1].State != "copied" || got.Bytes > first.Stored/2 || got.WAL < 2 {
		t.Errorf("the second copy: %+v", got)
	}
	if got := a.copyTo(t, append(to, "--wal")...); got.Bytes != 0 || got.WAL != 0 {
		t.Errorf("a third copy sent %+v", got)
	}
	a.fails(t, nil, 1, []string{"holds another archive", "WALE-1205"}, "copy", "--to", func() string {
		other := newArchive(t)
		oc := other.start(t, pgtest.Options{SegmentSizeMB: 1})
		other.push(t, oc)
		oc.Stop(t, pgtest.Fast)
		return "file://localhost" + other.prefix
	}())
	classic := writableFixture(t, "prefixes/plain")
	before := classic.keys(t)
	a.fails(t, nil, 1, []string{"is a classic prefix", "WALE-1801"}, "copy", "--to", "file://localhost"+classic.prefix)
	if after := classic.keys(t); !slices.Equal(before, after) {
		t.Errorf("the refused copy changed %v to %v", before, after)
	}
	a.fails(t, nil, 1, []string{"both source and destination"}, "copy", "--to", "file://localhost"+a.prefix)

	want := c.Query(t, "SELECT count(*), sum(abalance) FROM pgbench_accounts")
	c.Stop(t, pgtest.Fast)
	if err := os.RemoveAll(a.prefix); err != nil {
		t.Fatal(err)
	}
	b.verified(t, nil)
	b.must(t, nil, "check")
	for name, rows := range map[string]string{first.Name: "1,2", second.Name: "1,2"} {
		dir := target(t)
		b.must(t, nil, "backup-fetch", "--recover", dir, name)
		r := b.adopt(t, dir)
		if got := r.Query(t, "SELECT count(*), sum(abalance) FROM pgbench_accounts"); got != want {
			t.Errorf("%s restores to %q, want %q", name, got, want)
		}
		if got := r.Query(t, "SELECT string_agg(i::text, ',' ORDER BY i) FROM later"); got != rows {
			t.Errorf("%s recovers to %q, want %q", name, got, rows)
		}
		r.Stop(t, pgtest.Fast)
	}
	b.must(t, nil, "delete", "--confirm", "before", second.Name)
	b.verified(t, nil)
}

// Who copies an encrypted archive needs no key.
func TestCopyEncrypted(t *testing.T) {
	t.Parallel()
	k := newKeyPair(t, "dba@example.com")
	plain := newArchive(t)
	host, owner := k.host(plain), k.owner(t, plain)
	copier := *plain
	copier.env = append(copier.env[:len(copier.env):len(copier.env)], "WALE_STATE_DIR="+filepath.Join(pgtest.TempDir(t), "state"))
	host.must(t, nil, "key", "init")
	c := host.start(t, pgtest.Options{SegmentSizeMB: 1})
	c.Exec(t, "CREATE TABLE secret AS SELECT 'sesame' AS v")
	host.push(t, c)
	c.WaitArchived(t, c.SwitchWAL(t))
	dest := filepath.Join(pgtest.TempDir(t), "vault")
	copier.copyTo(t, "--to", "file://localhost"+dest, "--wal")
	c.Stop(t, pgtest.Fast)
	dir := target(t)
	owner.must(t, nil, "--file-prefix", "file://localhost"+dest, "verify", "--all", "--read-data", "--wal")
	owner.env = append(owner.env, "WALE_FILE_PREFIX=file://localhost"+dest)
	owner.must(t, nil, "backup-fetch", "--recover", dir, "LATEST")
	if got := owner.adopt(t, dir).Query(t, "SELECT v FROM secret"); got != "sesame" {
		t.Errorf("restored %q", got)
	}
}

// An archive that is old enough to have a second one, and has none, is a problem
// until it is copied or a backup stands alone.
func TestStatusWantsSecond(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	c := a.start(t, pgtest.Options{SegmentSizeMB: 1})
	a.push(t, c)
	a.push(t, c)
	outcomes, err := filepath.Glob(filepath.Join(a.prefix, "basebackups_006/*/*.outcome"))
	if err != nil || len(outcomes) != 2 {
		t.Fatal(outcomes, err)
	}
	old := time.Now().Add(-40 * 24 * time.Hour)
	age := func() {
		for _, name := range outcomes {
			if err := os.Chtimes(name, old, old); err != nil {
				t.Fatal(err)
			}
		}
	}
	healthy := func() {
		t.Helper()
		if out := a.must(t, nil, "status").stdout; strings.Contains(out, "PROBLEM") {
			t.Errorf("status:\n%s", out)
		}
	}
	healthy()
	age()
	a.fails(t, nil, 1, []string{"there is no copy", "one damaged pack", "wal-e copy", "--fresh"}, "status")
	if out := a.run(t, nil, "check").stdout; !strings.Contains(out, "there is no copy") {
		t.Errorf("check doesn't miss a copy:\n%s", out)
	}
	a.copyTo(t, "--to", "file://localhost"+target(t), "--no-record")
	a.fails(t, nil, 1, []string{"there is no copy"}, "status")
	a.copyTo(t, "--to", "file://localhost"+target(t))
	healthy()
	if out := a.must(t, nil, "status").stdout; !strings.Contains(out, "without WAL, to file://") {
		t.Errorf("status doesn't show the copy:\n%s", out)
	}
	if err := os.RemoveAll(filepath.Join(a.prefix, "copies_006")); err != nil {
		t.Fatal(err)
	}
	a.fails(t, nil, 1, []string{"there is no copy"}, "status")
	a.push(t, c, "--fresh")
	healthy()
}

func TestLostBucketRunbook(t *testing.T) {
	t.Parallel()
	r := newRunbook(t, "lost_bucket.md")
	c := r.start(t, pgtest.Options{SegmentSizeMB: 1})
	r.vars = []string{"PGDATA=" + c.Dir}
	c.Exec(t, "CREATE TABLE written AS SELECT 1 AS i")
	r.push(t, c)
	r.next(t, c, "copy --to")
	c.Exec(t, "INSERT INTO written VALUES (2)")
	c.WaitArchived(t, c.SwitchWAL(t)) // and lost
	if err := os.RemoveAll(r.prefix); err != nil {
		t.Fatal(err)
	}
	if out := r.next(t, c, "backup-list"); !strings.Contains(out, "base_") {
		t.Errorf("the copy holds no backup:\n%s", out)
	}
	vault := "file://localhost" + filepath.Join(r.dir, "vault")
	c.Exec(t, "ALTER SYSTEM SET archive_command = '"+r.bin+" --terse --file-prefix "+vault+" wal-push %p'")
	c.Exec(t, "SELECT pg_reload_conf()")
	c.Exec(t, "INSERT INTO written VALUES (3)")
	c.WaitArchived(t, c.SwitchWAL(t))
	r.next(t, c, "backup-push")
	c.Exec(t, "INSERT INTO written VALUES (4)")
	c.WaitArchived(t, c.SwitchWAL(t))
	c.Stop(t, pgtest.Fast)
	r.next(t, c, "backup-fetch")
	restored := pgtest.Adopt(t, filepath.Join(r.dir, "restored"), pgtest.Options{Env: r.env, Conf: map[string]string{"archive_mode": "off"}})
	restored.WaitRecovered(t)
	if got := restored.Query(t, "SELECT string_agg(i::text, ',' ORDER BY i) FROM written"); got != "1,2,3,4" {
		t.Errorf("restored %q", got)
	}
	r.next(t, c, "copy --to")
	r.end(t)
}

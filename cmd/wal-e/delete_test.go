package main_test

import (
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"wal-e/internal/pgtest"
)

// objects returns the names of all objects under the prefix.
func (a *archive) objects(t *testing.T) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(a.prefix, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			list = append(list, strings.TrimPrefix(p, a.prefix+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// wal counts the WAL files under the prefix.
func (a *archive) wal(t *testing.T) int {
	t.Helper()
	n := 0
	for _, k := range a.objects(t) {
		if strings.HasPrefix(k, "wal_006/") {
			n++
		}
	}
	return n
}

// Deleting frees what no backup needs, keeps what one does, and can be undone
// within its grace.
func TestDelete(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	c := a.start(t, pgtest.Options{DataChecksums: true})
	c.Pgbench(t, "-i", "-q", "-s", "2")
	var names []string
	for range 3 {
		names = append(names, a.push(t, c).Name)
		c.Pgbench(t, "-n", "-t", "300", "-c", "2")
		c.WaitArchived(t, c.SwitchWAL(t))
	}
	want := c.Query(t, "SELECT md5(string_agg(t::text, ',' ORDER BY aid)) FROM pgbench_accounts t")

	before := a.objects(t)
	a.fails(t, c, 0, []string{"performing dry run", names[0], "This is only a dry run"}, "delete", "retain", "1")
	a.fails(t, c, 0, []string{"performing dry run"}, "delete", "--dry-run", "--confirm", "retain", "1")
	if after := a.objects(t); !slices.Equal(before, after) {
		t.Errorf("a dry run changed the archive:\nbefore %q\nafter %q", before, after)
	}

	a.must(t, c, "backup-mark", "--keep", names[0])
	a.must(t, c, "delete", "--confirm", "--grace", "1h", "retain", "1")
	if r := a.must(t, c, "backup-list"); strings.Contains(r.stdout, names[1]) || !strings.Contains(r.stdout, names[0]) || !strings.Contains(r.stdout, names[2]) {
		t.Errorf("after retain 1 with %s marked the list is\n%s", names[0], r.stdout)
	}
	a.verified(t, c)
	a.must(t, c, "undelete", names[1])
	a.must(t, c, "verify", names[1], "--read-data")
	a.must(t, c, "backup-mark", "--release", names[0])
	a.must(t, c, "delete", "retain", "1", "--confirm")
	if r := a.must(t, c, "backup-list"); strings.Count(r.stdout, "base_") != 1 {
		t.Errorf("after retain 1 the list is\n%s", r.stdout)
	}
	a.verified(t, c)
	dir := target(t)
	a.must(t, c, "backup-fetch", "--recover", dir, "LATEST")
	if got := a.adopt(t, dir).Query(t, "SELECT md5(string_agg(t::text, ',' ORDER BY aid)) FROM pgbench_accounts t"); got != want {
		t.Errorf("accounts after delete and restore are %s, want %s", got, want)
	}

	c.Stop(t, pgtest.Fast)
	a.must(t, nil, "delete", "--confirm", "everything")
	for _, k := range a.objects(t) {
		if !strings.HasPrefix(k, "chunks_006/config/") && k != "chunks_006/FORMAT.txt" {
			t.Errorf("delete everything left %s", k)
		}
	}
}

// A delete beside a running push says what is pending, and a later gc frees it.
func TestDeleteBesideAPush(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	c := a.start(t, pgtest.Options{})
	c.Pgbench(t, "-i", "-q", "-s", "3")
	first := a.push(t, c)
	c.Exec(t, "UPDATE pgbench_accounts SET filler = md5(aid::text)")
	c.Exec(t, "VACUUM FULL pgbench_accounts")
	a.push(t, c)
	slow := a.command(t, c, "backup-push", "--checkpoint", "fast", "--cluster-read-rate-limit", "20000000", c.Dir)
	var stderr strings.Builder
	slow.Stderr = &stderr
	if err := slow.Start(); err != nil {
		t.Fatal(err)
	}
	intents := filepath.Join(a.prefix, "basebackups_006", "*", "*.intent")
	for found, _ := filepath.Glob(intents); len(found) < 3; found, _ = filepath.Glob(intents) {
		time.Sleep(10 * time.Millisecond)
	}
	a.fails(t, c, 0, []string{"pending", "since"}, "delete", "--confirm", "retain", "1")
	if err := slow.Wait(); err != nil {
		t.Fatalf("the push: %v\n%s", err, stderr.String())
	}
	// The packs of the first backup also hold what later ones share; its WAL is
	// nobody's any more.
	before := a.wal(t)
	a.must(t, c, "gc")
	if after := a.wal(t); after >= before {
		t.Errorf("gc after the push left %d of %d WAL files", after, before)
	}
	if r := a.must(t, c, "backup-list"); strings.Contains(r.stdout, first.Name) {
		t.Errorf("%s was deleted but is listed:\n%s", first.Name, r.stdout)
	}
	a.verified(t, c)
}

// A push that was frozen for longer than anybody waits and then wakes up finds
// itself declared dead: it fails, and nothing is lost.
func TestFrozenPush(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	c := a.start(t, pgtest.Options{})
	c.Pgbench(t, "-i", "-q", "-s", "3")
	a.push(t, c)
	c.Exec(t, "UPDATE pgbench_accounts SET filler = md5(aid::text)")
	frozen := a.command(t, c, "backup-push", "--checkpoint", "fast", "--cluster-read-rate-limit", "20000000", c.Dir)
	var stderr strings.Builder
	frozen.Stderr = &stderr
	if err := frozen.Start(); err != nil {
		t.Fatal(err)
	}
	intents := filepath.Join(a.prefix, "basebackups_006", "*", "*.intent")
	for found, _ := filepath.Glob(intents); len(found) < 2; found, _ = filepath.Glob(intents) {
		time.Sleep(10 * time.Millisecond)
	}
	if err := frozen.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	a.must(t, c, "delete", "--confirm", "--abort-running", "retain", "1")
	if err := frozen.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := frozen.Wait(); err == nil {
		t.Errorf("a push that was declared dead exited 0\n%s", stderr.String())
	} else if !strings.Contains(stderr.String(), "declared dead") {
		t.Errorf("the push doesn't say that it was declared dead:\n%s", stderr.String())
	}
	a.verified(t, c)
	a.push(t, c)
	a.must(t, c, "delete", "--confirm", "retain", "1")
	a.verified(t, c)
}

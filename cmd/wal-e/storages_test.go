package main_test

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"wal-e/gc"
	"wal-e/internal/pgtest"
)

// A storageCase is a store that an archive can be on.
type storageCase struct {
	name string // of the subtest; each store's begin alike, for go test -run
	// open starts the store's server and returns the variables of an empty
	// prefix in it.
	open func(t *testing.T) map[string]string
	// collect are options that delete and gc need on this store.
	collect []string
}

func storageCases() []storageCase {
	return slices.Concat(
		[]storageCase{{name: "file", open: func(t *testing.T) map[string]string {
			return map[string]string{"WALE_FILE_PREFIX": "file://localhost" + filepath.Join(pgtest.TempDir(t), "archive")}
		}}},
		s3Cases(),
		swiftCases(),
		wabsCases(),
		gsCases(),
	)
}

// Every command that moves data does its work on every store.
func TestStorages(t *testing.T) {
	t.Parallel()
	for _, s := range storageCases() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			testStorage(t, s)
		})
	}
}

// newStorageArchive returns an archive whose prefix is in another store.
func newStorageArchive(t *testing.T, vars map[string]string) *archive {
	t.Helper()
	a := newArchive(t)
	a.prefix = "" // no folder
	a.env = slices.DeleteFunc(a.env, func(v string) bool { return strings.HasPrefix(v, "WALE_FILE_PREFIX=") })
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		a.env = append(a.env, name+"="+vars[name])
	}
	return a
}

const accounts = "SELECT count(*), sum(abalance), md5(string_agg(t::text, ',' ORDER BY aid)) FROM pgbench_accounts t"

// testStorage archives a cluster, restores it to the end of its WAL, deletes
// what is old and collects.
func testStorage(t *testing.T, s storageCase) {
	a := newStorageArchive(t, s.open(t))
	c := a.start(t, pgtest.Options{DataChecksums: true, Conf: map[string]string{"max_wal_size": "256MB"}})
	c.Pgbench(t, "-i", "-q", "-s", "1")
	c.Exec(t, "CHECKPOINT")
	first := a.push(t, c)
	c.Exec(t, "UPDATE pgbench_accounts SET abalance = 7 WHERE aid < 100")
	second := a.push(t, c)
	if second.New >= first.New/2 {
		t.Errorf("second push found %d new bytes, the first %d", second.New, first.New)
	}
	list := a.must(t, c, "backup-list").stdout
	if strings.Count(list, "base_") != 2 || !strings.Contains(list, first.Name) || !strings.Contains(list, second.Name) {
		t.Errorf("backup-list printed\n%s\nwant %s and %s", list, first.Name, second.Name)
	}
	c.Exec(t, "DELETE FROM pgbench_accounts WHERE aid % 5 = 0")
	want := c.Query(t, accounts)
	segment := c.SwitchWAL(t)
	c.WaitArchived(t, segment)
	a.roundTrip(t, c, segment)
	a.verified(t, c)

	a.must(t, c, slices.Concat([]string{"delete", "retain", "1", "--confirm"}, s.collect)...)
	if list := a.must(t, c, "backup-list").stdout; strings.Contains(list, first.Name) || !strings.Contains(list, second.Name) {
		t.Errorf("backup-list after retain 1 printed\n%s\nwant only %s", list, second.Name)
	}
	a.nothingDead(t, c, s.collect)
	a.verified(t, c)

	dir := target(t)
	a.must(t, c, "backup-fetch", "--recover", dir, "LATEST")
	if got := a.adopt(t, dir).Query(t, accounts); got != want {
		t.Errorf("restored accounts are %s, want %s", got, want)
	}
}

// roundTrip fetches a segment that is archived, compares it with the server's,
// and pushes it again, which changes nothing.
func (a *archive) roundTrip(t *testing.T, c *pgtest.Cluster, segment string) {
	t.Helper()
	fetched := filepath.Join(pgtest.TempDir(t), segment)
	// Commands of PostgreSQL run in the data directory.
	fetch := a.command(t, c, "wal-fetch", segment, fetched)
	fetch.Dir = c.Dir
	if r := runCommand(t, fetch); r.code != 0 {
		t.Fatalf("wal-fetch %s: exit %d\n%s", segment, r.code, r.stderr)
	}
	if got, want := read(t, fetched), read(t, filepath.Join(c.Dir, "pg_wal", segment)); got != want {
		t.Errorf("wal-fetch %s wrote %d bytes that are not the %d of pg_wal", segment, len(got), len(want))
	}
	again := a.command(t, c, "wal-push", "pg_wal/"+segment)
	again.Dir = c.Dir
	if r := runCommand(t, again); r.code != 0 {
		t.Errorf("wal-push of %s, which is archived: exit %d\n%s", segment, r.code, r.stderr)
	}
	absent := a.command(t, c, "wal-fetch", "0000000100000000000000EE", fetched)
	absent.Dir = c.Dir
	if r := runCommand(t, absent); r.code != 1 {
		t.Errorf("wal-fetch of a segment that isn't there: exit %d, want 1\n%s", r.code, r.stderr)
	}
}

// nothingDead runs a collection that finds nothing to do.
func (a *archive) nothingDead(t *testing.T, c *pgtest.Cluster, options []string) {
	t.Helper()
	r := a.must(t, c, slices.Concat([]string{"gc", "--json"}, options)...)
	var report gc.Report
	if err := json.Unmarshal([]byte(r.stdout), &report); err != nil {
		t.Fatalf("gc --json printed %q: %v", r.stdout, err)
	}
	if report.Freed.Packs != 0 || report.Freed.WAL != 0 || report.Pending != (gc.Amount{}) || report.Reaped != 0 {
		t.Errorf("gc after delete found %+v, want nothing to free", report)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

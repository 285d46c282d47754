package main_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"wal-e/internal/pgtest"
)

// fill writes some segments of 1 MB.
func fill(t *testing.T, c *pgtest.Cluster) {
	t.Helper()
	c.Exec(t, "INSERT INTO written SELECT i, repeat(md5(i::text), 24) FROM generate_series(1, 4000) i")
}

func newWritten(t *testing.T, c *pgtest.Cluster) {
	t.Helper()
	c.Exec(t, "CREATE TABLE written (i int, v text)")
}

// removeStored removes a segment from file storage.
func (a *archive) removeStored(t *testing.T, seg string) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(a.prefix, "wal_006", "*", seg))
	if err != nil || len(found) != 1 {
		t.Fatalf("%s: %v, %v", seg, found, err)
	}
	if err := os.Remove(found[0]); err != nil {
		t.Fatal(err)
	}
}

func TestDiskFullRunbook(t *testing.T) {
	t.Parallel()
	r := newRunbook(t, "disk_full.md")
	broken := filepath.Join(r.dir, "broken")
	c := pgtest.Start(t, pgtest.Options{
		SegmentSizeMB: 1, Env: r.env, Conf: map[string]string{"autovacuum": "off"},
		ArchiveCommand: "test ! -e " + broken + " && " + r.bin + " --terse wal-push %p",
	})
	r.vars = []string{"PGDATA=" + c.Dir}
	newWritten(t, c)
	r.push(t, c)
	if err := os.WriteFile(broken, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		fill(t, c)
	}
	c.SwitchWAL(t)
	want := c.Query(t, recoveryContents)
	c.Stop(t, pgtest.Immediate)
	count, oldest, _ := strings.Cut(r.next(t, c, "grep -c"), "\n")
	if n, err := strconv.Atoi(count); err != nil || n < 3 || !strings.HasPrefix(oldest, "00000001") {
		t.Errorf("%s segments wait (%v), the oldest is %s", count, err, oldest)
	}
	r.next(t, c, "check")
	r.next(t, c, "wal-push")
	if waiting, err := filepath.Glob(filepath.Join(c.Dir, "pg_wal/archive_status/*.ready")); err != nil || len(waiting) > 0 {
		t.Errorf("%v still wait (%v)", waiting, err)
	}
	if err := os.Remove(broken); err != nil {
		t.Fatal(err)
	}
	c.StartAgain(t)
	r.next(t, c, "CHECKPOINT")
	r.end(t)
	dir := target(t)
	r.must(t, nil, "backup-fetch", "--recover", dir, "LATEST")
	if got := r.adopt(t, dir).Query(t, recoveryContents); got != want {
		t.Errorf("recovered:\n%s\nwant:\n%s", got, want)
	}
}

func TestStandbyRunbook(t *testing.T) {
	t.Parallel()
	r := newRunbook(t, "standby_fell_off.md")
	conf := map[string]string{"autovacuum": "off", "wal_keep_size": "0", "min_wal_size": "2MB", "max_wal_size": "2MB", "wal_retrieve_retry_interval": "100ms"}
	c := r.start(t, pgtest.Options{SegmentSizeMB: 1, Conf: conf})
	newWritten(t, c)
	r.push(t, c)
	s := c.Standby(t, pgtest.Options{Env: r.env, Conf: map[string]string{"wal_retrieve_retry_interval": "100ms"}})
	s.WaitCaughtUp(t, c)
	s.Stop(t, pgtest.Fast)
	// Without a slot the primary keeps nothing for it.
	appendTo(t, filepath.Join(s.Dir, "postgresql.auto.conf"), "primary_slot_name = ''\n")
	c.Exec(t, "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
	for range 3 {
		fill(t, c)
		c.WaitArchived(t, c.SwitchWAL(t))
		c.Exec(t, "CHECKPOINT")
	}
	want := c.Query(t, recoveryContents)
	s.StartAgain(t)
	waitLog(t, s, "has already been removed", 1)
	r.vars = []string{"PGDATA=" + s.Dir}
	r.next(t, s, "wal-verify")

	// The test's server is restarted by its own hand: with its port and its socket.
	script := r.blocks[0]
	r.blocks[0], _, _ = strings.Cut(script, "\npg_ctl")
	r.next(t, s, "restore_command")
	s.Restart(t)
	s.WaitFor(t, recoveryContents, want)
	s.Stop(t, pgtest.Fast)
	r.next(t, s, "--delta")
	r.end(t)
	s.StartAgain(t)
	s.WaitFor(t, recoveryContents, want)
	fill(t, c)
	want = c.Query(t, recoveryContents)
	s.WaitFor(t, recoveryContents, want) // it streams again
}

func TestGapRunbook(t *testing.T) {
	t.Parallel()
	r := newRunbook(t, "gap.md")
	c := r.start(t, pgtest.Options{SegmentSizeMB: 1, Conf: map[string]string{"autovacuum": "off", "wal_keep_size": "100MB"}})
	newWritten(t, c)
	r.push(t, c)
	fill(t, c)
	found, lost := c.SwitchWAL(t), ""
	fill(t, c)
	lost = c.SwitchWAL(t)
	fill(t, c)
	c.WaitArchived(t, c.SwitchWAL(t))
	for _, seg := range []string{found, lost} {
		r.removeStored(t, seg)
	}
	if err := os.Remove(filepath.Join(c.Dir, "pg_wal", lost)); err != nil {
		t.Fatal(err)
	}
	r.fails(t, nil, 1, []string{found}, "wal-verify")
	r.vars = []string{"PGDATA=" + c.Dir, "LOST=" + found}
	r.next(t, c, "wal-show")
	push := r.blocks[0]
	r.next(t, c, "wal-push")
	r.fails(t, nil, 1, []string{"1 segment is missing: " + lost}, "wal-verify")
	r.vars[1] = "LOST=" + lost
	r.blocks = append([]string{push}, r.blocks...)
	r.next(t, c, "wal-push")
	r.next(t, c, "backup-push")
	r.next(t, c, "--known-gap")
	r.end(t)
	want := c.Query(t, recoveryContents)
	dir := target(t)
	r.must(t, nil, "backup-fetch", "--recover", dir, "LATEST")
	if got := r.adopt(t, dir).Query(t, recoveryContents); got != want {
		t.Errorf("recovered:\n%s\nwant:\n%s", got, want)
	}
}

func TestTwoClustersRunbook(t *testing.T) {
	t.Parallel()
	r := newRunbook(t, "two_clusters.md")
	conf := map[string]string{"autovacuum": "off"}
	c := r.start(t, pgtest.Options{SegmentSizeMB: 1, Conf: conf})
	newWritten(t, c)
	r.push(t, c)
	c.WaitArchived(t, c.SwitchWAL(t))

	// Another cluster comes to the same prefix.
	o := pgtest.Start(t, pgtest.Options{SegmentSizeMB: 1, Env: r.env, ArchiveCommand: "false"})
	seg := o.SwitchWAL(t)
	r.fails(t, o, 1, []string{"adopt-system"}, "wal-push", filepath.Join(o.Dir, "pg_wal", seg))
	if out := r.next(t, c, "wal-show"); strings.Count(out, "system ") > 1 {
		t.Errorf("wal-show shows more than one system:\n%s", out)
	}
	own := "WALE_FILE_PREFIX=file://localhost" + filepath.Join(r.dir, "other")
	o.Exec(t, "ALTER SYSTEM SET archive_command = '"+own+" "+r.bin+" --terse wal-push %p'")
	o.Exec(t, "SELECT pg_reload_conf()")
	o.WaitArchived(t, seg)
	r.vars = []string{"OTHER=" + o.Dir}
	r.next(t, o, "backup-push")

	// A copy that archives goes on on a timeline that the original takes later.
	dir := target(t)
	r.must(t, nil, "backup-fetch", "--recover", "--keep-archiving", dir, "LATEST")
	twin := pgtest.Adopt(t, dir, pgtest.Options{Env: r.env, Conf: conf})
	twin.WaitRecovered(t)
	fill(t, twin)
	twin.WaitArchived(t, twin.SwitchWAL(t))
	history := filepath.Join(c.Dir, "pg_wal/00000002.history")
	if err := os.WriteFile(history, []byte("1\t0/5000000\tno recovery target specified\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r.fails(t, c, 1, []string{"differs from", "Another copy of this cluster was promoted"}, "wal-push", history)
	if err := os.Remove(history); err != nil {
		t.Fatal(err)
	}
	r.vars = []string{"COPY=" + dir}
	r.next(t, twin, "archive_mode")
	twin.Restart(t)
	if got := twin.Query(t, "SHOW archive_mode"); got != "off" {
		t.Errorf("archive_mode of the copy is %s", got)
	}
	fill(t, c)
	c.WaitArchived(t, c.SwitchWAL(t))
	r.push(t, c)
	r.next(t, c, "--read-data")
	r.end(t)
}

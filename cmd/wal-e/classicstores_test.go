package main_test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"wal-e/internal/pgtest"
)

// The classic layout is written, listed, verified, restored, replayed and deleted on
// every store, not in files alone.
func TestClassicStores(t *testing.T) {
	t.Parallel()
	tested := 0
	for _, s := range storageCases() {
		if !slices.Contains([]string{"s3 minio", "swift-v1", "wabs key", "gs"}, s.name) {
			continue
		}
		tested++
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			a := newStorageArchive(t, s.open(t))
			a.env = append(a.env, "WALE_LAYOUT=classic")
			c := a.start(t, pgtest.Options{SegmentSizeMB: 1})
			newWritten(t, c)
			first := a.classicPush(t, c)
			c.Exec(t, "INSERT INTO written VALUES (1, 'between')")
			second := a.classicPush(t, c)
			c.Exec(t, "INSERT INTO written VALUES (2, 'in WAL')")
			segment := c.SwitchWAL(t)
			c.WaitArchived(t, segment)
			a.roundTrip(t, c, segment)
			a.must(t, c, "verify", "--all", "--read-data", "--wal")
			a.must(t, c, append([]string{"delete", "--confirm", "retain", "1"}, s.collect...)...)
			if list := a.must(t, c, "backup-list").stdout; strings.Contains(list, first) || !strings.Contains(list, second) {
				t.Errorf("backup-list after retain 1 printed\n%s\nwant only %s", list, second)
			}
			dir := target(t)
			a.must(t, nil, "backup-fetch", dir, "LATEST")
			a.configure(t, dir)
			got := a.recovered(t, dir, classicRestore{Timeline: "latest"}).Query(t, "SELECT string_agg(v, ', ' ORDER BY i) FROM written")
			if got != "between, in WAL" {
				t.Errorf("restored %q", got)
			}
		})
	}
	if tested != 4 {
		t.Errorf("%d stores were tested, want 4", tested)
	}
}

// A standby takes a classic backup, too, which restores as the original does it.
func TestClassicStandby(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	a.env = append(a.env, "WALE_LAYOUT=classic")
	c := a.start(t, pgtest.Options{SegmentSizeMB: 1})
	newWritten(t, c)
	inTablespace(t, c)
	oid := filepath.Base(onlyEntry(t, filepath.Join(c.Dir, "pg_tblspc")))
	s := c.Standby(t, pgtest.Options{Env: a.env})
	s.WaitCaughtUp(t, c)
	c.Exec(t, "INSERT INTO written VALUES (1, 'before')")
	c.Exec(t, "CHECKPOINT")
	s.WaitCaughtUp(t, c)
	done, over := make(chan struct{}), make(chan struct{})
	go func() { // the backup waits for WAL that a quiet primary doesn't archive
		defer close(done)
		for {
			select {
			case <-over:
				return
			case <-time.After(100 * time.Millisecond):
				if _, err := c.TryQuery(t.Context(), "SELECT pg_switch_wal()"); err != nil {
					return
				}
			}
		}
	}()
	name := a.classicPush(t, s)
	close(over)
	<-done
	c.Exec(t, "INSERT INTO written VALUES (2, 'after')")
	c.WaitArchived(t, c.SwitchWAL(t))
	a.must(t, nil, "verify", "--all", "--read-data", "--wal")
	r := a.recovered(t, a.restoreAsOriginal(t, name, map[string]string{oid: target(t)}), classicRestore{Timeline: "latest"})
	if got := r.Query(t, "SELECT string_agg(v, ', ' ORDER BY i) FROM written"); got != "before, after" {
		t.Errorf("restored %q", got)
	}
	if got := r.Query(t, "SELECT count(*) FROM spaced"); got != "20000" {
		t.Errorf("restored %s rows of the tablespace", got)
	}
}

package gc_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"
	"testing"
	"time"

	"wal-e/chunkstore"
	"wal-e/gc"
	"wal-e/internal/envelope"
	"wal-e/internal/runid"
	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
)

func create(t *testing.T, b storage.Bucket, key, kind string, v any) {
	t.Helper()
	data, err := envelope.Encode(kind, 1, v)
	if err != nil {
		t.Fatal(err)
	}
	if err := storage.CreateBytes(t.Context(), b, key, data, nil); err != nil {
		t.Fatal(err)
	}
}

// createRun stores what makes a run: an intent, and unless result is "" an
// outcome.
func createRun(t *testing.T, b storage.Bucket, r gc.Backup, result string) {
	t.Helper()
	create(t, b, r.Ref.IntentKey(), "intent", chunkstore.Intent{System: r.System, Start: r.Start.String()})
	if result == "" {
		return
	}
	o := chunkstore.Outcome{Result: result}
	if result == chunkstore.Commit {
		o.System, o.Start = r.System, r.Start.String()
		o.Manifest = json.RawMessage(fmt.Sprintf(
			`{"timeline":%d,"start_lsn":%q,"stop_lsn":%q,"wal_segment_size":%d,"stopped":%q,"page_checksums":{"failed":%d}}`,
			r.Timeline, r.Start, r.Stop, r.SegmentSize, r.Taken.Format(time.RFC3339Nano), r.PageFailures))
	}
	create(t, b, r.Ref.OutcomeKey(), "outcome", o)
}

func TestReadCatalog(t *testing.T) {
	t.Parallel()
	b := mem.New(today)
	list := nightly(3)
	list[1].failures = 4
	for _, r := range list {
		createRun(t, b, r.backup(), chunkstore.Commit)
	}
	deleted, aborted, open := retained{segment: 1}.backup(), retained{segment: 2}.backup(), retained{segment: 3}.backup()
	createRun(t, b, deleted, chunkstore.Commit)
	create(t, b, deleted.Ref.TombstoneKey(), "tombstone", chunkstore.Tombstone{})
	createRun(t, b, aborted, chunkstore.Abort)
	createRun(t, b, open, "")
	marker := gc.Marker{Bucket: b, Now: today}
	if err := marker.Keep(t.Context(), list[0].backup().Ref, time.Time{}); err != nil {
		t.Fatal(err)
	}

	c, err := gc.ReadCatalog(t.Context(), b, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Backups) != 3 || len(c.Open) != 1 || c.Open[0].Ref != open.Ref || c.Open[0].Start != open.Start || len(c.Keeps) != 1 {
		t.Fatalf("catalog = %+v", c)
	}
	for _, r := range list {
		want, found := r.backup(), false
		for _, got := range c.Backups {
			if got.Ref == want.Ref {
				found = true
				if got.Stored.IsZero() {
					t.Errorf("%s: no time by the store's clock", got.Ref)
				}
				got.Stored = want.Stored
				if !got.Taken.Equal(want.Taken) {
					t.Errorf("%s: taken %s, want %s", got.Ref, got.Taken, want.Taken)
				}
				got.Taken = want.Taken
				if got != want {
					t.Errorf("backup = %+v, want %+v", got, want)
				}
			}
		}
		if !found {
			t.Errorf("no backup %s", want.Ref)
		}
	}
}

func TestReadCatalogArchived(t *testing.T) {
	t.Parallel()
	b := mem.New(today)
	createRun(t, b, retained{segment: 1}.backup(), chunkstore.Commit)
	createRun(t, b, retained{system: newSystem, segment: 1, run: 1}.backup(), chunkstore.Commit)
	for _, key := range []string{"wal_006/" + oldSystem + "/000000010000000000000001", "wal_005/000000010000000000000001.lzo"} {
		if err := storage.CreateBytes(t.Context(), b, key, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	classic := retained{segment: 1}.backup()
	classic.Classic, classic.System, classic.Ref.Run = true, "", runid.ID{}
	c, err := gc.ReadCatalog(t.Context(), b, 1, []gc.Backup{classic})
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Backups) != 3 || c.Archived[oldSystem].IsZero() || !c.Archived[newSystem].IsZero() || c.Archived[""].IsZero() || len(c.Archived) != 3 {
		t.Errorf("catalog = %+v", c)
	}
}

// What can't be read stops a decision.
func TestReadCatalogFailsClosed(t *testing.T) {
	t.Parallel()
	good := retained{segment: 1}.backup()
	damaged := retained{segment: 2}.backup()
	for name, key := range map[string]string{
		"outcome":   damaged.Ref.OutcomeKey(),
		"intent":    damaged.Ref.IntentKey(),
		"keep mark": good.Ref.KeepPrefix() + (runid.ID{7}).String() + ".keep",
		"mark name": good.Ref.KeepPrefix() + "forever.keep",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := mem.New(today)
			createRun(t, b, good, chunkstore.Commit)
			if name == "outcome" {
				create(t, b, damaged.Ref.IntentKey(), "intent", chunkstore.Intent{})
			}
			if err := storage.CreateBytes(t.Context(), b, key, []byte("damaged"), nil); err != nil {
				t.Fatal(err)
			}
			if c, err := gc.ReadCatalog(t.Context(), b, 0, nil); err == nil || !strings.Contains(err.Error(), key) {
				t.Errorf("ReadCatalog = %+v, %v, want an error about %s", c, err, key)
			}
		})
	}
}

func TestKeepAndRelease(t *testing.T) {
	t.Parallel()
	b := mem.New(today)
	backup := retained{segment: 1}.backup()
	createRun(t, b, backup, chunkstore.Commit)
	now := today()
	m := gc.Marker{Bucket: b, Host: "db1", Now: func() time.Time { return now }}
	keep := func(until time.Time) error { return m.Keep(t.Context(), backup.Ref, until) }
	check := func(want bool, until time.Time) {
		t.Helper()
		keeps, err := gc.ReadKeeps(t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		k, ok := keeps[backup.Ref]
		if ok != want || !k.Until.Equal(until) || ok && k.Host != "db1" {
			t.Errorf("mark = %+v, %t, want %t until %s", k, ok, want, until)
		}
	}
	check(false, time.Time{})
	steps := []struct {
		do    func() error
		holds bool
		until time.Time
	}{
		{func() error { return keep(time.Time{}) }, true, time.Time{}},
		{func() error { return m.Release(t.Context(), backup.Ref) }, false, time.Time{}},
		{func() error { return m.Release(t.Context(), backup.Ref) }, false, time.Time{}},
		{func() error { return keep(today().Add(day)) }, true, today().Add(day)},
		{func() error { return keep(today().Add(2 * day)) }, true, today().Add(2 * day)},
		{func() error { return keep(time.Time{}) }, true, time.Time{}},
	}
	for _, s := range steps {
		now = now.Add(-time.Hour) // the clock runs back, the newest mark counts all the same
		if err := s.do(); err != nil {
			t.Fatal(err)
		}
		check(s.holds, s.until)
	}
	if err := keep(now); err == nil {
		t.Error("Keep until now succeeds")
	}
}

func TestKeepHolds(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		until time.Time
		want  bool
	}{{time.Time{}, true}, {today().Add(1), true}, {today(), false}, {today().Add(-day), false}} {
		if got := (gc.Keep{Until: tt.until}).Holds(today()); got != tt.want {
			t.Errorf("until %s: Holds = %t", tt.until, got)
		}
	}
}

// deleteBetween deletes a backup while it is being marked.
type deleteBetween struct {
	storage.Bucket
	run func()
}

func (b *deleteBetween) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Object, error] {
	b.run()
	return b.Bucket.List(ctx, prefix, after)
}

func TestKeepRefuses(t *testing.T) {
	t.Parallel()
	b := mem.New(today)
	backup, deleted, aborted, open := retained{segment: 1}.backup(), retained{segment: 2}.backup(), retained{segment: 3}.backup(), retained{segment: 4}.backup()
	createRun(t, b, backup, chunkstore.Commit)
	createRun(t, b, deleted, chunkstore.Commit)
	create(t, b, deleted.Ref.TombstoneKey(), "tombstone", chunkstore.Tombstone{})
	createRun(t, b, aborted, chunkstore.Abort)
	createRun(t, b, open, "")
	for name, ref := range map[string]chunkstore.Ref{
		"deleted": deleted.Ref, "aborted": aborted.Ref, "open": open.Ref, "unknown": retained{segment: 5}.backup().Ref,
	} {
		if err := (gc.Marker{Bucket: b}).Keep(t.Context(), ref, time.Time{}); !errors.Is(err, gc.ErrNotBackup) {
			t.Errorf("Keep of what is %s = %v, want ErrNotBackup", name, err)
		}
	}
	racing := &deleteBetween{b, func() { create(t, b, backup.Ref.TombstoneKey(), "tombstone", chunkstore.Tombstone{}) }}
	if err := (gc.Marker{Bucket: racing}).Keep(t.Context(), backup.Ref, time.Time{}); !errors.Is(err, gc.ErrNotBackup) {
		t.Errorf("Keep of what is deleted meanwhile = %v, want ErrNotBackup", err)
	}
}

// Whatever the name of an object under a backup's marks, reading them ends in
// a mark, an error, or nothing; and what looks like a mark is never ignored.
func FuzzKeepMarkNames(f *testing.F) {
	id := (runid.ID{7}).String()
	for _, s := range []string{id + ".keep", id + ".release", ".keep", id, id + ".keep.tmp", "x/" + id + ".keep", "00.keep"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		ref := retained{segment: 1}.backup().Ref
		if storage.CheckKey(ref.KeepPrefix()+name) != nil || strings.Contains(name, "/") {
			return
		}
		b := mem.New(today)
		create(t, b, ref.KeepPrefix()+name, "keep", gc.Keep{})
		keeps, err := gc.ReadKeeps(t.Context(), b)
		if _, held := keeps[ref]; strings.HasSuffix(name, ".keep") != (held || err != nil) {
			t.Errorf("mark %q: held %t, %v", name, held, err)
		}
	})
}

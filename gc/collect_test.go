package gc_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"wal-e/chunkstore"
	"wal-e/gc"
	"wal-e/index"
	"wal-e/internal/postgres"
	"wal-e/internal/storage"
	"wal-e/internal/storage/file"
	"wal-e/internal/storage/mem"
	"wal-e/internal/storage/storagetest"
)

// An archive is a bucket with backups, and a clock that tests set.
type archive struct {
	t     *testing.T
	b     storage.Bucket
	store *chunkstore.Store
	table *index.Table

	mu  sync.Mutex // stores and copies ask for the time side by side
	now time.Time
}

func newArchive(t *testing.T) *archive {
	t.Helper()
	a := &archive{t: t, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	a.use(mem.New(a.clock))
	return a
}

// use makes the archive in b.
func (a *archive) use(b storage.Bucket) {
	a.t.Helper()
	a.b = b
	shared := newStore(a.t)
	data, err := storage.ReadAll(a.t.Context(), shared.Bucket(), configKey, 1<<20)
	if err == nil {
		err = storage.CreateBytes(a.t.Context(), b, configKey, data, nil)
	}
	if err == nil {
		a.store = shared.On(b)
		a.table, err = index.Open(filepath.Join(a.t.TempDir(), "index"), prefixID)
	}
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { _ = a.table.Close() })
}

func (a *archive) clock() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.now = a.now.Add(time.Millisecond)
	return a.now
}

// begin begins a push that starts at a segment.
func (a *archive) begin(start uint64) *chunkstore.Push {
	a.t.Helper()
	seg := postgres.Segment{Timeline: 1, No: start}
	p, err := a.store.Begin(a.t.Context(), chunkstore.PushConfig{
		Name:  fmt.Sprintf("base_%s_%08d", seg.Name(segmentSize), 40),
		Table: a.table, Now: a.clock, PackSize: 16 << 10,
		Intent: chunkstore.Intent{Host: "db1", HostID: "db1", System: system, Start: seg.Start(segmentSize).String()},
	})
	if err != nil {
		a.t.Fatal(err)
	}
	return p
}

// push pushes a backup whose extents have these versions.
func (a *archive) push(start uint64, versions [extents]int) chunkstore.Ref {
	a.t.Helper()
	p := a.begin(start)
	if err := a.finish(p, start, versions); err != nil {
		a.t.Fatal(err)
	}
	return p.Ref()
}

func (a *archive) finish(p *chunkstore.Push, start uint64, versions [extents]int) error {
	at := postgres.Segment{Timeline: 1, No: start}
	m := manifest{
		Name: p.Ref().Name, Timeline: 1, Start: at.Start(segmentSize).String(),
		Stop: at.Next().Next().Start(segmentSize).String(), Size: int64(segmentSize), Versions: versions,
	}
	w := &push{versions: versions, step: 2, start: start}
	if err := w.write(a.t.Context(), p, &m); err != nil {
		return err
	}
	if err := w.archive(a.t.Context(), a.b); err != nil {
		return err
	}
	return p.Commit(a.t.Context(), m)
}

func (a *archive) config() gc.Config { return gc.Config{Bucket: a.b, Host: "op", Now: a.clock} }

func (a *archive) collect(cfg gc.Config) *gc.Report {
	a.t.Helper()
	r, err := gc.Collect(a.t.Context(), cfg)
	if err != nil {
		a.t.Fatal(err)
	}
	return r
}

func (a *archive) delete(cfg gc.Config, refs ...chunkstore.Ref) *gc.Report {
	a.t.Helper()
	r, err := gc.Delete(a.t.Context(), cfg, refs)
	if err != nil {
		a.t.Fatal(err)
	}
	return r
}

func keysOf(t *testing.T, b storage.Bucket, prefix string) []string {
	t.Helper()
	var keys []string
	for o, err := range b.List(t.Context(), prefix, "") {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, o.Key)
	}
	return keys
}

// mustRestore reads a backup back.
func (a *archive) mustRestore(ref chunkstore.Ref) {
	a.t.Helper()
	o, err := chunkstore.ReadOutcome(a.t.Context(), a.b, ref)
	if err != nil {
		a.t.Fatal(err)
	}
	table, err := index.Open(filepath.Join(a.t.TempDir(), "reader"), prefixID)
	if err != nil {
		a.t.Fatal(err)
	}
	defer table.Close()
	if err := readBackup(a.t.Context(), a.store, o, table); err != nil {
		a.t.Errorf("restore %s: %v", ref, err)
	}
	for _, key := range walKeys(o) {
		if _, err := a.b.Stat(a.t.Context(), key); err != nil {
			a.t.Errorf("backup %s: %v", ref, err)
		}
	}
}

func TestDeleteFreesAtOnce(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	first := a.push(10, [extents]int{})
	second := a.push(20, [extents]int{1, 1})
	third := a.push(30, [extents]int{1, 1, 1})

	cfg := a.config()
	cfg.DryRun = true
	before := keysOf(t, a.b, "")
	plan := a.delete(cfg, first, second)
	if after := keysOf(t, a.b, ""); !slices.Equal(before, after) {
		t.Errorf("a dry run changed the store from %v to %v", before, after)
	}
	r := a.delete(a.config(), first, second)
	if r.Freed != plan.Freed || r.Freed.Packs == 0 || r.Freed.WAL != 4 || len(r.Waiting) != 0 {
		t.Errorf("Delete freed %+v, the dry run said %+v", r.Freed, plan.Freed)
	}
	if r.Kept != 1 || r.Shared.Packs == 0 || r.Shared != plan.Shared {
		t.Errorf("Delete: kept %d, shared %+v, the dry run said %+v", r.Kept, r.Shared, plan.Shared)
	}
	a.mustRestore(third)

	before = keysOf(t, a.b, "")
	if r := a.collect(a.config()); r.Freed != (gc.Amount{}) {
		t.Errorf("a second collection freed %+v", r.Freed)
	}
	if after := keysOf(t, a.b, ""); !slices.Equal(before, after) {
		t.Errorf("a second collection changed the store from %v to %v", before, after)
	}
}

func TestDeleteWaitsForPushes(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	first := a.push(10, [extents]int{})
	second := a.push(20, [extents]int{1, 1, 1, 1, 1, 1})
	running := a.begin(30)
	r := a.delete(a.config(), first)
	if r.Freed != (gc.Amount{}) || r.Pending.Packs == 0 || r.Pending.WAL != 2 {
		t.Errorf("with a push open: freed %+v, pending %+v", r.Freed, r.Pending)
	}
	if len(r.Waiting) != 1 || r.Waiting[0].Ref != running.Ref() || r.Waiting[0].Host != "db1" || r.Waiting[0].Since.IsZero() {
		t.Errorf("waiting for %+v, want %s of db1", r.Waiting, running.Ref())
	}
	if err := a.finish(running, 30, [extents]int{2, 1, 1, 1, 1, 1}); err != nil {
		t.Fatal(err)
	}
	if r := a.collect(a.config()); r.Freed.Packs == 0 || r.Freed.WAL != 2 || len(r.Waiting) != 0 {
		t.Errorf("after the push: freed %+v, waiting for %v", r.Freed, r.Waiting)
	}
	a.mustRestore(second)
	a.mustRestore(running.Ref())
}

func TestStalledPushIsFenced(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	first := a.push(10, [extents]int{})
	a.push(20, [extents]int{1, 1, 1, 1, 1, 1})
	running := a.begin(30)
	a.now = a.now.Add(25 * time.Hour)
	r := a.delete(a.config(), first)
	if len(r.Aborted) != 1 || r.Aborted[0] != running.Ref() || r.Freed.Packs == 0 {
		t.Errorf("aborted %v, freed %+v", r.Aborted, r.Freed)
	}
	if err := a.finish(running, 30, [extents]int{}); !errors.Is(err, chunkstore.ErrFenced) && err == nil {
		t.Error("a fenced push succeeded")
	}
}

func TestAbortRunning(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	first := a.push(10, [extents]int{})
	a.push(20, [extents]int{1, 1, 1, 1, 1, 1})
	running := a.begin(30)
	cfg := a.config()
	cfg.AbortRunning = true
	if r := a.delete(cfg, first); len(r.Aborted) != 1 || r.Freed.Packs == 0 || len(r.Waiting) != 0 {
		t.Errorf("aborted %v, freed %+v", r.Aborted, r.Freed)
	}
	if err := a.finish(running, 30, [extents]int{}); err == nil {
		t.Error("a push that was ended succeeded")
	}
}

func TestUndelete(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	first := a.push(10, [extents]int{})
	a.push(20, [extents]int{1, 1, 1, 1, 1, 1})
	cfg := a.config()
	cfg.Grace = day
	if r := a.delete(cfg, first); r.Freed != (gc.Amount{}) {
		t.Errorf("within the grace %+v was freed", r.Freed)
	}
	u := gc.Undeletion{Bucket: a.b, Host: "op", Now: a.clock}
	back, err := gc.Undelete(t.Context(), u, first)
	if err != nil {
		t.Fatal(err)
	}
	a.collect(a.config())
	a.mustRestore(back)

	running := a.begin(30) // keeps the next delete from finishing
	a.delete(a.config(), back)
	if _, err := gc.Undelete(t.Context(), u, back); err == nil {
		t.Error("a backup was taken back whose packs were condemned")
	}
	if err := running.Abort(t.Context(), "test"); err != nil {
		t.Fatal(err)
	}
}

func TestRangesKeepTheirWAL(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	kept := a.push(10, [extents]int{})
	middle := a.push(20, [extents]int{1})
	last := a.push(30, [extents]int{2})
	cfg := a.config()
	cfg.Ranges = []chunkstore.Ref{kept}
	if r := a.delete(cfg, middle); r.Freed.WAL != 2 {
		t.Errorf("freed %d WAL files, want 2", r.Freed.WAL)
	}
	a.mustRestore(kept)
	a.mustRestore(last)
	if got := keysOf(t, a.b, "wal_006/"); len(got) != 4 {
		t.Errorf("WAL files left: %v", got)
	}
}

func TestEverything(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	refs := []chunkstore.Ref{a.push(10, [extents]int{}), a.push(20, [extents]int{1})}
	history := "wal_006/" + system + "/00000002.history"
	if err := storage.CreateBytes(t.Context(), a.b, history, []byte("h"), nil); err != nil {
		t.Fatal(err)
	}
	if err := a.begin(30).Abort(t.Context(), "test"); err != nil {
		t.Fatal(err)
	}
	cfg := a.config()
	cfg.Everything = true
	a.delete(cfg, refs...)
	if left := keysOf(t, a.b, ""); len(left) != 1 || left[0] != configKey {
		t.Errorf("everything left %v", left)
	}
	a.push(5, [extents]int{})
}

func TestFailsClosed(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	first := a.push(10, [extents]int{})
	second := a.push(20, [extents]int{1})
	if err := a.b.Delete(t.Context(), second.OutcomeKey()); err != nil {
		t.Fatal(err)
	}
	if err := storage.CreateBytes(t.Context(), a.b, second.OutcomeKey(), []byte("rubbish"), nil); err != nil {
		t.Fatal(err)
	}
	before := keysOf(t, a.b, "chunks_006/packs/")
	if _, err := gc.Delete(t.Context(), a.config(), []chunkstore.Ref{first}); err == nil {
		t.Error("a collection went on with an outcome that it couldn't read")
	}
	if after := keysOf(t, a.b, "chunks_006/packs/"); !slices.Equal(before, after) {
		t.Errorf("packs were removed: %d of %d are left", len(after), len(before))
	}
}

// lagging never lists probes.
type lagging struct{ storage.Bucket }

func (l lagging) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Object, error] {
	if strings.HasPrefix(prefix, "probe_006/") {
		return func(func(storage.Object, error) bool) {}
	}
	return l.Bucket.List(ctx, prefix, after)
}

func TestWeakStoreIsRefused(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	cfg := a.config()
	cfg.Bucket = lagging{a.b}
	if _, err := gc.Collect(t.Context(), cfg); !errors.Is(err, gc.ErrWeakStore) {
		t.Errorf("Collect on a store that doesn't list = %v, want %v", err, gc.ErrWeakStore)
	}
	cfg.Exclusive = true
	if _, err := gc.Collect(t.Context(), cfg); err != nil {
		t.Error(err)
	}
}

// shy doesn't list a key: a listing that passed its place before it was created.
type shy struct {
	storage.Bucket
	key string
}

func (s shy) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		for o, err := range s.Bucket.List(ctx, prefix, after) {
			if (err != nil || o.Key != s.key) && !yield(o, err) {
				return
			}
		}
	}
}

func TestListingThatMissedAnIntent(t *testing.T) {
	t.Parallel()
	for _, skip := range []bool{false, true} {
		a := newArchive(t)
		ref := a.push(10, [extents]int{})
		cfg := a.config()
		cfg.Bucket = shy{a.b, ref.IntentKey()}
		cfg.Skip(gc.Skipped{IntentCheck: skip})
		a.collect(cfg)
		_, err := a.b.Stat(t.Context(), ref.OutcomeKey())
		if gone := err != nil; gone != skip {
			t.Errorf("G7 asks for the intent of litter %t: outcome is gone: %t", !skip, gone)
		}
		if !skip {
			a.mustRestore(ref)
		}
	}
}

func TestMarksAreMerged(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	a.push(10, [extents]int{})
	for i := range 40 {
		last := a.push(uint64(20+10*i), [extents]int{0, 0, 0, 0, 0, 1 + i})
		if i > 0 {
			runs, err := chunkstore.Runs(t.Context(), a.b)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range runs {
				if r.Ended() && r.Ref != last {
					a.delete(a.config(), r.Ref)
				}
			}
		}
	}
	if marks := keysOf(t, a.b, "chunks_006/condemned/"); len(marks) > 2*20 {
		t.Errorf("%d objects of marks stand", len(marks))
	}
}

// A delete and its collection are killed at each request, on files, and each
// time another collection comes to the same end.
func TestKilledAtEveryRequest(t *testing.T) {
	t.Parallel()
	end := 0
	for call := 1; call <= 1 || call <= end; call++ {
		a := &archive{t: t, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
		bucket, err := file.Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		a.use(bucket)
		first := a.push(10, [extents]int{})
		second := a.push(20, [extents]int{1, 1, 1})
		third := a.push(30, [extents]int{1, 1, 2})
		faulty := storagetest.NewFaulty(bucket, storagetest.Fault{})
		if end > 0 {
			faulty = storagetest.NewFaulty(bucket, storagetest.Fault{Call: call, Mode: storagetest.FailFrom})
		}
		cfg := gc.Config{Bucket: faulty, Host: "op", Requests: 1}
		_, err = gc.Delete(t.Context(), cfg, []chunkstore.Ref{first, second})
		if end == 0 {
			if err != nil {
				t.Fatal(err)
			}
			end, call = faulty.Calls(), 0
			continue
		}
		if err == nil {
			t.Errorf("call %d of %d failed, and Delete succeeded", call, end)
		}
		a.mustRestore(third)
		deleteRest(t, bucket, third)
		a.mustRestore(third)
		checkNoGarbage(t, bucket, third)
	}
	t.Logf("killed at each of %d requests", end)
}

// deleteRest finishes what a killed delete began.
func deleteRest(t *testing.T, b storage.Bucket, keep chunkstore.Ref) {
	t.Helper()
	runs, err := chunkstore.Runs(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	var refs []chunkstore.Ref
	for _, r := range runs {
		if r.Ended() && r.Ref != keep {
			refs = append(refs, r.Ref)
		}
	}
	if _, err := gc.Delete(t.Context(), gc.Config{Bucket: b, Host: "op"}, refs); err != nil {
		t.Fatal(err)
	}
}

func checkNoGarbage(t *testing.T, b storage.Bucket, keep chunkstore.Ref) {
	t.Helper()
	o, err := chunkstore.ReadOutcome(t.Context(), b, keep)
	if err != nil {
		t.Fatal(err)
	}
	var need []string
	for p := range o.Footprint.All() {
		need = append(need, chunkstore.PackKey(p))
	}
	if packs := keysOf(t, b, "chunks_006/packs/"); !slices.Equal(packs, need) {
		t.Errorf("packs left: %v, want %v", packs, need)
	}
	if wal := keysOf(t, b, "wal_006/"); !slices.Equal(wal, walKeys(o)) {
		t.Errorf("WAL left: %v", wal)
	}
	for _, key := range keysOf(t, b, "basebackups_006/") {
		if !strings.Contains(key, keep.Run.String()) && !slices.ContainsFunc(need, func(p string) bool {
			return strings.Contains(p, strings.Split(strings.TrimSuffix(strings.TrimSuffix(key, ".intent"), ".outcome"), "/")[2])
		}) {
			t.Errorf("%s was left", key)
		}
	}
}

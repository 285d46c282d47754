package gc_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"wal-e/chunkstore"
	"wal-e/gc"
	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
	"wal-e/internal/storage/storagetest"
)

// newCopy returns an archive that takes copies of a.
func newCopy(t *testing.T, a *archive) *archive {
	t.Helper()
	c := &archive{t: t, now: a.now, b: mem.New(a.clock)}
	if err := chunkstore.PrepareCopy(t.Context(), a.b, c.b, a.now); err != nil {
		t.Fatal(err)
	}
	c.store, c.table = a.store.On(c.b), a.table
	return c
}

// copyTo copies a backup with its WAL.
func (a *archive) copyTo(to storage.Bucket, ref chunkstore.Ref) (chunkstore.Ref, error) {
	c, err := chunkstore.Copy(a.t.Context(), chunkstore.CopyConfig{
		From: a.b, To: to, Host: "op", Now: a.clock, Packs: 1,
		WAL: func(ctx context.Context, o *chunkstore.Outcome) error {
			for _, key := range walKeys(o) {
				if err := storage.CreateBytes(ctx, to, key, []byte("wal"), nil); err != nil && !errors.Is(err, storage.ErrExist) {
					return err
				}
			}
			return nil
		},
	}, ref)
	if err != nil {
		return chunkstore.Ref{}, err
	}
	return c.Ref, nil
}

func (a *archive) mustCopyTo(to storage.Bucket, ref chunkstore.Ref) chunkstore.Ref {
	a.t.Helper()
	c, err := a.copyTo(to, ref)
	if err != nil {
		a.t.Fatal(err)
	}
	return c
}

// Whatever stops a copy at the destination, and a collection there between it and
// the next, the next one works, and then nothing is left that nothing needs.
func TestCollectSparesUnfinishedCopies(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	first := a.push(10, [extents]int{})
	second := a.push(20, [extents]int{1, 1, 1})
	packs := len(keysOf(t, a.b, "chunks_006/packs/"))
	for _, mode := range []storagetest.Mode{storagetest.FailBefore, storagetest.FailFrom} {
		for call := 6; call < 14; call++ {
			c := newCopy(t, a)
			faulty := storagetest.NewFaulty(c.b, storagetest.Fault{Call: call, Mode: mode})
			if _, err := a.copyTo(faulty, first); err == nil {
				t.Errorf("call %d %s failed, and the copy succeeded", call, mode)
			}
			left := keysOf(t, c.b, "chunks_006/packs/")
			c.collect(c.config())
			if now := keysOf(t, c.b, "chunks_006/packs/"); len(now) != len(left) {
				t.Errorf("call %d %s: a collection left %d of %d packs", call, mode, len(now), len(left))
			}
			c.mustRestore(a.mustCopyTo(c.b, first))
			c.mustRestore(a.mustCopyTo(c.b, second))
			cfg := c.config()
			cfg.AbortRunning = true
			c.collect(cfg)
			if now := len(keysOf(t, c.b, "chunks_006/packs/")); now != packs {
				t.Errorf("call %d %s: %d packs in the end, want %d", call, mode, now, packs)
			}
			if open := len(keysOf(t, c.b, "basebackups_006/")); open != 4 {
				t.Errorf("call %d %s: %d objects of runs in the end, want 4", call, mode, open)
			}
		}
	}
}

// A name that was condemned at the destination never comes back, however many
// collections there were since: one that sleeps could remove the newcomer.
func TestCopyNeverBringsNamesBack(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	first := a.push(10, [extents]int{})
	second := a.push(20, [extents]int{1, 1, 1})
	third := a.push(30, [extents]int{2, 2, 2, 2, 2, 2})
	c := newCopy(t, a)
	copied := a.mustCopyTo(c.b, first)
	newest := a.mustCopyTo(c.b, third)
	c.delete(c.config(), copied)
	for range 3 {
		c.collect(c.config())
	}
	if n := len(keysOf(t, c.b, "deleted_006/")); n != 0 {
		t.Fatalf("%d tombstones are left", n)
	}
	before := keysOf(t, c.b, "")
	for _, ref := range []chunkstore.Ref{first, second} {
		if _, err := a.copyTo(c.b, ref); !errors.Is(err, chunkstore.ErrCondemned) {
			t.Errorf("copy of %s = %v, want %v", ref, err, chunkstore.ErrCondemned)
		}
	}
	// Whoever copies all each night leaves nothing of what can't be copied.
	if after := keysOf(t, c.b, ""); !slices.Equal(after, before) {
		t.Errorf("copies that were refused left something: %q, before %q", after, before)
	}
	c.mustRestore(newest)
	// What comes later than what is kept goes on.
	c.mustRestore(a.mustCopyTo(c.b, a.push(40, [extents]int{2, 2, 2, 2, 2, 3})))
}

// A backup is copied while a collection has listed the packs, and not yet the index
// objects. Those of the copy stay.
func TestCollectSparesIndexesOfCopies(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	first := a.push(10, [extents]int{})
	c := newCopy(t, a)
	copied := false
	cfg := c.config()
	cfg.Bucket = storagetest.NewFaulty(c.b, storagetest.Fault{Before: func(_ int, op, key string) {
		if !copied && op == "list" && key == "chunks_006/index/" {
			copied = true
			a.mustCopyTo(c.b, first)
		}
	}})
	c.collect(cfg)
	if have, want := keysOf(t, c.b, "chunks_006/index/"), keysOf(t, a.b, "chunks_006/index/"); !copied || !slices.Equal(have, want) {
		t.Errorf("index objects of the copy: %q, want %q", have, want)
	}
}

// A collector sleeps before it removes packs, another one removes them, and they
// are copied again. With the mark gone, the sleeper would remove the newcomers.
func TestSleeperCantHitACopy(t *testing.T) {
	t.Parallel()
	for _, forget := range []bool{false, true} {
		a := newArchive(t)
		// The other one starts lower, or the WAL horizon would protect as well.
		other := a.push(10, [extents]int{2, 2, 2, 2, 2, 2})
		first := a.push(30, [extents]int{})
		c := newCopy(t, a)
		copied := a.mustCopyTo(c.b, first)
		a.mustCopyTo(c.b, other)
		cfg := func() gc.Config {
			cfg := c.config()
			cfg.Requests = 1
			cfg.Skip(gc.Skipped{KeepCopied: forget, KeepHorizon: forget}) // else the mark stays for its horizon
			return cfg
		}
		slept := false
		var ref chunkstore.Ref
		var err error
		sleeper := cfg()
		sleeper.Bucket = storagetest.NewFaulty(c.b, storagetest.Fault{Before: func(_ int, op, key string) {
			if slept || op != "delete" || !strings.HasPrefix(key, chunkstore.PackFolder) {
				return
			}
			slept = true
			for range 2 {
				c.collect(cfg())
			}
			ref, err = a.copyTo(c.b, first)
		}})
		if _, derr := gc.Delete(t.Context(), sleeper, []chunkstore.Ref{copied}); derr != nil {
			t.Fatal(derr)
		}
		switch {
		case !slept:
			t.Fatal("the delete removed no pack")
		case !forget && !errors.Is(err, chunkstore.ErrCondemned):
			t.Errorf("the copy under old names = %v, want %v", err, chunkstore.ErrCondemned)
		case forget && err == nil:
			o, err := chunkstore.ReadOutcome(t.Context(), c.b, ref)
			if err != nil {
				t.Fatal(err)
			}
			lost := 0
			for p := range o.Footprint.All() {
				if _, err := c.b.Stat(t.Context(), chunkstore.PackKey(p)); err != nil {
					lost++
				}
			}
			if lost == 0 {
				t.Error("without the step nothing is lost: this test shows nothing")
			}
		case forget:
			t.Errorf("without the step the copy fails all the same: this test shows nothing: %v", err)
		}
	}
}

// A copy that sleeps before its outcome is ended, collected, and wakes: it doesn't call
// itself a backup.
func TestCopyThatWasReaped(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	first := a.push(10, [extents]int{})
	second := a.push(20, [extents]int{1, 1, 1})
	c := newCopy(t, a)
	slept := false
	asleep := storagetest.NewFaulty(c.b, storagetest.Fault{Before: func(_ int, op, key string) {
		if slept || op != "create" || !strings.HasSuffix(key, ".outcome") {
			return
		}
		slept = true
		cfg := c.config()
		cfg.AbortRunning = true
		c.collect(cfg)
		a.mustCopyTo(c.b, second) // a newer one, for whose sake unfinished ones needn't stay
		c.collect(cfg)
	}})
	if ref, err := a.copyTo(asleep, first); err == nil || !slept {
		t.Errorf("the copy %s succeeded though it was collected (slept %t)", ref, slept)
	}
	c.collect(c.config())
	if n := len(keysOf(t, c.b, "basebackups_006/")); n != 2 {
		t.Errorf("%d objects of runs are left, want those of the other copy", n)
	}
}

// A pack that the destination loses while a backup is copied is noticed before the
// copy is called one.
func TestCopyLosesAPack(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	first := a.push(10, [extents]int{})
	second := a.push(20, [extents]int{1, 1, 1})
	o, err := chunkstore.ReadOutcome(t.Context(), a.b, second)
	if err != nil {
		t.Fatal(err)
	}
	for _, found := range []bool{false, true} { // a pack that was sent, or was there
		c := newCopy(t, a)
		a.mustCopyTo(c.b, first)
		lost := false
		losing := storagetest.NewFaulty(c.b, storagetest.Fault{Before: func(_ int, op, key string) {
			if lost || op != "create" || !strings.HasPrefix(key, "wal_006/") {
				return
			}
			for p := range o.Footprint.All() {
				if !lost && (p.Run == first.Run) == found {
					lost = true
					if err := c.b.Delete(t.Context(), chunkstore.PackKey(p)); err != nil {
						t.Error(err)
					}
				}
			}
		}})
		if ref, err := a.copyTo(losing, second); err == nil || !lost {
			t.Errorf("found %t: the copy %s succeeded without a pack (lost %t)", found, ref, lost)
		}
		c.mustRestore(a.mustCopyTo(c.b, second))
	}
}

// Copies beside a delete and collection at the destination that stop at any
// request, for as long as the copy takes, and then go on.
func TestCopyBesideSleepingCollection(t *testing.T) {
	t.Parallel()
	requests := 0
	for stop := 1; stop <= 1 || stop <= requests; stop++ {
		a := newArchive(t)
		first := a.push(10, [extents]int{})
		second := a.push(20, [extents]int{1, 1, 1})
		c := newCopy(t, a)
		copied := a.mustCopyTo(c.b, first)
		var ref chunkstore.Ref
		var err error
		asleep := storagetest.NewFaulty(c.b, storagetest.Fault{Before: func(n int, _, _ string) {
			if n == stop {
				ref, err = a.copyTo(c.b, second)
			}
		}})
		cfg := c.config()
		cfg.Bucket, cfg.Requests = asleep, 1
		if _, derr := gc.Delete(t.Context(), cfg, []chunkstore.Ref{copied}); derr != nil {
			t.Fatalf("stop %d: %v", stop, derr)
		}
		requests = max(requests, asleep.Calls())
		c.collect(c.config())
		switch {
		case err == nil && ref.Name != "":
			c.mustRestore(ref)
		case err != nil && !errors.Is(err, chunkstore.ErrCondemned) && !strings.Contains(err.Error(), "WAL below"):
			t.Errorf("stop %d: the copy: %v", stop, err)
		}
	}
	t.Logf("%d requests", requests)
}

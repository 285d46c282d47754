package gc_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"wal-e/chunkstore"
	"wal-e/gc"
	"wal-e/internal/runid"
	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
)

func TestProbe(t *testing.T) {
	t.Parallel()
	clock := today()
	b := mem.New(func() time.Time { return clock })
	create := func(name string) {
		if err := storage.CreateBytes(t.Context(), b, "probe_006/"+name, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	id := func(b byte) string { return runid.ID{b}.String() }
	create("notours")
	create(id(1))
	clock = clock.Add(2 * time.Hour)
	create(id(2)) // of a collection that may be at work
	cfg := gc.Config{Bucket: b, Now: func() time.Time { return clock.Add(-48 * time.Hour) }}
	got, err := gc.Probe(t.Context(), cfg)
	if err != nil || got.Sub(clock).Abs() > time.Second {
		t.Errorf("Probe = %s, %v, want the store's clock, %s", got, err, clock)
	}
	if keys := keysOf(t, b, ""); !slices.Equal(keys, []string{"probe_006/" + id(2), "probe_006/notours"}) {
		t.Errorf("after Probe there are %v, want all but the old one", keys)
	}
}

// twice has no winner: each Create succeeds, and the last counts.
type twice struct{ storage.Bucket }

func (b twice) Create(ctx context.Context, key string, r io.Reader, size int64, meta storage.Meta) error {
	if err := b.Bucket.Delete(ctx, key); err != nil {
		return err
	}
	return b.Bucket.Create(ctx, key, r, size, meta)
}

// A store that lets two writers win is refused, unless nobody else writes.
func TestStoreWithoutAWinnerIsRefused(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	first := a.push(10, [extents]int{})
	last := a.push(20, [extents]int{1, 1, 1, 1, 1, 1})
	cfg := a.config()
	cfg.Bucket = twice{a.b}
	before := keysOf(t, a.b, "chunks_006/packs/")
	cfg.Settle = time.Nanosecond // no wait makes up for it
	if _, err := gc.Delete(t.Context(), cfg, []chunkstore.Ref{first}); !errors.Is(err, gc.ErrWeakStore) {
		t.Errorf("Delete = %v, want %v", err, gc.ErrWeakStore)
	}
	if after := keysOf(t, a.b, "chunks_006/packs/"); !slices.Equal(before, after) {
		t.Errorf("packs went from %v to %v", before, after)
	}
	cfg.Settle, cfg.Exclusive = 0, true
	if r, err := gc.Collect(t.Context(), cfg); err != nil || r.Freed.Packs == 0 {
		t.Errorf("Collect, exclusive = %+v, %v", r, err)
	}
	a.mustRestore(last)
}

// weak is known not to keep its promises.
type weak struct{ storage.Bucket }

func (weak) Weakness() string { return "its listings lag" }

// A store that is known to be weak is waited for, also when a probe shows
// nothing: twice what its listings lag, each time it must show what others wrote.
func TestWeakStoreIsWaitedFor(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(*gc.Config)
		want   time.Duration // of one wait
	}{
		"by default":     {func(*gc.Config) {}, 2 * time.Minute},
		"for as long as": {func(c *gc.Config) { c.Settle = 10 * time.Second }, 20 * time.Second},
		"exclusive":      {func(c *gc.Config) { c.Exclusive = true }, 0},
		"a strong store": {func(c *gc.Config) { c.Bucket = c.Bucket.(weak).Bucket }, 0},
		"dry run":        {func(c *gc.Config) { c.DryRun = true }, 0},
		"found out late": {func(c *gc.Config) { c.Bucket = &weakOnceAsked{Bucket: c.Bucket.(weak).Bucket} }, 2 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newArchive(t)
			first := a.push(10, [extents]int{})
			a.push(20, [extents]int{1, 1, 1, 1, 1, 1})
			synctest.Test(t, func(t *testing.T) {
				cfg := a.config()
				cfg.Bucket = weak{a.b}
				tt.change(&cfg)
				begin := time.Now()
				r, err := gc.Delete(t.Context(), cfg, []chunkstore.Ref{first})
				if err != nil || r.Freed.Packs == 0 {
					t.Errorf("Delete = %+v, %v", r, err)
				}
				// Before the graces, before G5, and before marks go.
				if took := time.Since(begin); took != 3*tt.want {
					t.Errorf("waited for %s, want 3 times %s", took, tt.want)
				}
			})
		})
	}
}

// weakOnceAsked shows that it is weak only when something is created in it.
type weakOnceAsked struct {
	storage.Bucket
	asked atomic.Bool
}

func (w *weakOnceAsked) Create(ctx context.Context, key string, r io.Reader, size int64, meta storage.Meta) error {
	w.asked.Store(true)
	return w.Bucket.Create(ctx, key, r, size, meta)
}

func (w *weakOnceAsked) Weakness() string {
	if !w.asked.Load() {
		return ""
	}
	return "it has no conditional writes"
}

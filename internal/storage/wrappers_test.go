package storage_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
	"wal-e/internal/storage/storagetest"
)

// TestConformance runs the suite through each wrapper: none may change what a
// bucket promises.
func TestConformance(t *testing.T) {
	t.Parallel()
	for name, wrap := range map[string]func(storage.Bucket) storage.Bucket{
		"Limit":   func(b storage.Bucket) storage.Bucket { return storage.Limit(b, 2) },
		"Rate":    func(b storage.Bucket) storage.Bucket { return storage.Rate(b, 1<<40) },
		"Counted": func(b storage.Bucket) storage.Bucket { return storage.Counted(b) },
		"Retry":   func(b storage.Bucket) storage.Bucket { return storage.Retry(b, storage.Policy{Attempts: 1}) },
		"All": func(b storage.Bucket) storage.Bucket {
			return storage.Retry(storage.Counted(storage.Limit(b, 4)), storage.Policy{Attempts: 1})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storagetest.Run(t, func(*testing.T) storage.Bucket { return wrap(mem.New(nil)) })
		})
	}
}

func TestLimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const limit, workers = 3, 10
		var running, most atomic.Int64
		hold := make(chan struct{})
		slow := storagetest.NewFaulty(mem.New(nil), storagetest.Fault{Before: func(int, string, string) {
			now := running.Add(1)
			for m := most.Load(); now > m && !most.CompareAndSwap(m, now); m = most.Load() {
			}
			<-hold
			running.Add(-1)
		}})
		b := storage.Limit(slow, limit)
		errs := make(chan error, workers)
		for i := range workers {
			go func() { errs <- storage.CreateBytes(t.Context(), b, fmt.Sprint(i), nil, nil) }()
		}
		synctest.Wait()
		if got := running.Load(); got != limit {
			t.Errorf("%d requests run at a time, want %d", got, limit)
		}
		ctx, cancel := context.WithCancel(t.Context())
		waiting := make(chan error)
		go func() { waiting <- b.Delete(ctx, "x") }()
		synctest.Wait()
		cancel()
		if err := <-waiting; !errors.Is(err, context.Canceled) {
			t.Errorf("Delete that waited = %v, want %v", err, context.Canceled)
		}
		close(hold)
		for range workers {
			if err := <-errs; err != nil {
				t.Errorf("Create = %v, want nil", err)
			}
		}
		if got := most.Load(); got != limit {
			t.Errorf("%d requests ran at a time, want at most %d", got, limit)
		}
	})
}

func TestLimitHeld(t *testing.T) {
	t.Parallel()
	b := storage.Limit(mem.New(nil), 1)
	ctx := t.Context()
	for _, key := range []string{"a", "b"} {
		if err := storage.CreateBytes(ctx, b, key, []byte(key), nil); err != nil {
			t.Fatal(err)
		}
	}
	// A listing leaves room for requests within its loop, whether it is
	// finished or not.
	for range b.List(ctx, "", "") {
		if _, err := b.Stat(ctx, "a"); err != nil {
			t.Errorf("Stat within List = %v, want nil", err)
		}
		break
	}
	// A failed Get holds nothing, an open body does.
	if _, err := b.Get(ctx, "none", 0, -1); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Get(none) = %v, want %v", err, storage.ErrNotExist)
	}
	synctest.Test(t, func(t *testing.T) {
		b := storage.Limit(mem.New(nil), 1)
		if err := storage.CreateBytes(t.Context(), b, "a", nil, nil); err != nil {
			t.Fatal(err)
		}
		body, err := b.Get(t.Context(), "a", 0, -1)
		if err != nil {
			t.Fatalf("Get = %v, want nil", err)
		}
		var done atomic.Bool
		go func() {
			if _, err := b.Stat(t.Context(), "a"); err != nil {
				t.Errorf("Stat = %v, want nil", err)
			}
			done.Store(true)
		}()
		synctest.Wait()
		if done.Load() {
			t.Error("Stat did not wait for the open body")
		}
		for range 2 { // the second one changes nothing
			if err := body.Close(); err != nil {
				t.Errorf("Close = %v, want nil", err)
			}
		}
		synctest.Wait()
		if !done.Load() {
			t.Error("Stat waits although the body is closed")
		}
	})
}

func TestCounted(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := storage.Counted(mem.New(nil))
	data := strings.Repeat("x", 1000)
	half := strings.NewReader(data)
	_, _ = half.Seek(500, io.SeekStart) // cannot fail
	for key, test := range map[string]struct {
		r    io.Reader
		size int64
	}{
		"known":   {strings.NewReader(data), 1000},
		"seeker":  {strings.NewReader(data), -1},
		"rest":    {half, -1},
		"unknown": {struct{ io.Reader }{strings.NewReader(data)}, -1},
	} {
		if err := c.Create(ctx, key, test.r, test.size, nil); err != nil {
			t.Fatalf("Create(%q) = %v, want nil", key, err)
		}
	}
	_ = storage.CreateBytes(ctx, c, "known", []byte("taken"), nil)
	_, _ = c.Get(ctx, "none", 0, -1)
	_, _ = c.Stat(ctx, "known")
	if _, err := storage.ReadAll(ctx, c, "known", 1000); err != nil {
		t.Fatal(err)
	}
	for range c.List(ctx, "", "") {
		continue
	}
	if err := c.Delete(ctx, "known", "rest"); err != nil {
		t.Fatal(err)
	}
	want := storage.Counts{
		Creates: 5, Gets: 2, Stats: 1, Lists: 1, Deletes: 1,
		Created: 4, Listed: 4, Deleted: 2, BytesUp: 3500, BytesDown: 1000,
	}
	if got := c.Counts(); got != want {
		t.Errorf("Counts() = %+v, want %+v", got, want)
	}
}

// TestCountedSeeker keeps what a retry below needs: the reader's Seek.
func TestCountedSeeker(t *testing.T) {
	t.Parallel()
	store := storagetest.NewFaulty(mem.New(nil), storagetest.Fault{Call: 1})
	b := storage.Counted(storage.Retry(store, storage.Policy{First: 1}))
	if err := b.Create(t.Context(), "a", bytes.NewReader([]byte("x")), -1, nil); err != nil {
		t.Errorf("Create = %v, want nil", err)
	}
}

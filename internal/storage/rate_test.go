package storage_test

import (
	"context"
	"errors"
	"io"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
)

// The limit holds for all requests together, and a request that waits for it
// ends with its context.
func TestRate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const size, speed = 3 << 20, 1 << 20
		b := storage.Rate(mem.New(nil), speed)
		began := time.Now()
		var g sync.WaitGroup
		for _, key := range []string{"a", "b"} {
			g.Go(func() {
				if err := storage.CreateBytes(t.Context(), b, key, make([]byte, size), nil); err != nil {
					t.Errorf("Create(%s) = %v", key, err)
				}
			})
		}
		g.Wait()
		took := func(bytes int64) { // but for what passes at once
			t.Helper()
			got, want := time.Since(began), time.Duration(bytes)*time.Second/speed
			if got < want-time.Second/4-time.Millisecond || got > want+time.Second/8 {
				t.Errorf("%d bytes took %s, want %s", bytes, got, want)
			}
		}
		took(2 * size)
		if data, err := storage.ReadAll(t.Context(), b, "a", size); err != nil || len(data) != size {
			t.Errorf("ReadAll(a) = %d bytes, %v", len(data), err)
		}
		took(3 * size)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := storage.CreateBytes(ctx, b, "c", make([]byte, size), nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Create that was cancelled = %v, want %v", err, context.DeadlineExceeded)
		}
	})
}

// A slowBucket takes a while after each object, as one does that syncs it.
type slowBucket struct{ storage.Bucket }

const slowness = 50 * time.Millisecond

func (b slowBucket) Create(ctx context.Context, key string, r io.Reader, size int64, meta storage.Meta) error {
	err := b.Bucket.Create(ctx, key, r, size, meta)
	time.Sleep(slowness)
	return err
}

// What passes while nothing else can is made up for, so that requests that wait
// for the store in between keep to the limit and not below it.
func TestRateMakesUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const size, speed, objects = 1 << 20, 10 << 20, 20
		b := storage.Rate(slowBucket{mem.New(nil)}, speed)
		began := time.Now()
		for i := range objects {
			if err := storage.CreateBytes(t.Context(), b, strconv.Itoa(i), make([]byte, size), nil); err != nil {
				t.Fatal(err)
			}
		}
		got, want := time.Since(began), objects*size*time.Second/speed
		if got < want-time.Second/4-time.Millisecond || got > want+2*slowness {
			t.Errorf("%d objects took %s, want %s", objects, got, want)
		}
	})
}

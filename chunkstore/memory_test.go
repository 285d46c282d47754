package chunkstore_test

import (
	"context"
	"encoding/binary"
	"io"
	"iter"
	"maps"
	"runtime"
	"runtime/metrics"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"wal-e/chunkstore"
	"wal-e/internal/storage"
)

// A forgetful bucket keeps no more than the sizes of packs, so that what is
// measured is the push.
type forgetful struct {
	storage.Bucket
	mu    sync.Mutex
	packs map[string]int64
}

func (b *forgetful) Create(ctx context.Context, key string, r io.Reader, size int64, meta storage.Meta) error {
	if !strings.HasPrefix(key, "chunks_006/packs/") {
		return b.Bucket.Create(ctx, key, r, size, meta)
	}
	n, err := io.Copy(io.Discard, r)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.packs[key] = n
	return err
}

func (b *forgetful) List(ctx context.Context, prefix, startAfter string) iter.Seq2[storage.Object, error] {
	if !strings.HasPrefix(prefix, "chunks_006/packs/") {
		return b.Bucket.List(ctx, prefix, startAfter)
	}
	return func(yield func(storage.Object, error) bool) {
		b.mu.Lock()
		packs := maps.Clone(b.packs)
		b.mu.Unlock()
		for _, key := range slices.Sorted(maps.Keys(packs)) {
			if strings.HasPrefix(key, prefix) && !yield(storage.Object{Key: key, Size: packs[key]}, nil) {
				return
			}
		}
	}
}

// peak runs f and returns the most memory that was live at any garbage collection
// meanwhile. What is in use between collections says more of when they fall.
func peak(f func()) uint64 {
	runtime.GC()
	done := make(chan struct{})
	var most uint64
	var wg sync.WaitGroup
	wg.Go(func() {
		live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			metrics.Read(live)
			most = max(most, live[0].Value.Uint64())
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	})
	f()
	close(done)
	wg.Wait()
	return most
}

// TestMemory pushes 100 MiB and 1 GiB through four writers, with packs of 8 MiB.
// It must not run beside other tests.
func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("pushes 1 GiB")
	}
	// Packs that are uploaded (2), open (1) and full in the hands of writers
	// (4), with an eighth of slack. How many of them there are at a time is luck.
	const packs = 7 * 9 << 20
	const bound = packs + 32<<20 // the rest is extents and encoders
	small := peak(func() { pushGenerated(t, 100<<20) })
	large := peak(func() { pushGenerated(t, 1<<30) })
	t.Logf("live at most: %d MiB for 100 MiB, %d MiB for 1 GiB", small>>20, large>>20)
	if large > bound || large > small+packs {
		t.Errorf("live are %d MiB for 100 MiB and %d MiB for 1 GiB, want at most %d MiB, and no more than packs between the two", small>>20, large>>20, bound>>20)
	}
}

func pushGenerated(t *testing.T, size int) {
	b := &forgetful{Bucket: newBucket(t), packs: make(map[string]int64)}
	s := open(t, b)
	run, err := s.Begin(t.Context(), chunkstore.PushConfig{
		Name: "base_000000010000000000000001_00000040", Intent: chunkstore.Intent{System: system, Start: "0/1000028"},
		PackSize: 8 << 20, Uploads: 2,
	})
	if err != nil {
		t.Fatal(err)
	}
	const writers = 4
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			w, err := run.NewWriter()
			if err != nil {
				t.Error(err)
				return
			}
			base := random(uint64(i), extent)
			for n := range size / extent / writers {
				for page := 0; page < len(base); page += 4096 {
					binary.LittleEndian.PutUint64(base[page:], uint64(n)<<32|uint64(page))
				}
				l, err := w.Extent(base)
				if err == nil {
					_, err = w.ListNode(l)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if err := run.Commit(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if st := run.Stats(); st.New < int64(size)*9/10 {
		t.Errorf("stats = %+v, want %d bytes new", st, size)
	}
}

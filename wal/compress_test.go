package wal_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"

	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
	"wal-e/wal"
)

// However many cores work on a file of however many pieces, it comes back, and is
// stored as the same bytes.
func TestWorkers(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	const piece = 512 << 10
	r := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{0, 1, piece - 1, piece, piece + 1, 3*piece + 7, 16 * piece} {
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(r.IntN(4) * (i / piece)) // the first piece is zeros
		}
		var stored []byte
		for workers := 1; workers <= 5; workers++ {
			name := fmt.Sprintf("some.%d", size)
			cfg := c.config(mem.New(nil))
			cfg.Workers = workers
			p := mustPush(t, cfg, c.write(t, name, data))
			mustFetch(t, cfg, name, data)
			object := readObject(t, cfg.Bucket, p.Key)
			if stored == nil {
				stored = object
			} else if !bytes.Equal(stored, object) {
				t.Errorf("%d bytes with %d workers are stored as other bytes", size, workers)
			}
		}
	}
}

// What many pushes use one after the other is as good as new for each.
func TestCompressors(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	cfg := c.config(mem.New(nil))
	cfg.Compressors = wal.NewCompressors(2)
	cfg.Level = 3
	var pushes sync.WaitGroup
	contents := make(map[string][]byte)
	for i := range 12 {
		name := fmt.Sprintf("%08X.history", i+2)
		data := bytes.Repeat([]byte("1\t0/A373778\tno recovery target specified\n"), i+1)
		if i%3 == 0 {
			name = c.name(1, uint64(i))
			data = c.segment(uint64(i), 1000*i)
		}
		contents[name] = data
		path := c.write(t, name, data)
		pushes.Go(func() {
			if _, err := wal.Push(t.Context(), cfg, path); err != nil {
				t.Errorf("Push(%s) = %v", path, err)
			}
		})
	}
	pushes.Wait()
	for name, data := range contents {
		mustFetch(t, cfg, name, data)
	}
}

// Whoever waits for a compressor can be told not to.
func TestCompressorsCancelled(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	cfg := c.config(mem.New(nil))
	cfg.Compressors = wal.NewCompressors(0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	path := c.write(t, c.name(1, 3), c.segment(3, 100))
	if _, err := wal.Push(ctx, cfg, path); !errors.Is(err, context.Canceled) {
		t.Errorf("Push = %v, want %v", err, context.Canceled)
	}
}

// A frame that is wrong ends the fetch, whichever it is, and whoever works on the
// others.
func TestDamagedFrames(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.segSize = 4 * mb
	name := c.name(1, 3)
	b := mem.New(nil)
	p := mustPush(t, c.config(b), c.write(t, name, c.segment(3, 4*mb-100)))
	good := readObject(t, b, p.Key)
	for at := wal.HeaderSize; at < len(good); at += 100_003 {
		bad := bytes.Clone(good)
		bad[at] ^= 0x40
		cfg := c.config(bucketWith(t, p.Key, bad))
		cfg.Workers = 1 + at%4
		damaged := new(wal.DamagedError)
		if _, err := wal.Fetch(t.Context(), cfg, name, filepath.Join(t.TempDir(), "F")); !errors.As(err, &damaged) {
			t.Errorf("byte %d: Fetch = %v, want a DamagedError", at, err)
		}
	}
	broken := brokenBucket{bucketWith(t, p.Key, good)}
	if _, err := wal.Verify(t.Context(), broken, c.system, name); !errors.Is(err, errBroken) {
		t.Errorf("Verify of an object that breaks off = %v, want %v", err, errBroken)
	}
}

var errBroken = errors.New("connection reset")

// A brokenBucket gives half of each object.
type brokenBucket struct{ storage.Bucket }

func (b brokenBucket) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	whole, err := storage.ReadAll(ctx, b.Bucket, key, 64*mb)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(io.MultiReader(bytes.NewReader(whole[:len(whole)/2]), failing{})), nil
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errBroken }

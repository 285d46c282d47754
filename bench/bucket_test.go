package bench_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
	"wal-e/internal/storage/storagetest"
)

// errNoContent is what reading an object gives of which just the size is kept.
var errNoContent = errors.New("only the size of this object is kept")

const pageSize = 1000 // objects in a page of a listing

// A bucket holds the metadata of a large archive in memory. Of packs, index
// objects and WAL it keeps names and sizes only, so what reads one fails.
type bucket struct {
	now func() time.Time
	rtt time.Duration // how long each request takes
	// pages counts those that listings took; each is a request.
	pages atomic.Int64

	mu      sync.RWMutex
	entries *mem.Table[entry]
}

type entry struct {
	size    int64    // bytes
	time    int64    // nanoseconds since 1970
	content *content // nil: only the size is kept
}

type content struct {
	data []byte
	meta storage.Meta
}

func newBucket(now func() time.Time) *bucket { return &bucket{now: now, entries: &mem.Table[entry]{}} }

// clone returns a bucket with the same objects, on which a request takes rtt.
func (b *bucket) clone(rtt time.Duration) *bucket {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return &bucket{now: b.now, rtt: rtt, entries: b.entries.Clone()}
}

// sizeOnly tells whether just the size of an object is kept.
func sizeOnly(key string) bool {
	for _, dir := range []string{"chunks_006/packs/", "chunks_006/index/", "wal_006/"} {
		if strings.HasPrefix(key, dir) {
			return true
		}
	}
	return false
}

// put adds an entry unless its key is taken.
func (b *bucket) put(key string, e entry) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.entries.Add(key, e)
}

func (b *bucket) remove(key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.entries.Remove(key)
}

// request lets the time of a request pass.
func (b *bucket) request(ctx context.Context) error {
	if b.rtt > 0 {
		time.Sleep(b.rtt)
	}
	return ctx.Err()
}

// URL implements storage.Bucket.
func (b *bucket) URL() string { return "bench://localhost" }

// Create implements storage.Bucket.
func (b *bucket) Create(ctx context.Context, key string, r io.Reader, size int64, meta storage.Meta) error {
	if err := b.create(ctx, key, r, size, meta); err != nil {
		return fmt.Errorf("create %s in %s: %w", key, b.URL(), err)
	}
	return nil
}

func (b *bucket) create(ctx context.Context, key string, r io.Reader, size int64, meta storage.Meta) error {
	if err := errors.Join(storage.CheckKey(key), storage.CheckMeta(meta), b.request(ctx)); err != nil {
		return err
	}
	var e entry
	r = storage.ExactReader(ctx, r, size)
	if sizeOnly(key) {
		n, err := io.Copy(io.Discard, r)
		if err != nil {
			return err
		}
		e.size = n
	} else {
		data, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		e.size, e.content = int64(len(data)), &content{data: data}
		if len(meta) > 0 {
			e.content.meta = maps.Clone(meta)
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	e.time = b.now().UnixNano()
	if !b.put(key, e) {
		return storage.ErrExist
	}
	return nil
}

func (b *bucket) lookup(ctx context.Context, key string) (entry, error) {
	if err := errors.Join(storage.CheckKey(key), b.request(ctx)); err != nil {
		return entry{}, err
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	e, found := b.entries.Get(key)
	if !found {
		return entry{}, storage.ErrNotExist
	}
	return e, nil
}

// Get implements storage.Bucket.
func (b *bucket) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	e, err := b.lookup(ctx, key)
	switch {
	case err != nil:
	case offset < 0:
		err = fmt.Errorf("%w: offset %d", storage.ErrInvalid, offset)
	case e.content == nil:
		err = errNoContent
	}
	if err != nil {
		return nil, fmt.Errorf("get %s from %s: %w", key, b.URL(), err)
	}
	data := e.content.data[min(offset, e.size):]
	if length >= 0 {
		data = data[:min(length, int64(len(data)))]
	}
	return io.NopCloser(&body{ctx: ctx, r: bytes.NewReader(data)}), nil
}

// body stops when the context of its Get is done.
type body struct {
	ctx context.Context
	r   io.Reader
}

func (b *body) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	return b.r.Read(p)
}

// Stat implements storage.Bucket.
func (b *bucket) Stat(ctx context.Context, key string) (storage.Attributes, error) {
	e, err := b.lookup(ctx, key)
	if err != nil {
		return storage.Attributes{}, fmt.Errorf("stat %s in %s: %w", key, b.URL(), err)
	}
	a := storage.Attributes{Object: e.line(key)}
	if e.content != nil {
		a.Meta = maps.Clone(e.content.meta)
	}
	return a, nil
}

// line returns the entry as a listing shows it: with a key of its own, as it is
// when it came over a network.
func (e entry) line(key string) storage.Object {
	return storage.Object{Key: strings.Clone(key), Size: e.size, ModTime: time.Unix(0, e.time).UTC()}
}

// List implements storage.Bucket.
func (b *bucket) List(ctx context.Context, prefix, startAfter string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		after := startAfter
		for {
			b.pages.Add(1)
			err := b.request(ctx)
			page := b.page(prefix, after)
			for i := 0; i < len(page) && err == nil; i++ {
				if !yield(page[i], nil) {
					return
				}
				after, err = page[i].Key, ctx.Err()
			}
			if err != nil {
				yield(storage.Object{}, fmt.Errorf("list %s in %s: %w", prefix, b.URL(), err))
				return
			}
			if len(page) < pageSize {
				return
			}
		}
	}
}

// page returns the next objects after a key, at most pageSize.
func (b *bucket) page(prefix, after string) []storage.Object {
	b.mu.RLock()
	defer b.mu.RUnlock()
	page := make([]storage.Object, 0, pageSize)
	for key, e := range b.entries.From(prefix, after) {
		if page = append(page, e.line(key)); len(page) == pageSize {
			break
		}
	}
	return page
}

// Delete implements storage.Bucket.
func (b *bucket) Delete(ctx context.Context, keys ...string) error {
	if err := b.request(ctx); err != nil {
		return fmt.Errorf("delete in %s: %w", b.URL(), err)
	}
	for _, key := range keys {
		if err := errors.Join(storage.CheckKey(key), ctx.Err()); err != nil {
			return fmt.Errorf("delete %s in %s: %w", key, b.URL(), err)
		}
		b.remove(key)
	}
	return nil
}

// The bucket keeps what others keep, so what is measured on it is no accident
// of its own.
func TestBucket(t *testing.T) {
	t.Parallel()
	storagetest.Run(t, func(*testing.T) storage.Bucket { return newBucket(time.Now) })
}

func TestBucketKeepsSizesOnly(t *testing.T) {
	t.Parallel()
	b := newBucket(time.Now)
	key := "chunks_006/packs/x"
	if err := storage.CreateBytes(t.Context(), b, key, make([]byte, 100), nil); err != nil {
		t.Fatalf("Create = %v, want nil", err)
	}
	if a, err := b.Stat(t.Context(), key); err != nil || a.Size != 100 {
		t.Errorf("Stat = %d bytes, %v, want 100 bytes", a.Size, err)
	}
	if _, err := b.Get(t.Context(), key, 0, -1); !errors.Is(err, errNoContent) {
		t.Errorf("Get = %v, want %v", err, errNoContent)
	}
}

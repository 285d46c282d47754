// Package mem is a bucket in memory, for tests. It passes the same conformance
// suite as the stores that keep what they are given, holds every object whole,
// and forgets all of them when it is collected.
package mem

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"maps"
	"sync"
	"time"

	"wal-e/internal/storage"
)

// pageSize is how many objects a listing takes at one moment, as stores do:
// what is created or deleted between two pages may or may not be seen.
const pageSize = 1000

// maxGrow bounds what is allocated on the word of the caller.
const maxGrow = 32 << 20

// A Bucket is an empty bucket when it is new. Use New.
type Bucket struct {
	now func() time.Time

	mu      sync.Mutex
	last    time.Time // of the newest object
	objects Table[object]
}

type object struct {
	data []byte
	time time.Time
	meta storage.Meta
}

// New returns an empty bucket. now is the store's clock, nil means time.Now;
// when it stands still or goes back, objects get the next later nanosecond, so
// that their times are in the order in which they were created.
func New(now func() time.Time) *Bucket {
	if now == nil {
		now = time.Now
	}
	return &Bucket{now: now}
}

// URL implements storage.Bucket.
func (b *Bucket) URL() string { return "mem://localhost" }

// Create implements storage.Bucket.
func (b *Bucket) Create(ctx context.Context, key string, r io.Reader, size int64, meta storage.Meta) error {
	if err := b.create(ctx, key, r, size, meta); err != nil {
		return fmt.Errorf("create %s in %s: %w", key, b.URL(), err)
	}
	return nil
}

func (b *Bucket) create(ctx context.Context, key string, r io.Reader, size int64, meta storage.Meta) error {
	if err := storage.CheckKey(key); err != nil {
		return err
	}
	if err := storage.CheckMeta(meta); err != nil {
		return err
	}
	var data bytes.Buffer
	data.Grow(int(min(max(size, 0), maxGrow)) + bytes.MinRead)
	if _, err := data.ReadFrom(storage.ExactReader(ctx, storage.Paced(ctx, r), size)); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, taken := b.objects.Get(key); taken {
		return storage.ErrExist // before the clock ticks
	}
	o := object{data: data.Bytes(), time: b.tick()}
	if len(meta) > 0 {
		o.meta = maps.Clone(meta)
	}
	b.objects.Add(key, o)
	return nil
}

// tick returns a time later than every one before. It is called with mu held.
func (b *Bucket) tick() time.Time {
	t := b.now()
	if !t.After(b.last) {
		t = b.last.Add(1)
	}
	b.last = t
	return t
}

func (b *Bucket) lookup(ctx context.Context, key string) (object, error) {
	if err := storage.CheckKey(key); err != nil {
		return object{}, err
	}
	if err := ctx.Err(); err != nil {
		return object{}, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	o, ok := b.objects.Get(key)
	if !ok {
		return object{}, storage.ErrNotExist
	}
	return o, nil
}

// Get implements storage.Bucket.
func (b *Bucket) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	o, err := b.lookup(ctx, key)
	if err == nil && offset < 0 {
		err = fmt.Errorf("%w: offset %d", storage.ErrInvalid, offset)
	}
	if err != nil {
		return nil, fmt.Errorf("get %s from %s: %w", key, b.URL(), err)
	}
	data := o.data[min(offset, int64(len(o.data))):]
	if length >= 0 {
		data = data[:min(length, int64(len(data)))]
	}
	return storage.PacedBody(ctx, io.NopCloser(&body{ctx: ctx, r: bytes.NewReader(data)})), nil
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
func (b *Bucket) Stat(ctx context.Context, key string) (storage.Attributes, error) {
	o, err := b.lookup(ctx, key)
	if err != nil {
		return storage.Attributes{}, fmt.Errorf("stat %s in %s: %w", key, b.URL(), err)
	}
	return storage.Attributes{Object: o.line(key), Meta: maps.Clone(o.meta)}, nil
}

func (o object) line(key string) storage.Object {
	return storage.Object{Key: key, Size: int64(len(o.data)), ModTime: o.time}
}

// List implements storage.Bucket.
func (b *Bucket) List(ctx context.Context, prefix, startAfter string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		after := startAfter
		for {
			page := b.page(prefix, after)
			for _, o := range page {
				if err := ctx.Err(); err != nil {
					yield(storage.Object{}, storage.ListError(prefix, b, err))
					return
				}
				if !yield(o, nil) {
					return
				}
				after = o.Key
			}
			if len(page) < pageSize {
				break
			}
		}
		if err := ctx.Err(); err != nil {
			yield(storage.Object{}, storage.ListError(prefix, b, err))
		}
	}
}

// page returns the next objects after a key, at most pageSize.
func (b *Bucket) page(prefix, after string) []storage.Object {
	b.mu.Lock()
	defer b.mu.Unlock()
	var page []storage.Object
	for key, o := range b.objects.From(prefix, after) {
		if page = append(page, o.line(key)); len(page) == pageSize {
			break
		}
	}
	return page
}

// Delete implements storage.Bucket.
func (b *Bucket) Delete(ctx context.Context, keys ...string) error {
	for _, key := range keys {
		err := storage.CheckKey(key)
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("delete %s in %s: %w", key, b.URL(), err)
		}
		b.remove(key)
	}
	return nil
}

func (b *Bucket) remove(key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.objects.Remove(key)
}

package storage

import (
	"context"
	"io"
	"iter"
	"sync"
)

// Limit returns a bucket that sends at most n requests to b at a time; further
// ones wait, or fail when their context is done. A Get counts as running until
// its body is closed, so a caller that waits for a second request while it
// holds a body open needs n > 1. A List counts while b looks for the next
// object and not while the caller handles one, so any request may be made from
// within the loop over a listing.
func Limit(b Bucket, n int) Bucket {
	return &limited{Bucket: b, slots: make(chan struct{}, max(n, 1))}
}

type limited struct {
	Bucket
	slots chan struct{}
}

func (l *limited) acquire(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case l.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *limited) release() { <-l.slots }

func (l *limited) Create(ctx context.Context, key string, r io.Reader, size int64, meta Meta) error {
	if err := l.acquire(ctx); err != nil {
		return err
	}
	defer l.release()
	return l.Bucket.Create(ctx, key, r, size, meta)
}

func (l *limited) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if err := l.acquire(ctx); err != nil {
		return nil, err
	}
	body, err := l.Bucket.Get(ctx, key, offset, length)
	if err != nil {
		l.release()
		return nil, err
	}
	return &limitedBody{ReadCloser: body, release: sync.OnceFunc(l.release)}, nil
}

type limitedBody struct {
	io.ReadCloser
	release func()
}

func (b *limitedBody) Close() error {
	defer b.release()
	return b.ReadCloser.Close()
}

func (l *limited) Stat(ctx context.Context, key string) (Attributes, error) {
	if err := l.acquire(ctx); err != nil {
		return Attributes{}, err
	}
	defer l.release()
	return l.Bucket.Stat(ctx, key)
}

func (l *limited) List(ctx context.Context, prefix, startAfter string) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		if err := l.acquire(ctx); err != nil {
			yield(Object{}, err)
			return
		}
		held := true
		defer func() {
			if held {
				l.release()
			}
		}()
		for o, err := range l.Bucket.List(ctx, prefix, startAfter) {
			l.release()
			held = false
			if !yield(o, err) || err != nil {
				return
			}
			if err := l.acquire(ctx); err != nil {
				yield(Object{}, err)
				return
			}
			held = true
		}
	}
}

func (l *limited) Delete(ctx context.Context, keys ...string) error {
	if err := l.acquire(ctx); err != nil {
		return err
	}
	defer l.release()
	return l.Bucket.Delete(ctx, keys...)
}

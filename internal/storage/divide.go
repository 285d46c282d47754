package storage

import (
	"context"
	"io"
	"iter"
	"strings"
)

// Divide returns a bucket over two that share one container under different
// prefixes: keys whose first element second accepts are in b, all others in a.
// Listings are those of one bucket. It is for archives in which names of one
// kind begin with a slash.
func Divide(a, b Bucket, second func(element string) bool) Bucket {
	return &divided{a: a, b: b, second: second}
}

type divided struct {
	a, b   Bucket
	second func(element string) bool
}

// Unwrap returns the bucket that speaks for both.
func (d *divided) Unwrap() Bucket { return d.a }

func (d *divided) isSecond(key string) bool {
	element, _, _ := strings.Cut(key, "/")
	return d.second(element)
}

func (d *divided) of(key string) Bucket {
	if d.isSecond(key) {
		return d.b
	}
	return d.a
}

// Create implements Bucket.
func (d *divided) Create(ctx context.Context, key string, r io.Reader, size int64, meta Meta) error {
	return d.of(key).Create(ctx, key, r, size, meta)
}

// Get implements Bucket.
func (d *divided) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	return d.of(key).Get(ctx, key, offset, length)
}

// Stat implements Bucket.
func (d *divided) Stat(ctx context.Context, key string) (Attributes, error) {
	return d.of(key).Stat(ctx, key)
}

// Delete implements Bucket.
func (d *divided) Delete(ctx context.Context, keys ...string) error {
	var first, second []string
	for _, key := range keys {
		if d.isSecond(key) {
			second = append(second, key)
		} else {
			first = append(first, key)
		}
	}
	if err := d.a.Delete(ctx, first...); err != nil || len(second) == 0 {
		return err
	}
	return d.b.Delete(ctx, second...)
}

// URL implements Bucket.
func (d *divided) URL() string { return d.a.URL() }

// List implements Bucket.
func (d *divided) List(ctx context.Context, prefix, startAfter string) iter.Seq2[Object, error] {
	if strings.Contains(prefix, "/") {
		return d.of(prefix).List(ctx, prefix, startAfter)
	}
	return func(yield func(Object, error) bool) {
		next, stop := iter.Pull2(d.b.List(ctx, prefix, startAfter))
		defer stop()
		// pull returns the next object of b that belongs there.
		pull := func() (Object, error, bool) {
			for {
				o, err, ok := next()
				if !ok || err != nil || d.isSecond(o.Key) {
					return o, err, ok
				}
			}
		}
		two, twoErr, more := pull()
		// upTo yields what b has before a key; "" means all.
		upTo := func(key string) bool {
			for more && (twoErr != nil || key == "" || two.Key < key) {
				if !yield(two, twoErr) || twoErr != nil {
					return false
				}
				two, twoErr, more = pull()
			}
			return true
		}
		for one, err := range d.a.List(ctx, prefix, startAfter) {
			if err != nil {
				yield(Object{}, err)
				return
			}
			if d.isSecond(one.Key) {
				continue
			}
			if !upTo(one.Key) || !yield(one, nil) {
				return
			}
		}
		upTo("")
	}
}

package storage

import (
	"context"
	"io"
	"iter"
	"sync/atomic"
)

// Counts says what a Counter has seen. Requests are counted when they begin,
// objects and bytes when they have passed.
type Counts struct {
	Creates, Gets, Stats, Lists, Deletes int64 // requests
	Created, Listed, Deleted             int64 // objects created, yielded by List, named in a successful Delete
	BytesUp                              int64 // in objects created
	BytesDown                            int64 // read from the bodies of Get
}

// A Counter is a bucket that counts what passes through it. Around the
// implementation it counts every attempt; around Retry, what was asked for.
type Counter struct {
	b Bucket

	creates, gets, stats, lists, deletes atomic.Int64
	created, listed, deleted             atomic.Int64
	up, down                             atomic.Int64
}

// Counted returns a Counter of b that begins at zero.
func Counted(b Bucket) *Counter { return &Counter{b: b} }

// Counts returns the counts so far. While requests run, the numbers in it need
// not be of one moment.
func (c *Counter) Counts() Counts {
	return Counts{
		Creates: c.creates.Load(), Gets: c.gets.Load(), Stats: c.stats.Load(),
		Lists: c.lists.Load(), Deletes: c.deletes.Load(),
		Created: c.created.Load(), Listed: c.listed.Load(), Deleted: c.deleted.Load(),
		BytesUp: c.up.Load(), BytesDown: c.down.Load(),
	}
}

// Create implements Bucket.
func (c *Counter) Create(ctx context.Context, key string, r io.Reader, size int64, meta Meta) error {
	c.creates.Add(1)
	var read *countingReader
	if size < 0 {
		if s, ok := r.(io.Seeker); ok {
			size = remaining(s)
		}
		if size < 0 {
			read = &countingReader{r: r}
			r = read
		}
	}
	if err := c.b.Create(ctx, key, r, size, meta); err != nil {
		return err
	}
	if read != nil {
		size = read.n.Load()
	}
	c.created.Add(1)
	c.up.Add(size)
	return nil
}

// remaining returns how many bytes s holds from where it stands, or -1 when it
// cannot say.
func remaining(s io.Seeker) int64 {
	at, err := s.Seek(0, io.SeekCurrent)
	if err != nil {
		return -1
	}
	end, err := s.Seek(0, io.SeekEnd)
	if err != nil {
		return -1
	}
	if _, err := s.Seek(at, io.SeekStart); err != nil {
		return -1
	}
	return max(end-at, 0)
}

type countingReader struct {
	r io.Reader
	n atomic.Int64
}

func (r *countingReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.n.Add(int64(n))
	return n, err
}

// Get implements Bucket.
func (c *Counter) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	c.gets.Add(1)
	body, err := c.b.Get(ctx, key, offset, length)
	if err != nil {
		return nil, err
	}
	return &countedBody{ReadCloser: body, n: &c.down}, nil
}

type countedBody struct {
	io.ReadCloser
	n *atomic.Int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n.Add(int64(n))
	return n, err
}

// Stat implements Bucket.
func (c *Counter) Stat(ctx context.Context, key string) (Attributes, error) {
	c.stats.Add(1)
	return c.b.Stat(ctx, key)
}

// List implements Bucket. It counts one request, however many pages the store
// makes of it.
func (c *Counter) List(ctx context.Context, prefix, startAfter string) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		c.lists.Add(1)
		for o, err := range c.b.List(ctx, prefix, startAfter) {
			if err == nil {
				c.listed.Add(1)
			}
			if !yield(o, err) {
				return
			}
		}
	}
}

// Delete implements Bucket.
func (c *Counter) Delete(ctx context.Context, keys ...string) error {
	c.deletes.Add(1)
	if err := c.b.Delete(ctx, keys...); err != nil {
		return err
	}
	c.deleted.Add(int64(len(keys)))
	return nil
}

// URL implements Bucket.
func (c *Counter) URL() string { return c.b.URL() }

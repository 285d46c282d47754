package azure

import (
	"context"
	"errors"
	"io"
	"sync"

	"wal-e/internal/storage"
)

// content is the body of a request as the client library wants it: of known
// size, with a way back to its beginning. Where a reader has none, the way back
// works until the first byte was read: so the library may look at the size, and
// nothing is ever sent twice.
type content struct {
	size int64
	back func() (io.Reader, error) // nil: r can be read only once

	mu      sync.Mutex // the transport reads in the background
	r       io.Reader
	pos     int64 // where Seek and Read have come to
	touched bool  // something was read, or may have been
	over    bool  // the request is: nobody may read on
	err     error // of the reader, other than io.EOF
}

// newContent returns size bytes of r, which stands at its beginning.
func newContent(ctx context.Context, r io.Reader, size int64) *content {
	c := &content{r: storage.ExactReader(ctx, r, size), size: size}
	if seek, start := storage.Fixed(r); seek != nil {
		c.back = func() (io.Reader, error) {
			_, err := seek.Seek(start, io.SeekStart)
			return storage.ExactReader(ctx, r, size), err
		}
	}
	return c
}

func (c *content) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return 0, errors.New("the request is over")
	}
	c.touched = true
	n, err := c.r.Read(p)
	c.pos += int64(n)
	if err != nil && err != io.EOF {
		c.err = err
	}
	return n, err
}

// Seek goes to the beginning, and tells the size.
func (c *content) Seek(offset int64, whence int) (int64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case whence == io.SeekCurrent && offset == 0:
	case whence == io.SeekEnd && offset == 0:
		c.pos = c.size
	case whence == io.SeekStart && offset == 0:
		if err := c.rewind(); err != nil {
			return c.pos, err
		}
		c.pos = 0
	default:
		return c.pos, errors.ErrUnsupported
	}
	return c.pos, nil
}

func (c *content) rewind() error {
	switch {
	case !c.touched:
		return nil
	case c.over:
		return errors.New("the request is over")
	case c.back == nil:
		return errors.New("it can be sent only once")
	}
	r, err := c.back()
	if err != nil {
		return err
	}
	c.r, c.touched = r, false
	return nil
}

// Close does nothing: the reader is the caller's.
func (c *content) Close() error { return nil }

// stop keeps the transport from reading on, and returns the reader's error.
func (c *content) stop() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	return c.err
}

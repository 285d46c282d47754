package storage

import (
	"context"
	"fmt"
	"io"
)

// ExactReader returns a reader of r for implementations of Create. It fails
// with ErrSize unless r holds size bytes (a negative size means any number),
// and with the context's error from the first Read that ends after ctx is
// done. The last bytes are handed out only when it is known that none follow
// them, so whoever got size bytes without an error has all of r.
func ExactReader(ctx context.Context, r io.Reader, size int64) io.Reader {
	return &exactReader{ctx: ctx, r: r, size: size}
}

type exactReader struct {
	ctx  context.Context // of the Create that reads
	r    io.Reader
	size int64 // negative: unknown
	done int64 // bytes handed out
	err  error // what every later Read returns
}

func (e *exactReader) Read(p []byte) (int, error) {
	if e.err == nil {
		e.err = e.ctx.Err()
	}
	if e.err != nil || len(p) == 0 {
		return 0, e.err
	}
	if e.size >= 0 && int64(len(p)) > e.size-e.done {
		p = p[:e.size-e.done]
	}
	var n int
	if len(p) > 0 {
		n, e.err = e.r.Read(p)
	}
	e.done += int64(n)
	if e.size >= 0 && e.done == e.size && e.err == nil {
		e.err = e.atEnd()
	}
	if err := e.ctx.Err(); err != nil {
		e.err = err // also when r ended early because of that
	}
	switch {
	case e.err == io.EOF && e.size >= 0 && e.done < e.size:
		e.err = fmt.Errorf("%w: it ended after %d bytes, want %d", ErrSize, e.done, e.size)
	case e.err != nil && e.err != io.EOF:
		return 0, e.err
	}
	return n, e.err
}

// atEnd reads past the last byte and returns io.EOF when nothing is there.
func (e *exactReader) atEnd() error {
	var one [1]byte
	for range 100 {
		n, err := e.r.Read(one[:])
		if n > 0 {
			return fmt.Errorf("%w: it goes on after %d bytes", ErrSize, e.size)
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

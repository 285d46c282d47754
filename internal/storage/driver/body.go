// Package driver holds what the drivers of several object stores have in common.
package driver

import (
	"context"
	"fmt"
	"hash"
	"io"
	"math"
	"net/http"

	"wal-e/internal/storage"
)

// Range is the header that asks for length bytes from offset on, or for all that
// follow when length is negative; "" asks for the whole object.
func Range(offset, length int64) string {
	switch {
	case length > 0 && length <= math.MaxInt64-offset:
		return fmt.Sprintf("bytes=%d-%d", offset, offset+length-1)
	case offset > 0 || length > 0:
		return fmt.Sprintf("bytes=%d-", offset)
	}
	return ""
}

// A Body is the content of an object, of which no byte may be missing.
type Body struct {
	ctx  context.Context // of the Get that it comes from
	r    io.ReadCloser
	left int64 // bytes to come; negative: not known

	sum   hash.Hash // nil: not to be checked
	check func() error
}

// NewBody returns a body of left bytes, or of any number when left is negative.
func NewBody(ctx context.Context, r io.ReadCloser, left int64) *Body {
	return &Body{ctx: ctx, r: r, left: left}
}

// Sum has the content summed up, and the sum checked when the last byte has come.
func (b *Body) Sum(sum hash.Hash, check func() error) { b.sum, b.check = sum, check }

// Read implements io.Reader. It fails where the content ends early, goes on for too
// long or isn't what was stored.
func (b *Body) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left >= 0 {
		if b.left -= int64(n); b.left < 0 || err == io.EOF && b.left > 0 {
			return n, io.ErrUnexpectedEOF
		}
	}
	if err != nil && err != io.EOF {
		if cerr := b.ctx.Err(); cerr != nil {
			err = cerr
		}
	}
	if b.sum != nil {
		b.sum.Write(p[:n])
		if err == io.EOF {
			if cerr := b.check(); cerr != nil {
				return n, cerr
			}
		}
	}
	return n, err
}

// Close implements io.Closer.
func (b *Body) Close() error { return b.r.Close() }

// Unranged is the answer of a server that sent an object from its beginning though
// a range of it was asked for, as some do for an empty one.
func Unranged(ctx context.Context, res *http.Response, offset, length int64) (io.ReadCloser, error) {
	if n := res.ContentLength; n >= 0 && n <= offset {
		return http.NoBody, res.Body.Close()
	}
	if offset > 0 {
		res.Body.Close()
		return nil, fmt.Errorf("%w: the server ignores the range of a request", storage.ErrInvalid)
	}
	b := NewBody(ctx, res.Body, res.ContentLength)
	if length < 0 {
		return b, nil
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(b, length), b}, nil
}

// Size returns size, or when it is negative what seek holds from start on; seek may
// be nil, as storage.Fixed returns it.
func Size(size int64, seek io.Seeker, start int64) (int64, error) {
	if size >= 0 || seek == nil {
		return size, nil
	}
	end, err := seek.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = seek.Seek(start, io.SeekStart)
	}
	return end - start, err
}

package storage

import (
	"context"
	"io"
	"time"

	"golang.org/x/time/rate"
)

// rateStep is how many bytes pass at once, and what may pass in a burst.
const rateStep = 64 << 10

// Rate returns a bucket that sends and receives at most so many bytes of objects
// per second, in all requests together. What is sent a second time counts again,
// and so does what a store's client reads once to sign it and once to send it:
// the limit is an upper one. Names, listings and headers don't count.
func Rate(b Bucket, bytesPerSecond int64) Bucket {
	return &rated{Bucket: b, limit: rate.NewLimiter(rate.Limit(bytesPerSecond), rateStep)}
}

type rated struct {
	Bucket
	limit *rate.Limiter
}

// Unwrap lets Weakness look behind it.
func (b *rated) Unwrap() Bucket { return b.Bucket }

func (b *rated) Create(ctx context.Context, key string, r io.Reader, size int64, meta Meta) error {
	paced := pacedReader{ctx: ctx, r: r, limit: b.limit}
	if s, ok := r.(io.Seeker); ok {
		return b.Bucket.Create(ctx, key, pacedSeeker{paced, s}, size, meta)
	}
	return b.Bucket.Create(ctx, key, paced, size, meta)
}

func (b *rated) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	body, err := b.Bucket.Get(ctx, key, offset, length)
	if err != nil {
		return nil, err
	}
	return pacedBody{pacedReader{ctx: ctx, r: body, limit: b.limit}, body}, nil
}

// A pacedReader waits after each read for as long as that may take.
type pacedReader struct {
	ctx   context.Context // of the request that reads
	r     io.Reader
	limit *rate.Limiter
}

func (p pacedReader) Read(b []byte) (int, error) {
	n, err := p.r.Read(b[:min(len(b), rateStep)])
	if werr := p.wait(n); werr != nil && (err == nil || err == io.EOF) {
		return n, werr
	}
	return n, err
}

// wait waits until n bytes may have passed. The limiter's own WaitN gives up at
// once where the deadline is too near, with an error that says nothing of it.
func (p pacedReader) wait(n int) error {
	r := p.limit.ReserveN(time.Now(), n)
	delay := r.Delay()
	if delay == 0 {
		return nil
	}
	t := time.NewTimer(delay)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-p.ctx.Done():
		r.Cancel()
		return context.Cause(p.ctx)
	}
}

type pacedSeeker struct {
	pacedReader
	io.Seeker
}

type pacedBody struct {
	pacedReader
	io.Closer
}

package storage

import (
	"context"
	"io"
	"time"

	"golang.org/x/time/rate"
)

// rateStep is how many bytes pass at once.
const rateStep = 64 << 10

// rateBurst is the part of a second of which the bytes may pass in a burst, after
// nothing has for as long. It makes up for what timers oversleep and for moments
// in which all requests wait for the store; with a burst of one step a push stayed
// a third below its limit.
const rateBurst = 4

// Rate returns a bucket that sends and receives at most so many bytes of objects
// per second, in all requests together. What is sent a second time counts again;
// what a store's client reads to sum it up or to sign it doesn't. Names, listings
// and headers don't count. It holds for buckets that pass what they send and
// receive through Paced, as all of ours do.
func Rate(b Bucket, bytesPerSecond int64) Bucket {
	burst := max(rateStep, bytesPerSecond/rateBurst)
	return &rated{Bucket: b, limit: rate.NewLimiter(rate.Limit(bytesPerSecond), int(burst))}
}

type rated struct {
	Bucket
	limit *rate.Limiter
}

// Unwrap lets Weakness look behind it.
func (b *rated) Unwrap() Bucket { return b.Bucket }

func (b *rated) Create(ctx context.Context, key string, r io.Reader, size int64, meta Meta) error {
	return b.Bucket.Create(context.WithValue(ctx, limitKey{}, b.limit), key, r, size, meta)
}

func (b *rated) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	return b.Bucket.Get(context.WithValue(ctx, limitKey{}, b.limit), key, offset, length)
}

// limitKey is the context's key of the limiter that holds for a request.
type limitKey struct{}

// limitOf returns the limiter that holds for a request, or nil.
func limitOf(ctx context.Context) *rate.Limiter {
	limit, _ := ctx.Value(limitKey{}).(*rate.Limiter)
	return limit
}

// Paced returns r, or where ctx is that of a request through Rate a reader of r
// that keeps to the limit. Implementations of Bucket read through it what goes over
// the network, once: they alone know which reading that is.
func Paced(ctx context.Context, r io.Reader) io.Reader {
	if limit := limitOf(ctx); limit != nil {
		return pacedReader{ctx: ctx, r: r, limit: limit}
	}
	return r
}

// PacedBody is Paced for what must be closed.
func PacedBody(ctx context.Context, body io.ReadCloser) io.ReadCloser {
	if limitOf(ctx) == nil {
		return body
	}
	return pacedBody{Paced(ctx, body), body}
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

type pacedBody struct {
	io.Reader
	io.Closer
}

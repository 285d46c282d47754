package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"

	"wal-e/internal/fault"
)

// A Policy says how long Retry keeps trying. The zero value is usable.
type Policy struct {
	Attempts int           // per request, the first included; 0 means 10, negative no bound
	First    time.Duration // pause before the second attempt, doubled before each further one; 0 means 250ms
	Longest  time.Duration // bound of one pause; 0 means 30s
	Total    time.Duration // no attempt begins later than this after the first; 0 means 5m, negative no bound
	Log      *slog.Logger  // gets a line per repeated attempt; nil discards
}

// Retry returns a bucket that repeats requests to b which failed for a reason
// that may pass, with pauses that grow and vary by half. A body of Get that
// breaks off goes on where it stopped, and so does a List; what got further
// than the attempt before begins to count anew.
//
// Create is repeated when its reader is an io.Seeker, or when nothing was read
// of it yet. After an answer was lost it may report ErrExist for our own
// object, as Bucket says; whose it is only the caller can know.
//
// Not repeated are answers that will not change: ErrNotExist, ErrExist,
// ErrPermission, ErrNoMeta, ErrInvalid, ErrSize, errors.ErrUnsupported, a full
// disk, an error of the reader that Create was given, and anything once the
// caller's context is done.
func Retry(b Bucket, p Policy) Bucket {
	if p.Attempts == 0 {
		p.Attempts = 10
	}
	if p.First <= 0 {
		p.First = 250 * time.Millisecond
	}
	if p.Longest <= 0 {
		p.Longest = 30 * time.Second
	}
	if p.Total == 0 {
		p.Total = 5 * time.Minute
	}
	if p.Log == nil {
		p.Log = slog.New(slog.DiscardHandler)
	}
	return &retrying{b: b, p: p}
}

type retrying struct {
	b Bucket
	p Policy
}

// lasting reports whether a request that failed with err would fail again.
func lasting(ctx context.Context, err error) bool {
	if ctx.Err() != nil {
		return true
	}
	// A deadline that is not the caller's is a time limit of one request.
	for _, target := range []error{
		ErrNotExist, ErrExist, ErrPermission, ErrNoMeta, ErrInvalid, ErrSize,
		errors.ErrUnsupported, syscall.ENOSPC, syscall.EDQUOT, syscall.ENOENT, syscall.ENOTDIR, syscall.EISDIR,
		syscall.EROFS, syscall.ELOOP, syscall.ENAMETOOLONG, syscall.EFBIG, syscall.EINVAL, context.Canceled,
	} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

// do calls attempt until it succeeds, fails for good or the policy gives up.
// What it returns is then the error of the last attempt. A first error that is
// not nil stands for an attempt already made.
func (r *retrying) do(ctx context.Context, op, key string, first error, attempt func() error) error {
	var last error
	try := func() (struct{}, error) {
		if first != nil {
			last, first = first, nil
		} else {
			last = attempt()
		}
		var final *backoff.PermanentError
		if errors.As(last, &final) {
			last = final.Unwrap()
		} else if last == nil || !lasting(ctx, last) {
			return struct{}{}, last
		}
		return struct{}{}, backoff.Permanent(last)
	}
	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval = r.p.First
	pauses.MaxInterval = r.p.Longest
	pauses.Multiplier = 2
	_, err := backoff.Retry(ctx, try,
		backoff.WithBackOff(pauses),
		backoff.WithMaxTries(uint(max(r.p.Attempts, 0))),
		backoff.WithMaxElapsedTime(max(r.p.Total, 0)),
		backoff.WithNotify(func(err error, pause time.Duration) {
			r.p.Log.InfoContext(ctx, "storage request failed, trying again",
				"request", op, "key", key, "pause", pause, "error", err)
		}))
	switch cerr := ctx.Err(); {
	case err == nil:
		return nil
	case cerr != nil && !errors.Is(last, cerr):
		last = fmt.Errorf("%s %s: %w while trying again after: %w", op, key, cerr, last)
	case lasting(ctx, last):
		return last
	}
	return fault.Unreachable.Mark(last)
}

// Create implements Bucket.
func (r *retrying) Create(ctx context.Context, key string, body io.Reader, size int64, meta Meta) error {
	src := newSource(body)
	return r.do(ctx, "create", key, nil, func() error {
		err := r.b.Create(ctx, key, src.reader(), size, meta)
		if err == nil || lasting(ctx, err) {
			return err
		}
		if rerr := src.rewind(); rerr != nil {
			return backoff.Permanent(fmt.Errorf("%w (not tried again: %w)", err, rerr))
		}
		return err
	})
}

// Get implements Bucket.
func (r *retrying) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	g := &retriedBody{r: r, ctx: ctx, key: key, offset: offset, length: length}
	if err := r.do(ctx, "get", key, nil, g.open); err != nil {
		return nil, err
	}
	return g, nil
}

// A retriedBody is the content of an object through as many requests as it
// takes. The object cannot change between them: none ever does.
type retriedBody struct {
	r      *retrying
	ctx    context.Context // of the Get whose requests it repeats
	key    string
	offset int64 // of the next byte
	length int64 // bytes still to read; negative: to the end
	body   io.ReadCloser
	broke  error // of body, not yet returned
	err    error // what every later Read returns
}

func (g *retriedBody) open() (err error) {
	g.body, err = g.r.b.Get(g.ctx, g.key, g.offset, g.length)
	return err
}

func (g *retriedBody) Read(p []byte) (n int, err error) {
	if g.err != nil || len(p) == 0 {
		return 0, g.err
	}
	if n, err = g.read(p); err != nil && err != io.EOF {
		n, err = g.resume(p, err)
	}
	g.err = err
	return n, err
}

// read reads from the body there is, notes how far it came, and returns either
// bytes or an error.
func (g *retriedBody) read(p []byte) (int, error) {
	for g.broke == nil {
		if g.length == 0 {
			return 0, io.EOF
		}
		var n int
		n, g.broke = g.body.Read(p)
		if n == 0 {
			continue
		}
		g.offset += int64(n)
		if g.length > 0 {
			g.length -= int64(n)
		}
		return n, nil
	}
	return 0, g.broke
}

// resume reads from a new body after the old one broke off.
func (g *retriedBody) resume(p []byte, broke error) (n int, err error) {
	atEnd := false
	err = g.r.do(g.ctx, "get", g.key, broke, func() error {
		if err := g.reopen(); err != nil {
			return err
		}
		var err error
		if n, err = g.read(p); err == io.EOF {
			atEnd = true
			return nil
		}
		return err
	})
	if atEnd {
		err = io.EOF
	}
	return n, err
}

// reopen asks for what is still to come. The old body is known to be broken,
// so its Close has nothing to add.
func (g *retriedBody) reopen() error {
	if g.body != nil {
		_ = g.body.Close()
		g.body = nil
	}
	g.broke = nil
	return g.open()
}

func (g *retriedBody) Close() error {
	if g.err == nil {
		g.err = errors.New("read of a closed body")
	}
	if g.body == nil {
		return nil
	}
	body := g.body
	g.body = nil
	return body.Close()
}

// Stat implements Bucket.
func (r *retrying) Stat(ctx context.Context, key string) (a Attributes, err error) {
	err = r.do(ctx, "stat", key, nil, func() (err error) {
		a, err = r.b.Stat(ctx, key)
		return err
	})
	return a, err
}

// List implements Bucket.
func (r *retrying) List(ctx context.Context, prefix, startAfter string) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		after := startAfter
		var broke error // of a scan that yielded something first
		scan := func() error {
			moved := false
			broke = nil
			for o, err := range r.b.List(ctx, prefix, after) {
				if err != nil && moved {
					broke = err
					return nil
				}
				if err != nil {
					return err
				}
				after, moved = o.Key, true
				if !yield(o, nil) {
					return nil
				}
			}
			return nil
		}
		for {
			if err := r.do(ctx, "list", prefix, broke, scan); err != nil {
				yield(Object{}, err)
				return
			}
			if broke == nil {
				return
			}
		}
	}
}

// Delete implements Bucket.
func (r *retrying) Delete(ctx context.Context, keys ...string) error {
	what := ""
	if len(keys) > 0 {
		what = keys[0]
	}
	return r.do(ctx, "delete", what, nil, func() error { return r.b.Delete(ctx, keys...) })
}

// URL implements Bucket.
func (r *retrying) URL() string { return r.b.URL() }

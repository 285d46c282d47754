package storagetest

import (
	"context"
	"io"
	"iter"
	"slices"
	"sync"

	"wal-e/internal/storage"
)

// A Call is one thing that was asked of a Recorder. A Delete is one Call for
// each of its keys.
type Call struct {
	Op    string // create, get, stat, list or delete
	Key   string // the prefix of a list
	Err   error  // how it ended; a Get ends when it is opened, a List with its loop
	Began int    // place in the order of all beginnings and ends
	Ended int    // 0 while it runs
}

// String returns the operation and its key.
func (c Call) String() string { return c.Op + " " + c.Key }

// A Recorder is a bucket that remembers in which order it was asked for what.
// That one call was over before another began is a.Ended < b.Began.
type Recorder struct {
	storage.Bucket // for URL

	mu    sync.Mutex
	clock int
	calls []*Call
}

// NewRecorder returns a Recorder around b.
func NewRecorder(b storage.Bucket) *Recorder { return &Recorder{Bucket: b} }

// Calls returns what was asked for since the last Reset, in the order in which
// it began.
func (r *Recorder) Calls() []Call {
	r.mu.Lock()
	defer r.mu.Unlock()
	calls := make([]Call, len(r.calls))
	for i, c := range r.calls {
		calls[i] = *c
	}
	return calls
}

// Reset forgets all calls.
func (r *Recorder) Reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = nil
}

// begin records a call and returns the function that records its end.
func (r *Recorder) begin(op string, keys ...string) func(error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var calls []*Call
	for _, key := range keys {
		r.clock++
		calls = append(calls, &Call{Op: op, Key: key, Began: r.clock})
	}
	r.calls = slices.Concat(r.calls, calls)
	return func(err error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, c := range calls {
			r.clock++
			c.Ended, c.Err = r.clock, err
		}
	}
}

// Create implements storage.Bucket.
func (r *Recorder) Create(ctx context.Context, key string, body io.Reader, size int64, meta storage.Meta) error {
	end := r.begin("create", key)
	err := r.Bucket.Create(ctx, key, body, size, meta)
	end(err)
	return err
}

// Get implements storage.Bucket.
func (r *Recorder) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	end := r.begin("get", key)
	body, err := r.Bucket.Get(ctx, key, offset, length)
	end(err)
	return body, err
}

// Stat implements storage.Bucket.
func (r *Recorder) Stat(ctx context.Context, key string) (storage.Attributes, error) {
	end := r.begin("stat", key)
	a, err := r.Bucket.Stat(ctx, key)
	end(err)
	return a, err
}

// List implements storage.Bucket.
func (r *Recorder) List(ctx context.Context, prefix, startAfter string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		end := r.begin("list", prefix)
		var last error
		defer func() { end(last) }()
		for o, err := range r.Bucket.List(ctx, prefix, startAfter) {
			last = err
			if !yield(o, err) {
				return
			}
		}
	}
}

// Delete implements storage.Bucket.
func (r *Recorder) Delete(ctx context.Context, keys ...string) error {
	end := r.begin("delete", keys...)
	err := r.Bucket.Delete(ctx, keys...)
	end(err)
	return err
}

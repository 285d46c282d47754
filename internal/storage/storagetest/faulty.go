package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync/atomic"

	"wal-e/internal/storage"
)

// ErrInjected is what a Faulty fails with unless told otherwise.
var ErrInjected = errors.New("injected fault")

// A Mode is a way to fail.
type Mode int

const (
	// FailBefore makes the call fail without an effect.
	FailBefore Mode = iota
	// LoseAnswer carries the call out and fails it all the same: a Create or
	// Delete whose answer never came. A call without an effect just fails.
	LoseAnswer
	// BreakBody lets a Get succeed with a body that breaks off in the middle.
	// Any other call goes well.
	BreakBody
	// FailFrom makes this call and every later one fail without an effect:
	// the store is gone.
	FailFrom
)

// String returns the name of the mode.
func (m Mode) String() string {
	return [...]string{"FailBefore", "LoseAnswer", "BreakBody", "FailFrom"}[m]
}

// A Fault says which call of a bucket fails, and how.
type Fault struct {
	Call int // the first call is 1; 0 means none
	Mode Mode
	Err  error // what to fail with; nil means ErrInjected

	// PageSize is how many objects of a List are one call: a listing counts
	// when it begins and again after each so many. 0 means 1000.
	PageSize int

	// Before, when not nil, is called before each call with its number, its
	// name in lower case and its key: the prefix of a List, the first key of
	// a Delete. It may be called from several goroutines at once.
	Before func(n int, op, key string)
}

// A Faulty is a bucket that fails once, or from then on, as its Fault says.
// To test that a program withstands failure at any point, run it with Call 0,
// ask Calls how many points there are, and run it again for each.
type Faulty struct {
	storage.Bucket // for URL
	fault          Fault
	calls          atomic.Int64
}

// NewFaulty returns a Faulty around b.
func NewFaulty(b storage.Bucket, f Fault) *Faulty {
	if f.Err == nil {
		f.Err = ErrInjected
	}
	if f.PageSize <= 0 {
		f.PageSize = 1000
	}
	return &Faulty{Bucket: b, fault: f}
}

// Calls returns how many calls were made so far.
func (f *Faulty) Calls() int { return int(f.calls.Load()) }

// begin counts a call and returns the fault that hits it: before has no effect
// on the store, after is returned once the call is done, broken is for the
// body.
func (f *Faulty) begin(op, key string) (before, after, broken error) {
	n := int(f.calls.Add(1))
	if f.fault.Before != nil {
		f.fault.Before(n, op, key)
	}
	if f.fault.Call == 0 || n < f.fault.Call || (n > f.fault.Call && f.fault.Mode != FailFrom) {
		return nil, nil, nil
	}
	err := fmt.Errorf("%s %s: call %d: %w", op, key, n, f.fault.Err)
	switch f.fault.Mode {
	case LoseAnswer:
		return nil, err, nil
	case BreakBody:
		return nil, nil, err
	default:
		return err, nil, nil
	}
}

// Create implements storage.Bucket.
func (f *Faulty) Create(ctx context.Context, key string, r io.Reader, size int64, meta storage.Meta) error {
	before, after, _ := f.begin("create", key)
	if before != nil {
		return before
	}
	if err := f.Bucket.Create(ctx, key, r, size, meta); err != nil {
		return err
	}
	return after
}

// Get implements storage.Bucket.
func (f *Faulty) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	before, after, broken := f.begin("get", key)
	if before != nil {
		return nil, before
	}
	body, err := f.Bucket.Get(ctx, key, offset, length)
	if err != nil || (after == nil && broken == nil) {
		return body, err
	}
	defer body.Close()
	if after != nil {
		return nil, after
	}
	data, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	half := bytes.NewReader(data[:len(data)/2])
	return io.NopCloser(brokenReader{half, broken}), nil
}

// Stat implements storage.Bucket.
func (f *Faulty) Stat(ctx context.Context, key string) (storage.Attributes, error) {
	before, after, _ := f.begin("stat", key)
	if err := errors.Join(before, after); err != nil {
		return storage.Attributes{}, err
	}
	return f.Bucket.Stat(ctx, key)
}

// List implements storage.Bucket.
func (f *Faulty) List(ctx context.Context, prefix, startAfter string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		page := func() bool {
			before, after, _ := f.begin("list", prefix)
			err := errors.Join(before, after)
			if err != nil {
				yield(storage.Object{}, err)
			}
			return err == nil
		}
		if !page() {
			return
		}
		n := 0
		for o, err := range f.Bucket.List(ctx, prefix, startAfter) {
			if err == nil && n > 0 && n%f.fault.PageSize == 0 && !page() {
				return
			}
			if !yield(o, err) {
				return
			}
			n++
		}
	}
}

// Delete implements storage.Bucket.
func (f *Faulty) Delete(ctx context.Context, keys ...string) error {
	first := ""
	if len(keys) > 0 {
		first = keys[0]
	}
	before, after, _ := f.begin("delete", first)
	if before != nil {
		return before
	}
	if err := f.Bucket.Delete(ctx, keys...); err != nil {
		return err
	}
	return after
}

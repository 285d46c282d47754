package storagetest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"

	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
	"wal-e/internal/storage/storagetest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	for name, wrap := range map[string]func(storage.Bucket) storage.Bucket{
		"Faulty":   func(b storage.Bucket) storage.Bucket { return storagetest.NewFaulty(b, storagetest.Fault{}) },
		"Recorder": func(b storage.Bucket) storage.Bucket { return storagetest.NewRecorder(b) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storagetest.Run(t, func(*testing.T) storage.Bucket { return wrap(mem.New(nil)) })
		})
	}
}

// script makes each request once and returns what it saw of them.
func script(ctx context.Context, b storage.Bucket) (results []error) {
	results = append(results, storage.CreateBytes(ctx, b, "a", []byte("content"), nil))
	_, err := storage.ReadAll(ctx, b, "a", 100)
	results = append(results, err)
	_, err = b.Stat(ctx, "a")
	results = append(results, err)
	err = nil
	for _, lerr := range b.List(ctx, "", "") {
		err = lerr
	}
	return append(results, err, b.Delete(ctx, "a"))
}

func TestFaulty(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	clean := storagetest.NewFaulty(mem.New(nil), storagetest.Fault{})
	if err := errors.Join(script(ctx, clean)...); err != nil || clean.Calls() != 5 {
		t.Fatalf("script = %v with %d calls, want nil with 5", err, clean.Calls())
	}
	for call := 1; call <= clean.Calls(); call++ {
		for _, mode := range []storagetest.Mode{
			storagetest.FailBefore, storagetest.LoseAnswer, storagetest.BreakBody, storagetest.FailFrom,
		} {
			store := mem.New(nil)
			f := storagetest.NewFaulty(store, storagetest.Fault{Call: call, Mode: mode})
			for i, err := range script(ctx, f) {
				hit := i+1 == call && (mode != storagetest.BreakBody || call == 2) ||
					i+1 > call && mode == storagetest.FailFrom
				// Without a, reading it fails too.
				missing := mode == storagetest.FailBefore && call == 1 && (i == 1 || i == 2)
				want := map[bool]error{true: storagetest.ErrInjected, false: nil}[hit]
				if missing {
					want = storage.ErrNotExist
				}
				if !errors.Is(err, want) {
					t.Errorf("%v at call %d: result of call %d = %v, want %v", mode, call, i+1, err, want)
				}
			}
			_, err := store.Stat(ctx, "a")
			left := mode == storagetest.FailBefore && call == 5 || mode == storagetest.FailFrom && call > 1
			if left != (err == nil) {
				t.Errorf("%v at call %d: Stat after all = %v, want it to be there: %v", mode, call, err, left)
			}
		}
	}
}

func TestFaultyBody(t *testing.T) {
	t.Parallel()
	b := storagetest.NewFaulty(mem.New(nil), storagetest.Fault{Call: 2, Mode: storagetest.BreakBody, Err: io.ErrClosedPipe})
	if err := storage.CreateBytes(t.Context(), b, "a", []byte("12345678"), nil); err != nil {
		t.Fatal(err)
	}
	body, err := b.Get(t.Context(), "a", 0, -1)
	if err != nil {
		t.Fatalf("Get = %v, want nil", err)
	}
	if data, err := io.ReadAll(body); string(data) != "1234" || !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("read = %q, %v, want %q, %v", data, err, "1234", io.ErrClosedPipe)
	}
}

func TestFaultyPages(t *testing.T) {
	t.Parallel()
	store := mem.New(nil)
	for i := range 5 {
		if err := storage.CreateBytes(t.Context(), store, fmt.Sprint(i), nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	var ops []string
	f := storagetest.NewFaulty(store, storagetest.Fault{
		Call: 3, PageSize: 2,
		Before: func(n int, op, key string) { ops = append(ops, fmt.Sprintf("%d %s %q", n, op, key)) },
	})
	var keys []string
	var last error
	for o, err := range f.List(t.Context(), "", "") {
		if last = err; err == nil {
			keys = append(keys, o.Key)
		}
	}
	if want := []string{"0", "1", "2", "3"}; !slices.Equal(keys, want) || !errors.Is(last, storagetest.ErrInjected) {
		t.Errorf("List = %q, %v, want %q, %v", keys, last, want, storagetest.ErrInjected)
	}
	if want := []string{`1 list ""`, `2 list ""`, `3 list ""`}; !slices.Equal(ops, want) {
		t.Errorf("calls = %q, want %q", ops, want)
	}
}

func TestRecorder(t *testing.T) {
	t.Parallel()
	r := storagetest.NewRecorder(mem.New(nil))
	if err := errors.Join(script(t.Context(), r)...); err != nil {
		t.Fatal(err)
	}
	if err := r.Delete(t.Context(), "b", "c"); err != nil {
		t.Fatal(err)
	}
	var got []string
	last := 0
	for _, c := range r.Calls() {
		got = append(got, c.String())
		if c.Began <= last && c.Op != "delete" || c.Ended <= c.Began || c.Err != nil {
			t.Errorf("call %s = %+v, want it to begin after %d and to end", c, c, last)
		}
		last = c.Ended
	}
	want := []string{"create a", "get a", "stat a", "list ", "delete a", "delete b", "delete c"}
	if !slices.Equal(got, want) {
		t.Errorf("calls = %q, want %q", got, want)
	}
	r.Reset()
	if calls := r.Calls(); len(calls) > 0 {
		t.Errorf("calls after Reset = %v, want none", calls)
	}
}

package storage_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
	"wal-e/internal/storage/storagetest"
)

var errFlaky = errors.New("connection reset")

// A flaky bucket fails its first requests, having read some of what a Create
// was given, and breaks off bodies and listings.
type flaky struct {
	storage.Bucket
	failures int   // requests still to fail
	err      error // what they fail with
	take     int64 // bytes read by a Create that fails
	bodies   int64 // bytes after which every body breaks off; 0 means never
	lists    int   // objects after which every listing breaks off; 0 means never
	requests int
}

func (f *flaky) fail() error {
	f.requests++
	if f.failures == 0 {
		return nil
	}
	f.failures--
	return f.err
}

func (f *flaky) Create(ctx context.Context, key string, r io.Reader, size int64, meta storage.Meta) error {
	if err := f.fail(); err != nil {
		_, rerr := io.CopyN(io.Discard, r, f.take)
		return errors.Join(err, rerr)
	}
	return f.Bucket.Create(ctx, key, r, size, meta)
}

func (f *flaky) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if err := f.fail(); err != nil {
		return nil, err
	}
	body, err := f.Bucket.Get(ctx, key, offset, length)
	if err != nil || f.bodies == 0 {
		return body, err
	}
	defer body.Close()
	data, err := io.ReadAll(body)
	if int64(len(data)) <= f.bodies {
		return io.NopCloser(bytes.NewReader(data)), err
	}
	r := io.MultiReader(bytes.NewReader(data[:f.bodies]), iotest.ErrReader(errFlaky))
	return io.NopCloser(iotest.DataErrReader(r)), err
}

func (f *flaky) Stat(ctx context.Context, key string) (storage.Attributes, error) {
	if err := f.fail(); err != nil {
		return storage.Attributes{}, err
	}
	return f.Bucket.Stat(ctx, key)
}

func (f *flaky) List(ctx context.Context, prefix, startAfter string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		if err := f.fail(); err != nil {
			yield(storage.Object{}, err)
			return
		}
		n := 0
		for o, err := range f.Bucket.List(ctx, prefix, startAfter) {
			if f.lists > 0 && n == f.lists {
				yield(storage.Object{}, errFlaky)
				return
			}
			if !yield(o, err) {
				return
			}
			n++
		}
	}
}

func (f *flaky) Delete(ctx context.Context, keys ...string) error {
	if err := f.fail(); err != nil {
		return err
	}
	return f.Bucket.Delete(ctx, keys...)
}

// requests returns one call of each method, each on an object of its own.
func requests(t *testing.T, store storage.Bucket) map[string]func(context.Context, storage.Bucket) error {
	t.Helper()
	for _, key := range []string{"get", "stat", "delete", "list"} {
		if err := storage.CreateBytes(t.Context(), store, key, []byte("content"), nil); err != nil {
			t.Fatal(err)
		}
	}
	return map[string]func(context.Context, storage.Bucket) error{
		"create": func(ctx context.Context, b storage.Bucket) error {
			return b.Create(ctx, "create", strings.NewReader("content"), 7, nil)
		},
		"get": func(ctx context.Context, b storage.Bucket) error {
			_, err := storage.ReadAll(ctx, b, "get", 100)
			return err
		},
		"stat": func(ctx context.Context, b storage.Bucket) error {
			_, err := b.Stat(ctx, "stat")
			return err
		},
		"list": func(ctx context.Context, b storage.Bucket) (last error) {
			for _, last = range b.List(ctx, "list", "") {
				continue
			}
			return last
		},
		"delete": func(ctx context.Context, b storage.Bucket) error { return b.Delete(ctx, "delete") },
	}
}

func TestRetryTransient(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := mem.New(nil)
		for op, request := range requests(t, store) {
			var log bytes.Buffer
			f := &flaky{Bucket: store, failures: 4, err: errFlaky, take: 3}
			b := storage.Retry(f, storage.Policy{Attempts: 5, First: time.Second, Longest: 4 * time.Second,
				Log: slog.New(slog.NewTextHandler(&log, nil))})
			began := time.Now()
			if err := request(t.Context(), b); err != nil || f.requests != 5 {
				t.Errorf("%s = %v after %d requests, want nil after 5", op, err, f.requests)
			}
			// 1, 2, 4 and 4 seconds, each varied by half.
			if pause := time.Since(began); pause < 5500*time.Millisecond || pause > 16500*time.Millisecond {
				t.Errorf("%s paused for %v, want 11s varied by half", op, pause)
			}
			if n := strings.Count(log.String(), "request="+op); n != 4 {
				t.Errorf("%s logged %d lines, want 4:\n%s", op, n, &log)
			}
		}
		if got, err := storage.ReadAll(t.Context(), store, "create", 100); string(got) != "content" {
			t.Errorf("content = %q, %v, want all of it", got, err)
		}
	})
}

func TestRetryGivesUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := mem.New(nil)
		for op, request := range requests(t, store) {
			f := &flaky{Bucket: store, failures: -1, err: errFlaky}
			err := request(t.Context(), storage.Retry(f, storage.Policy{}))
			if !errors.Is(err, errFlaky) || f.requests != 10 {
				t.Errorf("%s = %v after %d requests, want %v after 10", op, err, f.requests, errFlaky)
			}
			began := time.Now()
			f = &flaky{Bucket: store, failures: -1, err: errFlaky}
			err = request(t.Context(), storage.Retry(f, storage.Policy{Attempts: -1, Total: time.Hour}))
			if took := time.Since(began); !errors.Is(err, errFlaky) || took > time.Hour || took < 59*time.Minute {
				t.Errorf("%s = %v after %v, want %v after an hour", op, err, took, errFlaky)
			}
		}
	})
}

func TestRetryLasting(t *testing.T) {
	t.Parallel()
	store := mem.New(nil)
	all := requests(t, store)
	for _, lasting := range []error{
		storage.ErrNotExist, storage.ErrExist, storage.ErrPermission, storage.ErrNoMeta, storage.ErrInvalid,
		storage.ErrSize, syscall.ENOSPC, errors.ErrUnsupported, context.Canceled,
	} {
		for op, request := range all {
			f := &flaky{Bucket: store, failures: -1, err: fmt.Errorf("wrapped: %w", lasting)}
			if err := request(t.Context(), storage.Retry(f, storage.Policy{})); !errors.Is(err, lasting) || f.requests != 1 {
				t.Errorf("%s = %v after %d requests, want %v after one", op, err, f.requests, lasting)
			}
		}
	}
}

func TestRetryContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		store := mem.New(nil)
		for op, request := range requests(t, store) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			f := &flaky{Bucket: store, failures: -1, err: errFlaky}
			began := time.Now()
			err := request(ctx, storage.Retry(f, storage.Policy{Attempts: -1, Total: -1}))
			if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, errFlaky) || time.Since(began) != time.Minute {
				t.Errorf("%s = %v after %v, want %v and %v after a minute",
					op, err, time.Since(began), context.DeadlineExceeded, errFlaky)
			}
			cancel()

			// A time limit of one request is not the caller's.
			f = &flaky{Bucket: store, failures: 1, err: context.DeadlineExceeded}
			if err := request(t.Context(), storage.Retry(f, storage.Policy{})); err != nil || f.requests != 2 {
				t.Errorf("%s = %v after %d requests, want nil after 2", op, err, f.requests)
			}
		}
	})
}

func TestRetryCreate(t *testing.T) {
	t.Parallel()
	errReader := errors.New("disk error")
	part := strings.NewReader("0123456789")
	_, _ = part.Seek(4, io.SeekStart) // cannot fail
	for name, test := range map[string]struct {
		r        io.Reader
		take     int64
		requests int
		want     string // content, when it succeeds
		err      error
	}{
		"seeker":           {strings.NewReader("0123456789"), 7, 3, "0123456789", nil},
		"seeker, standing": {part, 5, 3, "456789", nil},
		"plain, untouched": {struct{ io.Reader }{strings.NewReader("0123456789")}, 0, 3, "0123456789", nil},
		"plain, touched":   {struct{ io.Reader }{strings.NewReader("0123456789")}, 1, 1, "", errFlaky},
		"reader fails":     {struct{ io.ReadSeeker }{failSeeker{errReader}}, 1, 1, "", errReader},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := &flaky{Bucket: mem.New(nil), failures: 2, err: errFlaky, take: test.take}
			b := storage.Retry(f, storage.Policy{First: 1})
			err := b.Create(t.Context(), "k", test.r, -1, nil)
			if !errors.Is(err, test.err) || f.requests != test.requests {
				t.Errorf("Create = %v after %d requests, want %v after %d", err, f.requests, test.err, test.requests)
			}
			if test.err != nil {
				return
			}
			if got, err := storage.ReadAll(t.Context(), f.Bucket, "k", 100); string(got) != test.want {
				t.Errorf("content = %q, %v, want %q", got, err, test.want)
			}
		})
	}
}

type failSeeker struct{ err error }

func (r failSeeker) Read([]byte) (int, error)       { return 0, r.err }
func (r failSeeker) Seek(int64, int) (int64, error) { return 0, nil }

func TestRetryLostAnswer(t *testing.T) {
	t.Parallel()
	store := mem.New(nil)
	b := storage.Retry(storagetest.NewFaulty(store, storagetest.Fault{Call: 1, Mode: storagetest.LoseAnswer}),
		storage.Policy{First: 1})
	if err := storage.CreateBytes(t.Context(), b, "k", []byte("ours"), nil); !errors.Is(err, storage.ErrExist) {
		t.Errorf("Create = %v, want %v", err, storage.ErrExist)
	}
	if got, err := storage.ReadAll(t.Context(), store, "k", 100); string(got) != "ours" {
		t.Errorf("content = %q, %v, want %q", got, err, "ours")
	}
}

func TestRetryBody(t *testing.T) {
	t.Parallel()
	data := make([]byte, 1000)
	for i := range data {
		data[i] = byte(i * 7)
	}
	store := mem.New(nil)
	if err := storage.CreateBytes(t.Context(), store, "k", data, nil); err != nil {
		t.Fatal(err)
	}
	for _, bodies := range []int64{1, 99, 100, 999, 1000} {
		for _, r := range []struct{ offset, length int64 }{
			{0, -1}, {0, 1000}, {0, 2000}, {10, -1}, {10, 300}, {900, 200}, {999, 1}, {1000, -1}, {2000, 5}, {5, 0},
		} {
			f := &flaky{Bucket: store, bodies: bodies}
			b := storage.Retry(f, storage.Policy{Attempts: 2, First: 1})
			body, err := b.Get(t.Context(), "k", r.offset, r.length)
			if err != nil {
				t.Fatalf("Get(%d, %d) = %v, want nil", r.offset, r.length, err)
			}
			got, err := io.ReadAll(body)
			want := data[min(r.offset, 1000):]
			if r.length >= 0 {
				want = want[:min(r.length, int64(len(want)))]
			}
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("Get(%d, %d) in bodies of %d = %d bytes, %v, want %d", r.offset, r.length, bodies, len(got), err, len(want))
			}
			if n := max(1, (int64(len(want))+bodies-1)/bodies); int64(f.requests) > n+1 {
				t.Errorf("Get(%d, %d) in bodies of %d took %d requests, want about %d", r.offset, r.length, bodies, f.requests, n)
			}
			if err := body.Close(); err != nil {
				t.Errorf("Close = %v, want nil", err)
			}
			if _, err := body.Read(make([]byte, 1)); err == nil {
				t.Error("Read after Close = nil, want an error")
			}
		}
	}
}

func TestRetryBodyGivesUp(t *testing.T) {
	t.Parallel()
	store := mem.New(nil)
	if err := storage.CreateBytes(t.Context(), store, "k", []byte("0123456789"), nil); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		err      error // of every request after the first
		requests int
	}{{errFlaky, 3}, {storage.ErrNotExist, 2}} {
		f := &flaky{Bucket: store, bodies: 4}
		b := storage.Retry(f, storage.Policy{Attempts: 3, First: 1})
		body, err := b.Get(t.Context(), "k", 0, -1)
		if err != nil {
			t.Fatalf("Get = %v, want nil", err)
		}
		f.failures, f.err = -1, test.err
		got, err := io.ReadAll(body)
		if string(got) != "0123" || !errors.Is(err, test.err) || f.requests != test.requests {
			t.Errorf("read = %q, %v after %d requests, want %q, %v after %d",
				got, err, f.requests, "0123", test.err, test.requests)
		}
		if err := body.Close(); err != nil {
			t.Errorf("Close = %v, want nil", err)
		}
	}
}

func TestRetryList(t *testing.T) {
	t.Parallel()
	store := mem.New(nil)
	var keys []string
	for i := range 20 {
		keys = append(keys, fmt.Sprintf("k%02d", i))
		if err := storage.CreateBytes(t.Context(), store, keys[i], nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []int{1, 3, 19, 20, 21} {
		f := &flaky{Bucket: store, lists: n, failures: 1, err: errFlaky}
		b := storage.Retry(f, storage.Policy{Attempts: 2, First: 1})
		var got []string
		for o, err := range b.List(t.Context(), "k", "k02") {
			if err != nil {
				t.Errorf("List, breaking off after %d = %v, want nil", n, err)
			}
			got = append(got, o.Key)
		}
		if !slices.Equal(got, keys[3:]) {
			t.Errorf("List, breaking off after %d = %q, want %q", n, got, keys[3:])
		}
		got = nil
		for o := range b.List(t.Context(), "", "") {
			if got = append(got, o.Key); len(got) == 5 {
				break
			}
		}
		if !slices.Equal(got, keys[:5]) {
			t.Errorf("List, left after 5 = %q, want %q", got, keys[:5])
		}
	}
}

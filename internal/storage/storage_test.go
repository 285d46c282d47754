package storage_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"testing/iotest"

	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
	"wal-e/internal/storage/storagetest"
)

func TestCheckKey(t *testing.T) {
	t.Parallel()
	long := strings.Repeat(strings.Repeat("x", 99)+"/", 9)
	for _, key := range []string{
		"a", "a/b", "wal_005/000000010000000000000001.lzo", ".hidden", "...", "a..b", "a b", "é/ü", "a%2F..",
		long[:899], long[:899] + "x", strings.Repeat("x", 255),
	} {
		if err := storage.CheckKey(key); err != nil {
			t.Errorf("CheckKey(%q) = %v, want nil", key, err)
		}
	}
	for _, key := range append(storagetest.InvalidKeys(), long+"x", strings.Repeat("x", 256)) {
		if err := storage.CheckKey(key); !errors.Is(err, storage.ErrInvalid) {
			t.Errorf("CheckKey(%q) = %v, want %v", key, err, storage.ErrInvalid)
		}
	}
}

func TestCheckMeta(t *testing.T) {
	t.Parallel()
	for _, m := range []storage.Meta{nil, {}, {"k": ""}, {"a-0": " !~"}, {"k": strings.Repeat("x", 1023)}} {
		if err := storage.CheckMeta(m); err != nil {
			t.Errorf("CheckMeta(%v) = %v, want nil", m, err)
		}
	}
	for _, m := range []storage.Meta{
		{"": ""}, {"A": ""}, {"a_b": ""}, {"ä": ""}, {"k": "\t"}, {"k": "\x7f"}, {"k": "ä"},
		{"k": strings.Repeat("x", 1024)}, {"k": strings.Repeat("x", 512), "l": strings.Repeat("x", 511)},
	} {
		if err := storage.CheckMeta(m); !errors.Is(err, storage.ErrInvalid) {
			t.Errorf("CheckMeta(%v) = %v, want %v", m, err, storage.ErrInvalid)
		}
	}
}

func TestReadAll(t *testing.T) {
	t.Parallel()
	b := mem.New(nil)
	if err := storage.CreateBytes(t.Context(), b, "dir/k", []byte("12345"), nil); err != nil {
		t.Fatalf("CreateBytes = %v, want nil", err)
	}
	for _, test := range []struct {
		limit int64
		ok    bool
	}{{0, false}, {4, false}, {5, true}, {6, true}, {1 << 60, true}, {-1, false}, {math.MaxInt64, false}} {
		data, err := storage.ReadAll(t.Context(), b, "dir/k", test.limit)
		if test.ok && (err != nil || string(data) != "12345") {
			t.Errorf("ReadAll(limit %d) = %q, %v, want the content", test.limit, data, err)
		}
		if !test.ok && (err == nil || !strings.Contains(err.Error(), "dir/k") || data != nil) {
			t.Errorf("ReadAll(limit %d) = %q, %v, want an error that names dir/k", test.limit, data, err)
		}
	}
	if _, err := storage.ReadAll(t.Context(), b, "none", 1); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("ReadAll(none) = %v, want %v", err, storage.ErrNotExist)
	}
	broken := storagetest.NewFaulty(b, storagetest.Fault{Call: 1, Mode: storagetest.BreakBody})
	if data, err := storage.ReadAll(t.Context(), broken, "dir/k", 5); !errors.Is(err, storagetest.ErrInjected) || data != nil {
		t.Errorf("ReadAll of a body that breaks off = %q, %v, want %v", data, err, storagetest.ErrInjected)
	}
}

func TestExactReader(t *testing.T) {
	t.Parallel()
	const data = "0123456789"
	readers := map[string]func(io.Reader) io.Reader{
		"plain":    func(r io.Reader) io.Reader { return r },
		"one byte": iotest.OneByteReader,
		"half":     iotest.HalfReader,
		"data+err": iotest.DataErrReader,
	}
	for name, wrap := range readers {
		for _, size := range []int64{-1, 0, 1, 9, 10, 11, math.MaxInt64} {
			for _, buf := range []int{1, 3, 9, 10, 11, 100} {
				r := storage.ExactReader(t.Context(), wrap(strings.NewReader(data)), size)
				var got bytes.Buffer
				_, err := io.CopyBuffer(struct{ io.Writer }{&got}, r, make([]byte, buf))
				want := error(nil)
				if size >= 0 && size != int64(len(data)) {
					want = storage.ErrSize
				}
				if !errors.Is(err, want) || want == nil && got.String() != data {
					t.Errorf("%s reader, size %d, buffer %d: %q, %v, want %v", name, size, buf, &got, err, want)
				}
				if want != nil && size < int64(len(data)) && int64(got.Len()) >= max(size, 1) {
					t.Errorf("%s reader, size %d, buffer %d: got %d bytes of a reader that is too long", name, size, buf, got.Len())
				}
			}
		}
	}
	for _, size := range []int64{-1, 0, 10} {
		ctx, cancel := context.WithCancel(t.Context())
		r := storage.ExactReader(ctx, strings.NewReader(data), size)
		cancel()
		if _, err := r.Read(make([]byte, 1)); !errors.Is(err, context.Canceled) {
			t.Errorf("Read after cancel = %v, want %v", err, context.Canceled)
		}
	}
}

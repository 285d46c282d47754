package storagetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"wal-e/internal/storage"
)

func testGetRange(t *testing.T, b storage.Bucket) {
	for _, size := range []int64{0, 1, 1000, 70_000} {
		key := "range/" + string(rune('a'+len(list(t, b, "range/", ""))))
		data := content(int(size))
		create(t, b, key, data)
		for _, offset := range []int64{0, 1, size / 2, size - 1, size, size + 1, size + 1000} {
			for _, length := range []int64{-1, -1000, 0, 1, size - offset - 1, size - offset, size - offset + 1, size, size + 1, 1 << 50} {
				if offset < 0 {
					continue
				}
				from := min(offset, size)
				to := size
				if length >= 0 {
					to = min(size, from+length)
				}
				if got := get(t, b, key, offset, length); !bytes.Equal(got, data[from:to]) {
					t.Errorf("Get(offset %d, length %d) of %d bytes = %d bytes, want bytes %d to %d",
						offset, length, size, len(got), from, to)
				}
			}
		}
		if body, err := b.Get(t.Context(), key, -1, 1); !errors.Is(err, storage.ErrInvalid) {
			t.Errorf("Get(offset -1) = %v, want %v", err, storage.ErrInvalid)
			if err == nil {
				body.Close()
			}
		}
	}
}

func testGetCancelled(t *testing.T, b storage.Bucket) {
	create(t, b, "large", content(8<<20))
	ctx, cancel := context.WithCancel(t.Context())
	body, err := b.Get(ctx, "large", 0, -1)
	if err != nil {
		t.Fatalf("Get = %v, want nil", err)
	}
	defer body.Close()
	if _, err := io.ReadFull(body, make([]byte, 1000)); err != nil {
		t.Fatalf("read of the first bytes = %v, want nil", err)
	}
	cancel()
	if n, err := io.Copy(io.Discard, body); !errors.Is(err, context.Canceled) {
		t.Errorf("read after cancel = %d bytes, %v, want %v", n, err, context.Canceled)
	}
	if _, err := b.Get(ctx, "large", 0, -1); !errors.Is(err, context.Canceled) {
		t.Errorf("Get with a cancelled context = %v, want %v", err, context.Canceled)
	}
	if _, err := b.Stat(ctx, "large"); !errors.Is(err, context.Canceled) {
		t.Errorf("Stat with a cancelled context = %v, want %v", err, context.Canceled)
	}
	if err := b.Delete(ctx, "large"); !errors.Is(err, context.Canceled) {
		t.Errorf("Delete with a cancelled context = %v, want %v", err, context.Canceled)
	}
	if got := get(t, b, "large", 0, 1); len(got) != 1 {
		t.Errorf("Get after a cancelled Delete = %d bytes, want 1", len(got))
	}
}

package s3_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"wal-e/internal/enginetest"
	"wal-e/internal/storage"
	"wal-e/internal/storage/s3"
	"wal-e/internal/storage/storagetest"
)

// config is one for a server with all rights.
func config(t *testing.T, s *enginetest.S3Server, bucket string) s3.Config {
	t.Helper()
	e, err := s3.ParseEndpoint(s.Endpoint())
	if err != nil {
		t.Fatal(err)
	}
	return s3.Config{Bucket: bucket, Endpoint: e, Region: s.Region, AccessKeyID: s.AccessKey, SecretAccessKey: s.SecretKey}
}

func open(t *testing.T, cfg s3.Config) *s3.Bucket {
	t.Helper()
	b, err := s3.Open(cfg)
	if err != nil {
		t.Fatalf("Open = %v, want nil", err)
	}
	return b
}

func conformance(t *testing.T, s *enginetest.S3Server, wrap func(storage.Bucket) storage.Bucket) {
	t.Parallel()
	var n atomic.Int64
	storagetest.RunSlow(t, func(t *testing.T) storage.Bucket {
		name := fmt.Sprintf("conformance-%d", n.Add(1))
		s.CreateBucket(t, name)
		cfg := config(t, s, name)
		cfg.Prefix, cfg.PageSize = "some/prefix/", 100
		return wrap(open(t, cfg))
	})
}

// One server serves them all.
func TestMinIO(t *testing.T) {
	t.Parallel()
	s := enginetest.MinIO(t)
	t.Run("Conformance", func(t *testing.T) {
		conformance(t, s, func(b storage.Bucket) storage.Bucket { return b })
	})
}

// apart keeps creates and deletes apart. versitygw removes the folders that a
// delete leaves empty; who creates in one meanwhile gets 409, or, seldom, success
// and no object.
type apart struct {
	storage.Bucket
	mu sync.RWMutex
}

func (a *apart) Create(ctx context.Context, key string, r io.Reader, size int64, meta storage.Meta) error {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.Bucket.Create(ctx, key, r, size, meta)
}

func (a *apart) Delete(ctx context.Context, keys ...string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.Bucket.Delete(ctx, keys...)
}

func TestVersitygw(t *testing.T) {
	t.Parallel()
	s := enginetest.Versitygw(t)
	t.Run("Conformance", func(t *testing.T) {
		conformance(t, s, func(b storage.Bucket) storage.Bucket { return &apart{Bucket: b} })
	})
}

// Swift's gateway has no conditional PUT. What came first stays all the same; of
// two at the same moment both may believe to have won, so it can't pass the suite.
func TestSwiftGateway(t *testing.T) {
	t.Parallel()
	s := enginetest.Swift(t, 1).S3()
	s.CreateBucket(t, "some")
	cfg := config(t, s, "some")
	cfg.Prefix = "some/prefix/"
	b := storage.Retry(open(t, cfg), storage.Policy{First: time.Millisecond})
	ctx := t.Context()
	large := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	for _, first := range [][]byte{large, []byte("small")} {
		key := fmt.Sprintf("of/%d bytes", len(first))
		if err := storage.CreateBytes(ctx, b, key, first, storage.Meta{"some": "value"}); err != nil {
			t.Fatalf("Create(%q) = %v, want nil", key, err)
		}
		if err := storage.CreateBytes(ctx, b, key, []byte("second"), nil); !errors.Is(err, storage.ErrExist) {
			t.Errorf("second Create(%q) = %v, want %v", key, err, storage.ErrExist)
		}
		if got, err := storage.ReadAll(ctx, b, key, 1<<30); err != nil || !bytes.Equal(got, first) {
			t.Errorf("ReadAll(%q) = %d bytes, %v, want the %d created first", key, len(got), err, len(first))
		}
		if a, err := b.Stat(ctx, key); err != nil || a.Meta["some"] != "value" || a.Size != int64(len(first)) {
			t.Errorf("Stat(%q) = %+v, %v, want size and metadata of the first", key, a, err)
		}
	}
	if err := b.Create(ctx, "in/parts", io.LimitReader(rand.Reader, 20<<20), -1, nil); err != nil {
		t.Errorf("Create of unknown size = %v, want nil", err)
	}
	var keys []string
	for o, err := range b.List(ctx, "", "") {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, o.Key)
	}
	if want := []string{"in/parts", "of/16777216 bytes", "of/5 bytes"}; !slices.Equal(keys, want) {
		t.Errorf("List() = %q, want %q", keys, want)
	}
	if err := b.Delete(ctx, append(keys, "absent")...); err != nil {
		t.Errorf("Delete = %v, want nil", err)
	}
	if _, err := b.Stat(ctx, keys[1]); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Stat of a deleted object = %v, want %v", err, storage.ErrNotExist)
	}
	if storage.Weakness(b) == "" {
		t.Error("Weakness() of Swift's gateway is empty")
	}
}

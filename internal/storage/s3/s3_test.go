package s3_test

import (
	"fmt"
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

func TestVersitygw(t *testing.T) {
	t.Parallel()
	s := enginetest.Versitygw(t)
	t.Run("Conformance", func(t *testing.T) {
		// Its folders come and go with the objects in them, and it answers 409 to
		// whoever comes in between.
		conformance(t, s, func(b storage.Bucket) storage.Bucket {
			return storage.Retry(b, storage.Policy{First: time.Millisecond})
		})
	})
}

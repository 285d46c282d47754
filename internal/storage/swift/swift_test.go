package swift_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"wal-e/internal/enginetest"
	"wal-e/internal/storage"
	"wal-e/internal/storage/storagetest"
	"wal-e/internal/storage/swift"
)

// v1 is a config for auth v1.
func v1(s *enginetest.SwiftServer, container string) swift.Config {
	return swift.Config{Container: container, AuthURL: s.AuthURL, AuthVersion: 1, User: s.User, Password: s.Password}
}

func open(t *testing.T, cfg swift.Config) *swift.Bucket {
	t.Helper()
	b, err := swift.Open(cfg)
	if err != nil {
		t.Fatalf("Open = %v, want nil", err)
	}
	return b
}

// One Swift serves them all: it takes seconds to start.
func TestSwift(t *testing.T) {
	t.Parallel()
	s := enginetest.Swift(t, 1)
	t.Run("Conformance", func(t *testing.T) {
		t.Parallel()
		var n atomic.Int64
		storagetest.RunSlow(t, func(t *testing.T) storage.Bucket {
			name := fmt.Sprintf("conformance-%d", n.Add(1))
			s.CreateContainer(t, name, nil)
			cfg := v1(s, name)
			cfg.Prefix, cfg.PageSize = "some/prefix/", 100
			return open(t, cfg)
		})
	})
}

package main

import (
	"context"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
)

// readsOf counts how often each object is read.
type readsOf struct {
	storage.Bucket
	mu sync.Mutex
	n  map[string]int
}

func (r *readsOf) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	r.mu.Lock()
	r.n[key]++
	r.mu.Unlock()
	return r.Bucket.Get(ctx, key, offset, length)
}

// Status and report read the outcome of each backup once; for its databases and
// tables a report opens the last backup.
func TestOutcomesAreReadOnce(t *testing.T) {
	t.Parallel()
	dir := classicArchive(t)
	b := mem.New(time.Now)
	outcomes := 0
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		key, err := filepath.Rel(dir, path)
		if err != nil || strings.HasPrefix(key, "wal_006") { // whose files are empty there
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if strings.HasSuffix(key, ".outcome") {
			outcomes++
		}
		return storage.CreateBytes(t.Context(), b, filepath.ToSlash(key), data, nil)
	})
	if err != nil || outcomes < 2 {
		t.Fatalf("%d outcomes, %v", outcomes, err)
	}
	s := &session{config: config{stateRoot: t.TempDir()}, log: slog.New(slog.DiscardHandler)}
	f := statusFlags{maxAge: time.Hour, maxVerify: maxVerifyAge}
	for name, c := range map[string]struct {
		find func(b storage.Bucket) error
		more int
	}{
		"status": {func(b storage.Bucket) error { _, err := findStatus(t.Context(), s, b, f, nil); return err }, 0},
		"report": {func(b storage.Bucket) error { _, err := findReport(t.Context(), s, b, f); return err }, 1},
	} {
		reads := &readsOf{Bucket: b, n: make(map[string]int)}
		if err := c.find(reads); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		total := 0
		for key, n := range reads.n {
			if strings.HasSuffix(key, ".outcome") {
				total += n
			}
		}
		if total < outcomes || total > outcomes+c.more {
			t.Errorf("%s reads %d outcomes for %d backups: %v", name, total, outcomes, reads.n)
		}
	}
}

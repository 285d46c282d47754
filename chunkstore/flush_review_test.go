package chunkstore_test

import (
	"testing"

	"wal-e/chunkstore"
	"wal-e/internal/storage/storagetest"
)

func beginSmall(t *testing.T, s *chunkstore.Store) (*chunkstore.Push, error) {
	t.Helper()
	return s.Begin(t.Context(), chunkstore.PushConfig{
		Name: "base_000000010000000000000001_00000040", PackSize: 128 << 10,
		Intent: chunkstore.Intent{System: system, Start: "0/1000028"},
	})
}

// TestFlushFails: what a failed Flush gave up is in no pack, so nothing may be
// committed afterwards, however often it is tried.
func TestFlushFails(t *testing.T) {
	t.Parallel()
	failed := 0
	for n := 1; n <= 16; n++ { // more than such a push has
		b := newBucket(t)
		prefix := open(t, b).Prefix()
		faulty := storagetest.NewFaulty(b, storagetest.Fault{Call: n})
		s, err := chunkstore.New(faulty, prefix, nil)
		if err != nil {
			t.Fatal(err)
		}
		run, err := beginSmall(t, s)
		if err != nil {
			continue
		}
		m, err := store(run, s, [][]byte{random(1, 100<<10)})
		if err != nil {
			t.Fatal(err)
		}
		if err := run.Flush(t.Context()); err == nil {
			continue // the fault came before, or comes later
		}
		failed++
		for range 2 {
			if err := run.Commit(t.Context(), m); err == nil {
				t.Fatalf("Commit after a Flush that failed at call %d = nil", n)
			}
		}
		if err := run.Abort(t.Context(), "test"); err != nil {
			t.Errorf("Abort = %v", err)
		}
		if n := checkAll(t, b); n != 0 {
			t.Errorf("%d backups, want none", n)
		}
	}
	if failed == 0 {
		t.Error("no call of Flush was hit")
	}
}

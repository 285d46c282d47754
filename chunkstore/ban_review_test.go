package chunkstore_test

import (
	"testing"

	"wal-e/index"
	"wal-e/internal/runid"
)

// TestBanOfOthers: a ban costs what was in the banned packs. What the run stored
// itself stays stored.
func TestBanOfOthers(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	s := open(t, b)
	run, err := beginSmall(t, s)
	if err != nil {
		t.Fatal(err)
	}
	files := [][]byte{random(1, 2<<20)}
	if _, err := store(run, s, files); err != nil {
		t.Fatal(err)
	}
	before := run.Stats().New
	run.Ban([]index.PackID{{Run: runid.ID{1}, Seq: 3}})
	m, err := store(run, s, files)
	if err != nil {
		t.Fatal(err)
	}
	if again := run.Stats().New - before; again != 0 {
		t.Errorf("%d bytes stored again after a pack of another run was banned", again)
	}
	if err := run.Commit(t.Context(), m); err != nil {
		t.Fatalf("Commit = %v", err)
	}
	checkAll(t, b)
}

package main_test

import (
	"os"
	"path/filepath"
	"testing"

	"wal-e/internal/pgtest"
)

// Losing all that earlier backups stored doesn't reach a fresh one.
func TestFreshPush(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	c := a.start(t, pgtest.Options{SegmentSizeMB: 1})
	first := a.push(t, c)
	second := a.push(t, c)
	fresh := a.push(t, c, "--fresh")
	if fresh.New < first.New*9/10 || second.New > first.New/2 {
		t.Errorf("new bytes: %d, %d, %d with --fresh", first.New, second.New, fresh.New)
	}
	for _, run := range []string{first.Run, second.Run} {
		if err := os.RemoveAll(filepath.Join(a.prefix, "chunks_006/packs", run)); err != nil {
			t.Fatal(err)
		}
	}
	a.fails(t, nil, 1, []string{first.Name}, "verify", first.Name)
	a.must(t, nil, "verify", "--read-data", "--wal", fresh.Name)
	if next := a.push(t, c); next.New > first.New/2 {
		t.Errorf("the push after a fresh one stored %d bytes anew", next.New)
	}
}

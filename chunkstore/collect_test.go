package chunkstore_test

import (
	"testing"
	"time"

	"wal-e/chunkstore"
	"wal-e/internal/runid"
	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
)

// An index object that a repair made belongs to its run, and is no sign that the
// run's push is alive.
func TestListIndexesOfRepairs(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	b := mem.New(func() time.Time { return now })
	run := runid.ID{1, 2, 3}
	dir := "chunks_006/index/" + run.String() + "/"
	pushed := now
	for _, number := range []string{"00000000", "81243907"} {
		if err := storage.CreateBytes(t.Context(), b, dir+number, []byte("x"), nil); err != nil {
			t.Fatal(err)
		}
		now = now.Add(48 * time.Hour)
	}
	for _, of := range []*runid.ID{nil, &run} {
		lists, err := chunkstore.ListIndexes(t.Context(), b, of)
		if err != nil {
			t.Fatal(err)
		}
		if l := lists[run]; l == nil || len(l.Keys) != 2 || !l.Newest.Equal(pushed) {
			t.Errorf("ListIndexes(%v) = %+v, want both objects, and %s as the newest sign", of, l, pushed)
		}
	}
}

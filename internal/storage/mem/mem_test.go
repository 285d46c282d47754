package mem_test

import (
	"slices"
	"testing"
	"time"

	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
	"wal-e/internal/storage/storagetest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	storagetest.Run(t, func(*testing.T) storage.Bucket { return mem.New(nil) })
}

func TestModTime(t *testing.T) {
	t.Parallel()
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	clock := []time.Time{noon, noon, noon.Add(-time.Hour), noon.Add(time.Hour)}
	n := 0
	b := mem.New(func() time.Time { n++; return clock[n-1] })
	var got []time.Time
	for _, key := range []string{"a", "b", "c", "d"} {
		if err := storage.CreateBytes(t.Context(), b, key, nil, nil); err != nil {
			t.Fatalf("Create(%q) = %v, want nil", key, err)
		}
		a, err := b.Stat(t.Context(), key)
		if err != nil {
			t.Fatalf("Stat(%q) = %v, want nil", key, err)
		}
		got = append(got, a.ModTime)
	}
	want := []time.Time{noon, noon.Add(1), noon.Add(2), noon.Add(time.Hour)}
	if !slices.Equal(got, want) {
		t.Errorf("times = %v, want %v", got, want)
	}
}

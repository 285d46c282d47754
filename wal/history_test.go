package wal_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"wal-e/internal/postgres"
	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
	"wal-e/wal"
)

func TestTimelinesAndHistory(t *testing.T) {
	t.Parallel()
	b := mem.New(nil)
	const system = postgres.SystemID(7421838103526743210)
	dir := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := wal.Push(t.Context(), wal.Config{Bucket: b, System: system}, path); err != nil {
			t.Fatal(err)
		}
	}
	put("00000002.history", "1\t0/3000000\tno recovery target specified\n")
	put("0000000A.history", "1\t0/3000000\tx\n\n2\t0/5000000\ty\n")
	for _, tl := range []int{1, 2, 10, 11} {
		for i := range 3 {
			key := wal.Key(system, fmt.Sprintf("%08X00000000%08X", tl, i))
			if err := storage.CreateBytes(t.Context(), b, key, []byte("segment"), nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	got, err := wal.Timelines(t.Context(), b, system)
	if want := []postgres.Timeline{2, 10}; err != nil || !slices.Equal(got, want) {
		t.Errorf("Timelines = %v, %v, want %v", got, err, want)
	}
	h, err := wal.ReadHistory(t.Context(), b, system, 10)
	if err != nil || len(h.Ancestors) != 2 || h.Ancestors[1].Timeline != 2 {
		t.Errorf("ReadHistory(10) = %+v, %v", h, err)
	}
	_, err = wal.ReadHistory(t.Context(), b, system, 11)
	if !errors.Is(err, wal.ErrNotFound) || !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("ReadHistory(11): %v, want one that isn't there", err)
	}
	if got, err := wal.Timelines(t.Context(), b, system+1); err != nil || len(got) != 0 {
		t.Errorf("Timelines of another system = %v, %v, want none", got, err)
	}
}

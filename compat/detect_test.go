package compat_test

import (
	"context"
	"errors"
	"iter"
	"strings"
	"testing"

	"wal-e/compat"
	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
)

func TestDetect(t *testing.T) {
	t.Parallel()
	const (
		classicWAL    = "wal_005/000000010000000000000002.lzo"
		classicBackup = "basebackups_005/base_000000010000000000000004_00000216_backup_stop_sentinel.json"
	)
	for _, tc := range []struct {
		name   string
		keys   []string
		want   compat.Contents
		layout compat.Layout
	}{
		{"empty", nil, compat.Contents{}, compat.Dedup},
		{"classic WAL", []string{classicWAL}, compat.Contents{Classic: true}, compat.Classic},
		{"classic backup", []string{classicBackup}, compat.Contents{Classic: true}, compat.Classic},
		{"config", []string{"chunks_006/config/0"}, compat.Contents{Dedup: true}, compat.Dedup},
		{"WAL", []string{"wal_006/1/00000002.history"}, compat.Contents{Dedup: true}, compat.Dedup},
		{"intent", []string{"basebackups_006/base_X/R.intent"}, compat.Contents{Dedup: true}, compat.Dedup},
		{"both", []string{classicWAL, "chunks_006/config/0"}, compat.Contents{Classic: true, Dedup: true}, compat.Dedup},
		{"others", []string{"wal_004/x", "README", "basebackups_005x/y"}, compat.Contents{}, compat.Dedup},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b := mem.New(nil)
			for _, key := range tc.keys {
				if err := storage.CreateBytes(t.Context(), b, key, []byte("x"), nil); err != nil {
					t.Fatal(err)
				}
			}
			counted := storage.Counted(b)
			got, err := compat.Detect(t.Context(), counted)
			if err != nil || got != tc.want {
				t.Errorf("Detect = %+v, %v, want %+v", got, err, tc.want)
			}
			if got.Layout() != tc.layout {
				t.Errorf("Layout = %s, want %s", got.Layout(), tc.layout)
			}
			if got.Empty() != (tc.want == compat.Contents{}) {
				t.Errorf("Empty = %t", got.Empty())
			}
			if n := counted.Counts().Lists; n > 5 {
				t.Errorf("%d listings, want at most 5", n)
			}
		})
	}
}

// What can't be listed is no empty prefix.
func TestDetectUnlistable(t *testing.T) {
	t.Parallel()
	for _, prefix := range []string{"chunks_006/config/", "wal_006/", "basebackups_006/", "wal_005/", "basebackups_005/"} {
		got, err := compat.Detect(t.Context(), unlistable{mem.New(nil), prefix})
		if !errors.Is(err, storage.ErrPermission) || !strings.Contains(err.Error(), prefix) || !got.Empty() {
			t.Errorf("Detect = %+v, %v, want an error about %s", got, err, prefix)
		}
	}
}

// An unlistable bucket refuses to list one prefix.
type unlistable struct {
	storage.Bucket
	prefix string
}

func (u unlistable) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Object, error] {
	if prefix == u.prefix {
		return func(yield func(storage.Object, error) bool) { yield(storage.Object{}, storage.ErrPermission) }
	}
	return u.Bucket.List(ctx, prefix, after)
}

package gc_test

import (
	"context"
	"errors"
	"testing"

	"wal-e/gc"
	"wal-e/internal/storage"
)

// unsettled is a store of whose listings one knows less than another.
type unsettled struct{ storage.Bucket }

func (unsettled) CheckListings(context.Context) error { return storage.ErrUnsettled }

// A listing that lacks old objects makes packs look unneeded, however alone the
// collection is.
func TestUnsettledStoreIsRefused(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	for _, exclusive := range []bool{false, true} {
		cfg := a.config()
		cfg.Bucket, cfg.Exclusive = unsettled{a.b}, exclusive
		if _, err := gc.Collect(t.Context(), cfg); !errors.Is(err, gc.ErrWeakStore) || !errors.Is(err, storage.ErrUnsettled) {
			t.Errorf("Collect on a store whose listings differ, exclusive %v = %v, want %v", exclusive, err, gc.ErrWeakStore)
		}
	}
}

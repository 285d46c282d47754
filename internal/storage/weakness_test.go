package storage_test

import (
	"context"
	"errors"
	"testing"

	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
)

type weakBucket struct{ storage.Bucket }

func (weakBucket) Weakness() string { return "its listings lag" }

func (weakBucket) CheckListings(context.Context) error { return storage.ErrUnsettled }

type wrapper struct{ storage.Bucket }

func (w wrapper) Unwrap() storage.Bucket { return w.Bucket }

func TestWeakness(t *testing.T) {
	t.Parallel()
	wrap := func(b storage.Bucket) storage.Bucket {
		d := storage.Divide(b, mem.New(nil), func(string) bool { return false })
		return wrapper{storage.Counted(storage.Retry(storage.Limit(d, 1), storage.Policy{}))}
	}
	strong := wrap(mem.New(nil))
	if got := storage.Weakness(strong); got != "" {
		t.Errorf("Weakness of a strong store = %q, want none", got)
	}
	if err := storage.CheckListings(t.Context(), strong); err != nil {
		t.Errorf("CheckListings of a strong store = %v, want nil", err)
	}
	weak := wrap(weakBucket{mem.New(nil)})
	if got, want := storage.Weakness(weak), "its listings lag"; got != want {
		t.Errorf("Weakness behind wrappers = %q, want %q", got, want)
	}
	if err := storage.CheckListings(t.Context(), weak); !errors.Is(err, storage.ErrUnsettled) {
		t.Errorf("CheckListings behind wrappers = %v, want %v", err, storage.ErrUnsettled)
	}
}

package storage_test

import (
	"testing"

	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
)

type weakBucket struct{ storage.Bucket }

func (weakBucket) Weakness() string { return "its listings lag" }

type wrapper struct{ storage.Bucket }

func (w wrapper) Unwrap() storage.Bucket { return w.Bucket }

func TestWeakness(t *testing.T) {
	t.Parallel()
	wrap := func(b storage.Bucket) storage.Bucket {
		return wrapper{storage.Counted(storage.Retry(storage.Limit(b, 1), storage.Policy{}))}
	}
	strong := mem.New(nil)
	if got := storage.Weakness(wrap(strong)); got != "" {
		t.Errorf("Weakness of a strong store = %q, want none", got)
	}
	if got, want := storage.Weakness(wrap(weakBucket{strong})), "its listings lag"; got != want {
		t.Errorf("Weakness behind wrappers = %q, want %q", got, want)
	}
}

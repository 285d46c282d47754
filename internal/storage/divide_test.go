package storage_test

import (
	"slices"
	"strings"
	"testing"

	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
	"wal-e/internal/storage/storagetest"
)

func TestDivide(t *testing.T) {
	t.Parallel()
	// Every second letter is elsewhere, so listings are merged all the time.
	odd := func(element string) bool { return element != "" && element[len(element)-1]%2 == 1 }
	t.Run("Conformance", func(t *testing.T) {
		t.Parallel()
		storagetest.Run(t, func(*testing.T) storage.Bucket { return storage.Divide(mem.New(nil), mem.New(nil), odd) })
	})
	t.Run("Sides", func(t *testing.T) {
		t.Parallel()
		a, b := mem.New(nil), mem.New(nil)
		d := storage.Divide(a, b, func(element string) bool { return strings.HasPrefix(element, "old") })
		keys := []string{"new/1", "old", "old/1", "older/x", "z"}
		for _, key := range keys {
			if err := storage.CreateBytes(t.Context(), d, key, nil, nil); err != nil {
				t.Fatal(err)
			}
		}
		// What lies on the wrong side isn't seen.
		for bucket, key := range map[storage.Bucket]string{a: "old/wrong", b: "new/wrong"} {
			if err := storage.CreateBytes(t.Context(), bucket, key, nil, nil); err != nil {
				t.Fatal(err)
			}
		}
		if got := keysOf(t, d); !slices.Equal(got, keys) {
			t.Errorf("List() = %q, want %q", got, keys)
		}
		if got, want := keysOf(t, b), []string{"new/wrong", "old", "old/1", "older/x"}; !slices.Equal(got, want) {
			t.Errorf("List() of the second = %q, want %q", got, want)
		}
		if err := d.Delete(t.Context(), keys...); err != nil {
			t.Errorf("Delete = %v, want nil", err)
		}
		if got := keysOf(t, d); len(got) > 0 {
			t.Errorf("List() after Delete = %q, want nothing", got)
		}
	})
}

func keysOf(t *testing.T, b storage.Bucket) (keys []string) {
	t.Helper()
	for o, err := range b.List(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, o.Key)
	}
	return keys
}

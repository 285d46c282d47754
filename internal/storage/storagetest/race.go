package storagetest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"wal-e/internal/storage"
)

func testCreateRace(t *testing.T, b storage.Bucket) {
	const racers, rounds = 64, 3
	for round := range rounds {
		key := fmt.Sprintf("race/%d/outcome", round)
		contents := make([][]byte, racers)
		errs := make([]error, racers)
		for i := range contents {
			contents[i] = bytes.Repeat([]byte{byte(i)}, 10_000+i)
		}
		start := make(chan struct{})
		var wg sync.WaitGroup
		for i := range racers {
			wg.Go(func() {
				<-start
				errs[i] = storage.CreateBytes(t.Context(), b, key, contents[i], nil)
			})
		}
		close(start)
		wg.Wait()
		winner, winners := -1, 0
		for i, err := range errs {
			switch {
			case err == nil:
				winner, winners = i, winners+1
			case !errors.Is(err, storage.ErrExist):
				t.Errorf("Create(%q) of racer %d = %v, want nil or %v", key, i, err, storage.ErrExist)
			}
		}
		if winners != 1 {
			t.Errorf("%d of %d racers for %q won, want one", winners, racers, key)
		} else if got := get(t, b, key, 0, -1); !bytes.Equal(got, contents[winner]) {
			t.Errorf("content of %q is not that of its winner, racer %d", key, winner)
		}
	}
}

// testConcurrent creates, reads, lists and deletes side by side in folders that
// become empty all the time, next to objects that stay.
func testConcurrent(t *testing.T, b storage.Bucket) {
	const workers, rounds = 8, 25
	ctx := t.Context()
	stay := []string{"c/0/stay", "c/stay", "stay"}
	createAll(t, b, stay)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range rounds {
				key := fmt.Sprintf("c/%d/d/%d", i%3, w)
				if err := storage.CreateBytes(ctx, b, key, []byte(key), nil); err != nil {
					t.Errorf("Create(%q) = %v, want nil", key, err)
					return
				}
				if data, err := storage.ReadAll(ctx, b, key, 100); err != nil || string(data) != key {
					t.Errorf("ReadAll(%q) = %q, %v, want the key", key, data, err)
				}
				if err := b.Delete(ctx, key); err != nil {
					t.Errorf("Delete(%q) = %v, want nil", key, err)
				}
			}
		})
	}
	for range 2 {
		wg.Go(func() {
			for range rounds {
				var keys []string
				for o, err := range b.List(ctx, "", "") {
					if err != nil {
						t.Errorf("List() = %v, want nil", err)
					}
					if strings.HasSuffix(o.Key, "stay") {
						keys = append(keys, o.Key)
					}
				}
				if !slices.Equal(keys, stay) {
					t.Errorf("List() during changes = %q, want %q among others", keys, stay)
				}
			}
		})
	}
	wg.Wait()
	if got := list(t, b, "", ""); !slices.Equal(got, stay) {
		t.Errorf("List() = %q, want %q", got, stay)
	}
}

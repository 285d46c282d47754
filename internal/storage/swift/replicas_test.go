package swift_test

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"wal-e/internal/enginetest"
	"wal-e/internal/storage"
)

// One of three nodes dies while objects are stored, and comes back.
func TestReplicas(t *testing.T) {
	t.Parallel()
	s := enginetest.Swift(t, 3)
	s.CreateContainer(t, "replicas", nil)
	direct := open(t, v1(s, "replicas"))
	b := storage.Retry(storage.Limit(direct, 8), storage.Policy{Attempts: 20, Total: -1})
	if err := storage.CheckListings(t.Context(), b); err != nil {
		t.Fatalf("CheckListings of an empty container = %v, want nil", err)
	}
	content := func(key string) []byte { return []byte("content of " + key) }
	var want []string
	store := func(folder string) {
		var wg sync.WaitGroup
		for i := range 24 {
			key := fmt.Sprintf("%s/%02d", folder, i)
			want = append(want, key)
			wg.Go(func() {
				if folder == "during" && i == 8 {
					s.KillNode(1)
				}
				err := storage.CreateBytes(t.Context(), b, key, content(key), nil)
				if err != nil && !errors.Is(err, storage.ErrExist) { // its own, after an answer that was lost
					t.Errorf("Create(%q) = %v, want nil", key, err)
				}
			})
		}
		wg.Wait()
	}
	verify := func(when string) {
		t.Helper()
		for _, key := range want {
			data, err := storage.ReadAll(t.Context(), b, key, 1<<10)
			if err != nil || string(data) != string(content(key)) {
				t.Errorf("%s, Get(%q) = %q, %v, want its content", when, key, data, err)
			}
		}
	}
	store("before")
	store("during")
	store("after")
	verify("with a node dead")
	// The listings are told later, by daemons, and until then each knows a part.
	t.Logf("with a node dead, List() = %d keys of %d", len(keys(t, b, "")), len(want))
	s.StartNode(1)
	verify("with the node back")
	if s.PendingListings(t) == 0 {
		t.Fatal("nothing waits to be listed: this test tests nothing")
	}
	s.AwaitNode(t, 1)
	if err := storage.CheckListings(t.Context(), b); !errors.Is(err, storage.ErrUnsettled) {
		t.Errorf("CheckListings while one lags = %v, want %v", err, storage.ErrUnsettled)
	}
	s.UpdateListings(t)
	if n := s.PendingListings(t); n > 0 {
		t.Fatalf("%d entries still wait to be listed", n)
	}
	if err := storage.CheckListings(t.Context(), b); err != nil {
		t.Errorf("CheckListings after it was brought up to date = %v, want nil", err)
	}
	for range 5 {
		if got := keys(t, b, ""); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
			t.Errorf("after it was brought up to date, List() = %d keys, want %d", len(got), len(want))
		}
	}
	testRaceOfReplicas(t, direct)

	// Without container servers objects are stored, and nothing can be listed:
	// an error, never a part.
	for n := range 3 {
		s.KillNode(n, "container")
	}
	create(t, b, "late", content("late"))
	check(t, b, "late", content("late"))
	for _, err := range direct.List(t.Context(), "", "") {
		if err == nil || errors.Is(err, storage.ErrNotExist) {
			t.Errorf("List without container servers = %v, want an error", err)
		}
	}
}

// testRaceOfReplicas tests what Create promises where several run at the same
// time: whoever is told that it has won stands there, unless another one who is
// told so came later.
func testRaceOfReplicas(t *testing.T, b storage.Bucket) {
	const racers = 16
	errs := make([]error, racers)
	var wg sync.WaitGroup
	for i := range racers {
		wg.Go(func() { errs[i] = storage.CreateBytes(t.Context(), b, "race", fmt.Appendf(nil, "racer %02d", i), nil) })
	}
	wg.Wait()
	data, err := storage.ReadAll(t.Context(), b, "race", 100)
	if err != nil {
		t.Fatalf("ReadAll after a race = %v, want nil", err)
	}
	winners := 0
	for i, err := range errs {
		switch {
		case err == nil:
			winners++
		case !errors.Is(err, storage.ErrExist):
			t.Logf("racer %d: %v", i, err) // a server that has too much to do says so
		}
		if string(data) == fmt.Sprintf("racer %02d", i) && errors.Is(err, storage.ErrExist) {
			t.Errorf("racer %d, whose content stands, was told %v", i, err)
		}
	}
	t.Logf("%d of %d racers for one name were told that they have won", winners, racers)
}

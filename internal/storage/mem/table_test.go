package mem_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"wal-e/internal/storage/mem"
)

// A Table does what a map and sorting do, also when blocks split and empty.
func TestTable(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	table, want := &mem.Table[int]{}, make(map[string]int)
	key := func() string { return fmt.Sprintf("%c/%05d", 'a'+r.IntN(3), r.IntN(4000)) }
	for step := range 40_000 {
		k := key()
		if _, taken := want[k]; step < 20_000 || r.IntN(3) == 0 {
			if table.Add(k, step) == taken {
				t.Fatalf("Add(%s) = %t, want %t", k, taken, !taken)
			}
			if !taken {
				want[k] = step
			}
		} else {
			table.Remove(k)
			delete(want, k)
		}
	}
	clone := table.Clone()
	table.Remove(slices.Min(slices.Collect(maps.Keys(want))))
	for k, v := range want {
		if got, ok := clone.Get(k); !ok || got != v {
			t.Fatalf("Get(%s) = %d, %t, want %d", k, got, ok, v)
		}
	}
	if _, ok := clone.Get("a/x"); ok {
		t.Error("Get finds what isn't there")
	}
	sorted := slices.Sorted(maps.Keys(want))
	for range 200 {
		prefix, after := []string{"", "a/", "b/01", "c/", "d", "b/02000x"}[r.IntN(6)], ""
		if r.IntN(2) == 0 {
			after = key()
		}
		var got, expected []string
		for k := range clone.From(prefix, after) {
			got = append(got, k)
		}
		for _, k := range sorted {
			if strings.HasPrefix(k, prefix) && k > after {
				expected = append(expected, k)
			}
		}
		if !slices.Equal(got, expected) {
			t.Fatalf("From(%q, %q) yields %d keys, want %d", prefix, after, len(got), len(expected))
		}
	}
}

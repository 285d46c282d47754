package chunkstore_test

import (
	"slices"
	"testing"

	"wal-e/chunkstore"
)

// Packs of which little is needed are offered no more: what is left of them is
// stored anew, within the budget, and they stop being part of later footprints.
func TestSparsePacks(t *testing.T) {
	t.Parallel()
	// Many small files that don't compress, and packs of 128 KiB. On the second
	// day nine in ten are others.
	old, mixed := make([][]byte, 100), make([][]byte, 100)
	for i := range old {
		old[i] = random(uint64(i), 16<<10)
		mixed[i] = old[i]
		if i%10 != 0 {
			mixed[i] = random(uint64(1000+i), 16<<10)
		}
	}
	for _, tc := range []struct {
		name    string
		rewrite int64
		retired func(sparse int) bool
		stored  int64 // of the old chunks, at most
	}{
		{"default budget", 0, func(n int) bool { return n > 5 }, 10 * 16 << 10},
		{"small budget", 40 << 10, func(n int) bool { return n > 0 && n <= 2 }, 40 << 10},
		{"no budget", -1, func(n int) bool { return n == 0 }, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			b := newBucket(t)
			s := open(t, b)
			p := newPusher(t)
			p.cfg.Rewrite = tc.rewrite
			first := p.mustPush(t, s, old...)
			second := p.mustPush(t, s, mixed...)
			if d := second.Stats().Dead; d < 80*16<<10 {
				t.Errorf("dead bytes after the second push = %d, want most of the first's", d)
			}
			o, err := chunkstore.ReadOutcome(t.Context(), b, second.Ref())
			if err != nil || len(o.Sparse) == 0 {
				t.Fatalf("the second outcome lists %d sparse packs, %v", len(o.Sparse), err)
			}
			third := p.mustPush(t, s, mixed...)
			st := third.Stats()
			if !tc.retired(st.Retired) || st.New > tc.stored+64<<10 {
				t.Errorf("third push retired %d of %d sparse packs and stored %d bytes", st.Retired, len(o.Sparse), st.New)
			}
			f := third.Footprint()
			draws := slices.Contains(f.Runs(), first.Ref().Run)
			if all := st.Retired == len(o.Sparse); all == draws {
				t.Errorf("third backup draws on the first's packs: %v, with %d of %d retired", draws, st.Retired, len(o.Sparse))
			}
			if n := checkAll(t, b); n != 3 {
				t.Errorf("%d backups read back, want 3", n)
			}
		})
	}
}

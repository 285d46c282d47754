package chunkstore_test

import (
	"slices"
	"testing"

	"wal-e/chunkstore"
	"wal-e/internal/runid"
)

// A fresh push refers to nothing that was there, and the next one to what it
// stored.
func TestFresh(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	s, p := open(t, b), newPusher(t)
	p.known = make(map[[2]int]chunkstore.Known)
	file := random(1, 1<<20)
	first := p.mustPush(t, s, file)
	p.cfg.Fresh = true
	fresh := p.mustPush(t, s, file)
	footprint := fresh.Footprint()
	if runs := footprint.Runs(); !slices.Equal(runs, []runid.ID{fresh.Ref().Run}) {
		t.Errorf("a fresh push draws on %v", runs)
	}
	if a, b := first.Stats().New, fresh.Stats().New; a != b || len(fresh.Parents()) != 0 {
		t.Errorf("it stored %d bytes, the first %d; parents %v", b, a, fresh.Parents())
	}
	p.cfg.Fresh = false
	for _, pack := range packsOf(t, b, first) {
		remove(t, b, chunkstore.PackKey(pack))
	}
	next := p.mustPush(t, s, file)
	if n := next.Stats().New; n != 0 {
		t.Errorf("the push after it stored %d bytes anew", n)
	}
	if err := readBack(t.Context(), s, next.Ref(), t.TempDir()+"/index.db"); err != nil {
		t.Error(err)
	}
}

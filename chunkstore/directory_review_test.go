package chunkstore_test

import (
	"testing"
)

// TestManyPacksWithoutIndex: the directories of packs are read a batch at a time,
// and none is forgotten, nor taken for another, where one batch ends.
func TestManyPacksWithoutIndex(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	p := newPusher(t)
	p.cfg.PackSize = 32 << 10
	file := random(1, 28<<20)
	run := p.mustPush(t, open(t, b), file)
	packs := packsOf(t, b, run)
	if len(packs) <= 64 {
		t.Fatalf("%d packs, want more than a batch", len(packs))
	}
	for _, key := range keys(t, b, "chunks_006/index/") {
		remove(t, b, key)
	}
	p.path += ".other"
	if st := p.mustPush(t, open(t, b), file).Stats(); st.New != 0 {
		t.Errorf("stats = %+v, want nothing new: the packs tell what they hold", st)
	}
	checkAll(t, b)
}

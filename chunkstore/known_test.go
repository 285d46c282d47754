package chunkstore_test

import (
	"errors"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"testing"

	"wal-e/chunkstore"
	"wal-e/internal/chunk"
	"wal-e/internal/storage"
)

// churn changes a file as a server does: pages here and there, zeros, a new end,
// a part that moved.
func churn(rng *rand.Rand, f []byte) []byte {
	page := func() []byte {
		at := rng.IntN(len(f)/chunk.PageSize) * chunk.PageSize
		return f[at : at+chunk.PageSize]
	}
	for range rng.IntN(6) {
		switch b := page(); rng.IntN(5) {
		case 0:
			clear(b)
		case 1:
			copy(b, page())
		default:
			b[rng.IntN(len(b))]++
		}
	}
	switch rng.IntN(8) {
	case 0:
		return append(f, text(rng.Uint64(), 1+rng.IntN(9*chunk.PageSize))...)
	case 1:
		return f[:max(3*chunk.PageSize, len(f)-rng.IntN(5*chunk.PageSize))]
	case 2:
		at := rng.IntN(len(f) / chunk.PageSize / 2)
		clear(f[at*chunk.PageSize : min(len(f), (at+5)*chunk.PageSize)])
	case 3:
		copy(f, f[min(len(f)/2, 3*chunk.PageSize):])
	}
	return f
}

// Whatever changes, and whatever of earlier pushes is known, damaged, sparse or
// gone, each backup restores byte for byte.
func TestSlicesRestore(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		rng := rand.New(rand.NewPCG(seed, 7))
		b := newBucket(t)
		s, p := open(t, b), newPusher(t)
		p.known, p.ban = map[[2]int]chunkstore.Known{}, true
		files := [][]byte{text(seed, 3*extent+5000), text(seed+100, 40*chunk.PageSize), make([]byte, 12*chunk.PageSize)}
		for day := range 20 {
			for i := range files {
				files[i] = churn(rng, files[i])
			}
			switch rng.IntN(10) {
			case 0:
				clear(p.known) // lost
			case 1:
				p.path = filepath.Join(t.TempDir(), "index.db") // a cold start
			}
			p.before = nil
			gone := rng.IntN(6) == 0
			if gone {
				p.before = func(run *chunkstore.Push) { dropPack(t, b, run, rng) }
			}
			run := p.mustPush(t, s, files...)
			if err := readBack(t.Context(), s, run.Ref(), filepath.Join(t.TempDir(), "index.db")); err != nil {
				t.Fatalf("seed %d, day %d: %v", seed, day, err)
			}
		}
	}
}

// dropPack removes a pack of an earlier run that a push references.
func dropPack(t *testing.T, b storage.Bucket, run *chunkstore.Push, rng *rand.Rand) {
	f := run.Footprint()
	for p := range f.All() {
		if p.Run == run.Ref().Run || rng.IntN(3) > 0 {
			continue
		}
		if err := b.Delete(t.Context(), chunkstore.PackKey(p)); err != nil {
			t.Fatal(err)
		}
		return
	}
}

// A changed page costs about a page, and a list without a change is the same.
func TestSlicesCost(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	s, p := open(t, b), newPusher(t)
	p.known = map[[2]int]chunkstore.Known{}
	f := random(1, 2*extent)
	p.mustPush(t, s, f)
	if got := p.mustPush(t, s, f).Stats(); got.New != 0 {
		t.Errorf("a push of the same bytes stored %d", got.New)
	}
	f[5*chunk.PageSize+3]++
	got := p.mustPush(t, s, f).Stats()
	if got.New < chunk.PageSize || got.New > chunk.PageSize+2<<10 {
		t.Errorf("a changed page cost %d bytes, want %d and a list", got.New, chunk.PageSize)
	}
	if got.Read < int64(len(f)) {
		t.Errorf("%d of %d bytes count as read", got.Read, len(f))
	}
}

func FuzzKnown(f *testing.F) {
	k := chunkstore.Known{List: chunkstore.List{{Pages: 2, Zero: true}, {ID: chunk.ID{7}, First: 3, Pages: 1}}, Pages: make([]chunk.PageHash, 3)}
	f.Add(chunkstore.AppendKnown(nil, k))
	f.Add([]byte{0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		var k chunkstore.Known
		var err error
		allocates(t, 1<<20+64*uint64(len(b)), func() { k, err = chunkstore.ParseKnown(b) })
		if err != nil {
			if !errors.Is(err, chunkstore.ErrDamaged) {
				t.Errorf("ParseKnown = %v, want %v", err, chunkstore.ErrDamaged)
			}
			return
		}
		again, err := chunkstore.ParseKnown(chunkstore.AppendKnown(nil, k))
		if err != nil || !reflect.DeepEqual(again, k) {
			t.Errorf("%+v became %+v, %v", k, again, err)
		}
	})
}

package chunkstore_test

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"sync/atomic"
	"testing"

	"wal-e/chunkstore"
	"wal-e/internal/runid"
	"wal-e/internal/storage"
)

// A pagedBucket counts the pages of its listings, of a thousand objects.
type pagedBucket struct {
	storage.Bucket
	pages atomic.Int64
}

func (b *pagedBucket) List(ctx context.Context, prefix, startAfter string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		n := 0
		for o, err := range b.Bucket.List(ctx, prefix, startAfter) {
			if n%1000 == 0 {
				b.pages.Add(1)
			}
			n++
			if !yield(o, err) {
				return
			}
		}
		if n == 0 {
			b.pages.Add(1)
		}
	}
}

// A push asks no more often because earlier ones left it more runs to draw on, and
// finds their packs among those of others, however many there are.
func TestListingsOfManyRuns(t *testing.T) {
	t.Parallel()
	b := &pagedBucket{Bucket: newBucket(t)}
	s, p := open(t, b), newPusher(t)
	files := make([][]byte, 20)
	for i := range files {
		files[i] = random(uint64(i), 200<<10)
	}
	night := func(n int) int64 {
		t.Helper()
		before := b.pages.Load()
		if n >= 0 {
			files[n] = random(uint64(1000+n), 200<<10)
		}
		run := p.mustPush(t, s, files...)
		st, f := run.Stats(), run.Footprint()
		if n > 0 && (st.New > 300<<10 || f.Len() < n+1) {
			t.Fatalf("night %d stored %d bytes and draws on %d packs, want one file and those of all nights", n, st.New, f.Len())
		}
		return b.pages.Load() - before
	}
	night(-1)
	var pages [12]int64
	for n := range pages {
		pages[n] = night(n)
	}
	t.Logf("pages of listings by night: %d", pages)
	if first, last := pages[3], pages[len(pages)-1]; last > first {
		t.Errorf("a push asked for %d pages of listings in the last night, %d in the fourth", last, first)
	}
	// Runs of others come before, after and between ours, and things that aren't ours
	// and come before what they are named after.
	var prefixes []runid.ID
	last := p.mustPush(t, s, files...)
	footprint := last.Footprint()
	for _, run := range footprint.Runs() {
		other := run
		other[runid.Size-1] ^= 0x80 // the next to it
		prefixes = append(prefixes, other, runid.ID{byte(len(prefixes))})
		for _, folder := range []string{"packs", "index"} {
			put := fmt.Sprintf("chunks_006/%s/%s.old/00000000", folder, run)
			if err := storage.CreateBytes(t.Context(), b, put, []byte("x"), nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, run := range prefixes {
		for n := range 200 {
			key := fmt.Sprintf("chunks_006/packs/%s/%08d", run, n)
			if err := storage.CreateBytes(t.Context(), b, key, []byte{byte(i)}, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	before := b.pages.Load()
	if st := p.mustPush(t, s, files...).Stats(); st.New != 0 || st.Missing != 0 {
		t.Errorf("push beside packs of others: %+v, want nothing new and nothing missing", st)
	}
	t.Logf("%d runs to draw on and %d packs of others: %d pages", len(prefixes)/2, 200*len(prefixes), b.pages.Load()-before)
	p.path = t.TempDir() + "/cold.db" // from the index objects alone
	if st := p.mustPush(t, s, files...).Stats(); st.New != 0 {
		t.Errorf("push without a local index: %+v, want nothing new", st)
	}
}

// Nothing is listed but what is asked for.
func TestPackSizes(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	s, p := open(t, b), newPusher(t)
	var runs []runid.ID
	want := 0
	for i := range 6 {
		run := p.mustPush(t, s, random(uint64(i), 300<<10))
		if i == 2 {
			continue // nobody asks for this one
		}
		runs = append(runs, run.Ref().Run)
		want += len(packsOf(t, b, run))
	}
	for n := range len(runs) + 1 {
		sizes, err := s.PackSizes(t.Context(), append([]runid.ID{}, runs[:n]...))
		if err != nil {
			t.Fatal(err)
		}
		for pack := range sizes {
			if !slices.Contains(runs[:n], pack.Run) {
				t.Errorf("PackSizes of %d runs has %s of another", n, chunkstore.PackKey(pack))
			}
		}
		if n == len(runs) && len(sizes) != want {
			t.Errorf("PackSizes of %d runs = %d packs, want %d", n, len(sizes), want)
		}
	}
}

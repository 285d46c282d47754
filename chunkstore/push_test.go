package chunkstore_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"wal-e/chunkstore"
	"wal-e/internal/chunk"
	"wal-e/internal/storage/mem"
)

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	const page = chunk.PageSize
	var files [][]byte
	for _, edge := range []int{page, 24 << 10, 48 << 10, 4 * page, extent, 2 * extent} {
		for _, n := range []int{edge - 1, edge, edge + 1, edge + page} {
			seed := uint64(n)
			files = append(files, random(seed, n), text(seed, n), make([]byte, n))
		}
	}
	whole := random(1, extent+20*page+77)
	files = append(files, nil, []byte{0}, []byte{1},
		zeroed(whole, 0, 5*page),                        // hole at the beginning
		zeroed(whole, 7*page, 15*page),                  // in the middle
		zeroed(whole, len(whole)-6*page, len(whole)),    // at the end
		zeroed(whole, len(whole)-3*page-77, len(whole)), // three pages and a bit
		zeroed(whole, 3*page+9, 12*page+9),              // not at pages
		zeroed(whole, extent-8*page, extent+8*page),     // across extents
		zeroed(whole, 0, 3*page),                        // too short for a hole
		zeroed(whole, 10*page, 13*page),
	)
	b := newBucket(t)
	s := open(t, b)
	newPusher(t).mustPush(t, s, files...)
	if n := checkAll(t, b); n != 1 {
		t.Errorf("%d backups, want 1", n)
	}
}

func TestHolesAreNotStored(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	run := newPusher(t).mustPush(t, open(t, b), make([]byte, 8<<20))
	if st := run.Stats(); st.New > 16<<10 || st.Zero != 8<<20 {
		t.Errorf("8 MiB of zeros: stats = %+v, want all in holes", st)
	}
	checkAll(t, b)
}

func TestSecondPush(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	s, p := open(t, b), newPusher(t)
	files := [][]byte{random(1, 8<<20), text(2, 4<<20), random(3, 100)}
	first := p.mustPush(t, s, files...).Stats()
	if first.New < 8<<20 || first.Stored < 8<<20 {
		t.Errorf("first push: %+v, want all of it new", first)
	}
	if same := p.mustPush(t, s, files...).Stats(); same.New != 0 || same.Stored > 4096 {
		t.Errorf("second push of the same: %+v, want nothing new", same)
	}
	files[0][5<<20] ^= 1
	if page := p.mustPush(t, s, files...).Stats(); page.New > 4*48<<10 || page.NewChunks > 6 {
		t.Errorf("push with a changed page: %+v, want a chunk, some neighbours, a list and a root", page)
	}
	p.path = "" // no table: everything anew, and it still reads back
	if none := p.mustPush(t, s, files...).Stats(); none.New < 8<<20 {
		t.Errorf("push without a table: %+v, want all of it new", none)
	}
	if n := checkAll(t, b); n != 4 {
		t.Errorf("%d backups, want 4", n)
	}
}

func TestConcurrentWriters(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	s := open(t, b)
	run, err := s.Begin(t.Context(), chunkstore.PushConfig{
		Name: "base_000000010000000000000001_00000040", Intent: chunkstore.Intent{System: system, Start: "0/1000028"}, PackSize: 128 << 10,
	})
	if err != nil {
		t.Fatal(err)
	}
	const writers = 8
	manifests := make([]*manifest, writers)
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			var files [][]byte
			for j := range 8 { // half of them the same in all writers
				files = append(files, random(uint64(j%4+100*(i+1)*(j/4)), 200<<10+j))
			}
			m, err := store(run, s, files)
			if err != nil {
				t.Error(err)
			}
			manifests[i] = m
		})
	}
	wg.Wait()
	all := &manifest{}
	for _, m := range manifests {
		all.Files = append(all.Files, m.Files...)
	}
	if err := run.Commit(t.Context(), all); err != nil {
		t.Fatalf("Commit = %v", err)
	}
	if st := run.Stats(); st.New > (4+4*writers)*(201<<10)+64<<10 {
		t.Errorf("stats = %+v: what several writers had was stored more than once", st)
	}
	checkAll(t, b)
}

func TestTwoPushesAtOnce(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	s := open(t, b)
	newPusher(t).mustPush(t, s, random(1, 2<<20))
	var wg sync.WaitGroup
	for i := range 2 {
		p := newPusher(t)
		p.day = 1 + i
		wg.Go(func() {
			if _, err := p.push(t.Context(), s, random(1, 2<<20), random(2, 2<<20), random(uint64(3+i), 1<<20)); err != nil {
				t.Errorf("push %d = %v", i, err)
			}
		})
	}
	wg.Wait()
	if n := checkAll(t, b); n != 3 {
		t.Errorf("%d backups, want 3", n)
	}
}

func TestAdmit(t *testing.T) {
	t.Parallel()
	b := mem.New(nil)
	if _, err := chunkstore.Open(t.Context(), b, nil); !errors.Is(err, chunkstore.ErrNoPrefix) {
		t.Errorf("Open of nothing = %v, want %v", err, chunkstore.ErrNoPrefix)
	}
	first, err := chunkstore.Admit(t.Context(), b, 1, false)
	if err != nil {
		t.Fatal(err)
	}
	again, err := chunkstore.Admit(t.Context(), b, 1, false)
	if err != nil || again.DedupKey != first.DedupKey || len(first.DedupKey) != 64 {
		t.Errorf("Admit again = %+v, %v, want %+v", again, err, first)
	}
	var unknown *chunkstore.UnknownSystemError
	if _, err := chunkstore.Admit(t.Context(), b, 2, false); !errors.As(err, &unknown) || unknown.System != "2" {
		t.Errorf("Admit of a second system = %v, want an UnknownSystemError", err)
	}
	second, err := chunkstore.Admit(t.Context(), b, 2, true)
	if err != nil || len(second.Systems) != 2 || second.ID != first.ID {
		t.Errorf("Admit of an allowed system = %+v, %v", second, err)
	}
	if _, err := chunkstore.Admit(t.Context(), b, 2, false); err != nil {
		t.Errorf("Admit of an accepted system = %v", err)
	}
}

// TestAdmitRace has many clusters arrive at an empty prefix at once.
func TestAdmitRace(t *testing.T) {
	t.Parallel()
	b := mem.New(nil)
	const racers = 16
	var wg sync.WaitGroup
	for i := range racers {
		wg.Go(func() {
			if _, err := chunkstore.Admit(t.Context(), b, uint64(i+1), true); err != nil {
				t.Errorf("Admit(%d) = %v", i+1, err)
			}
		})
	}
	wg.Wait()
	p, err := chunkstore.LoadPrefix(t.Context(), b)
	if err != nil || len(p.Systems) != racers {
		t.Errorf("LoadPrefix = %+v, %v, want %d systems", p, err, racers)
	}
	if n := len(keys(t, b, "chunks_006/config/")); n != racers {
		t.Errorf("%d configs, want %d", n, racers)
	}
}

// TestResume kills a push at nine tenths of its storage calls. Together the two
// may store a tenth more than one.
func TestResume(t *testing.T) {
	t.Parallel()
	for _, indexPacks := range []int{1, 4, 1 << 20} {
		for _, sameTable := range []bool{true, false} {
			t.Run(fmt.Sprintf("index after %d packs, same table %t", indexPacks, sameTable), func(t *testing.T) {
				t.Parallel()
				testResume(t, indexPacks, sameTable)
			})
		}
	}
}

func testResume(t *testing.T, indexPacks int, sameTable bool) {
	files := [][]byte{random(1, 12<<20), text(2, 8<<20)}
	clean := newBucket(t)
	p := newPusher(t)
	p.cfg.IndexPacks = indexPacks
	p.mustPush(t, open(t, clean), files...)
	once := bytesUnder(t, clean, "chunks_006/packs/")

	b := newBucket(t)
	killed := newPusher(t)
	killed.cfg.IndexPacks = indexPacks
	ctx, kill := context.WithCancel(t.Context())
	run := begin(t, open(t, b), killed, ctx)
	for _, f := range files {
		w, err := run.NewWriter()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := (&pusher{}).writeFile(w, open(t, b), 0, f[:len(f)*9/10]); err != nil {
			t.Fatal(err)
		}
	}
	kill()
	waitQuiet(t, b)
	stored := bytesUnder(t, b, "chunks_006/packs/")
	if stored < once*7/10 {
		t.Fatalf("the killed push stored %d of %d bytes; the test means to kill it late", stored, once)
	}
	next := newPusher(t)
	next.day = 1
	if sameTable {
		next.path = killed.path
	}
	again := next.mustPush(t, open(t, b), files...)
	if total := bytesUnder(t, b, "chunks_006/packs/"); total > once*11/10 {
		t.Errorf("both pushes stored %d bytes, one alone %d: %+v", total, once, again.Stats())
	}
	checkAll(t, b)
}

// begin begins a push that is never ended, as one that is killed.
func begin(t *testing.T, s *chunkstore.Store, p *pusher, ctx context.Context) *chunkstore.Push {
	t.Helper()
	table, err := s.OpenTable(p.path)
	if err != nil {
		t.Fatal(err)
	}
	cfg := p.cfg
	cfg.Name, cfg.Table = "base_000000010000000000000001_00000040", table
	cfg.Intent = chunkstore.Intent{System: system, Start: "0/1000028"}
	run, err := s.Begin(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := table.Close(); err != nil {
		t.Fatal(err)
	}
	return run
}

// waitQuiet waits until uploads of a killed push are over, by counting objects.
func waitQuiet(t *testing.T, b *mem.Bucket) {
	t.Helper()
	for last := -1; ; {
		n := len(keys(t, b, ""))
		if n == last {
			return
		}
		last = n
	}
}

func TestFootprint(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	p := newPusher(t)
	run := p.mustPush(t, open(t, b), random(1, 3<<20))
	f := run.Footprint()
	if own := len(packsOf(t, b, run)); own != f.Len() || own != len(keys(t, b, "chunks_006/packs/")) {
		t.Errorf("footprint has %d packs, %d own, want %d", f.Len(), own, len(keys(t, b, "chunks_006/packs/")))
	}
	j, err := f.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	var g chunkstore.Footprint
	if err := g.UnmarshalJSON(j); err != nil || g.Len() != f.Len() {
		t.Errorf("UnmarshalJSON(%s) = %d packs, %v, want %d", j, g.Len(), err, f.Len())
	}
	for p := range f.All() {
		if !g.Has(p) {
			t.Errorf("pack %s was lost", p)
		}
	}
}

func TestNodeSizes(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	s := open(t, b)
	run, err := s.Begin(t.Context(), chunkstore.PushConfig{Name: "base_000000010000000000000001_00000040", Intent: chunkstore.Intent{System: system, Start: "0/1000028"}})
	if err != nil {
		t.Fatal(err)
	}
	w, err := run.NewWriter()
	if err != nil {
		t.Fatal(err)
	}
	ids := make(map[int]chunk.ID)
	for _, n := range []int{0, 1, 8192, 255 << 10, 257 << 10, chunk.MaxSize} {
		if ids[n], err = w.Node(text(uint64(n), n)); err != nil {
			t.Fatalf("Node of %d bytes = %v", n, err)
		}
	}
	if _, err := w.Node(make([]byte, chunk.MaxSize+1)); err == nil {
		t.Errorf("Node of %d bytes was taken", chunk.MaxSize+1)
	}
	if err := run.Commit(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	table, err := s.OpenTable(filepath.Join(t.TempDir(), "index.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	f := run.Footprint()
	r, err := s.NewReader(t.Context(), &f, table)
	if err != nil {
		t.Fatal(err)
	}
	for n, id := range ids {
		if got, err := r.Node(t.Context(), id); err != nil || !equal(got, text(uint64(n), n)) {
			t.Errorf("Node(%s) of %s bytes = %d bytes, %v", id, strconv.Itoa(n), len(got), err)
		}
	}
	var missing *chunkstore.ChunkError
	if _, err := r.Node(t.Context(), chunk.ID{1}); !errors.As(err, &missing) || !errors.Is(err, chunkstore.ErrDamaged) {
		t.Errorf("Node of an id that isn't there = %v, want a ChunkError", err)
	}
}

package chunkstore_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"

	"wal-e/chunkstore"
	"wal-e/index"
	"wal-e/internal/envelope"
	"wal-e/internal/storage"
	"wal-e/internal/storage/storagetest"
)

// footprintOf returns packs as a footprint.
func footprintOf(packs ...index.PackID) chunkstore.Footprint {
	var f chunkstore.Footprint
	for _, p := range packs {
		f.Add(p)
	}
	return f
}

func TestFenced(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	p := newPusher(t)
	p.before = func(run *chunkstore.Push) {
		if _, err := chunkstore.Fence(t.Context(), b, run.Ref(), "another host", "it looked dead"); err != nil {
			t.Fatal(err)
		}
	}
	run, err := p.push(t.Context(), open(t, b), random(1, 1<<20))
	if !errors.Is(err, chunkstore.ErrFenced) || !strings.Contains(err.Error(), "another host") {
		t.Fatalf("Commit of a fenced run = %v, want %v", err, chunkstore.ErrFenced)
	}
	// A fence that comes too late changes nothing.
	p.before = nil
	next := p.mustPush(t, open(t, b), random(1, 1<<20))
	o, err := chunkstore.Fence(t.Context(), b, next.Ref(), "another host", "too late")
	if err != nil || o.Result != chunkstore.Commit {
		t.Errorf("Fence of a backup = %+v, %v, want its own outcome", o, err)
	}
	if next.Stats().New > 64<<10 {
		t.Errorf("stats = %+v: what the fenced run stored was stored again", next.Stats())
	}
	if runs := runsOf(t, b); len(runs) != 2 || runs[0].Ref != run.Ref() || runs[0].Open() {
		t.Errorf("runs = %v", runs)
	}
	if n := checkAll(t, b); n != 1 {
		t.Errorf("%d backups, want 1", n)
	}
}

func runsOf(t *testing.T, b storage.Bucket) []chunkstore.Run {
	t.Helper()
	runs, err := chunkstore.Runs(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	return runs
}

func TestTombstone(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	p := newPusher(t)
	first := p.mustPush(t, open(t, b), random(1, 1<<20))
	key := "deleted_006/" + first.Ref().Name + "/" + first.Ref().Run.String()
	if err := storage.CreateBytes(t.Context(), b, key, nil, nil); err != nil {
		t.Fatal(err)
	}
	if runs := runsOf(t, b); len(runs) != 1 || runs[0].Ended() || runs[0].Deleted == nil {
		t.Errorf("runs = %+v, want one deleted", runs)
	}
	second := p.mustPush(t, open(t, b), random(1, 1<<20))
	f := second.Footprint()
	if own := len(packsOf(t, b, second)); own != f.Len() {
		t.Errorf("footprint draws on %d packs of a deleted backup", f.Len()-own)
	}
}

func TestCondemned(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	p := newPusher(t)
	files := random(1, 2<<20)
	first := p.mustPush(t, open(t, b), files)
	packs := packsOf(t, b, first)
	condemned := packs[:len(packs)/2]
	put(t, b, "chunks_006/condemned/"+first.Ref().Run.String(), "condemned", chunkstore.Mark{Packs: footprintOf(condemned...)})
	put(t, b, "chunks_006/condemned/"+first.Ref().Run.String()+".grace", "grace", nil)
	second := p.mustPush(t, open(t, b), files)
	f := second.Footprint()
	for _, c := range condemned {
		if f.Has(c) {
			t.Errorf("footprint has the condemned pack %s", c)
		}
	}
	if !f.Has(packs[len(packs)-1]) {
		t.Errorf("footprint lacks pack %s, which isn't condemned", packs[len(packs)-1])
	}
	for _, c := range condemned {
		remove(t, b, chunkstore.PackKey(c))
	}
	remove(t, b, keys(t, b, "basebackups_006/"+first.Ref().Name)...)
	if n := checkAll(t, b); n != 1 {
		t.Errorf("%d backups, want 1", n)
	}
}

// lateMark answers the first read of a mark with an empty one: a reference that
// slipped through W3, however it was found, must be caught before the commit.
type lateMark struct {
	storage.Bucket
	key   string
	reads atomic.Int64
	empty []byte
}

func (b *lateMark) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if key == b.key && b.reads.Add(1) == 1 {
		return io.NopCloser(bytes.NewReader(b.empty)), nil
	}
	return b.Bucket.Get(ctx, key, offset, length)
}

func TestMarkIsReadAgain(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	p := newPusher(t)
	first := p.mustPush(t, open(t, b), random(1, 1<<20))
	key := "chunks_006/condemned/" + first.Ref().Run.String()
	put(t, b, key, "condemned", chunkstore.Mark{Packs: footprintOf(packsOf(t, b, first)...)})
	empty, err := envelope.Encode("condemned", 1, chunkstore.Mark{})
	if err != nil {
		t.Fatal(err)
	}
	late := &lateMark{Bucket: b, key: key, empty: empty}
	if _, err := p.push(t.Context(), open(t, late), random(1, 1<<20)); err == nil || !strings.Contains(err.Error(), "condemned") {
		t.Fatalf("Commit with condemned packs = %v, want an error that says so", err)
	}
	late.reads.Store(0)
	p.ban = true
	second := p.mustPush(t, open(t, late), random(1, 1<<20))
	f := second.Footprint()
	for _, c := range packsOf(t, b, first) {
		if f.Has(c) {
			t.Errorf("footprint has the condemned pack %s", c)
		}
	}
	checkAll(t, b)
}

func TestDamagedMarkStopsPush(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	if err := storage.CreateBytes(t.Context(), b, "chunks_006/condemned/X", []byte("wal-e condemned 1 blake3:\n"), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := newPusher(t).push(t.Context(), open(t, b), random(1, 1000)); !errors.Is(err, envelope.ErrDamaged) {
		t.Errorf("push beside a damaged mark = %v, want %v", err, envelope.ErrDamaged)
	}
}

func TestHorizon(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	put(t, b, "chunks_006/condemned/X", "condemned", chunkstore.Mark{Horizons: map[string]string{system: "0/4000000", "1": "FFFF/0"}})
	for _, tt := range []struct {
		start string
		ok    bool
	}{{"0/3FFFFFF", false}, {"0/4000000", true}, {"1/0", true}} {
		p := newPusher(t)
		p.cfg.Intent = chunkstore.Intent{System: system, Start: tt.start}
		if _, err := p.push(t.Context(), open(t, b), random(1, 1000)); (err == nil) != tt.ok {
			t.Errorf("push from %s above horizon 0/4000000 = %v, want ok %t", tt.start, err, tt.ok)
		}
	}
	for _, r := range runsOf(t, b) {
		if r.Open() {
			t.Errorf("run %s was refused and is open", r.Ref)
		}
	}
}

// TestPacksRemoved takes packs away behind our back: before a push, and while
// one refers to them.
func TestPacksRemoved(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	p := newPusher(t)
	file := random(1, 4<<20)
	first := p.mustPush(t, open(t, b), file)
	packs := packsOf(t, b, first)
	remove(t, b, chunkstore.PackKey(packs[0]), chunkstore.PackKey(packs[7]))
	remove(t, b, keys(t, b, "basebackups_006/"+first.Ref().Name+"/x")...)
	second := p.mustPush(t, open(t, b), file)
	if st := second.Stats(); st.Missing != 2 || st.New == 0 || st.New > 1<<20 {
		t.Errorf("stats = %+v, want 2 packs missing and stored anew", st)
	}
	p.before = func(*chunkstore.Push) { remove(t, b, chunkstore.PackKey(packs[3])) }
	if _, err := p.push(t.Context(), open(t, b), file); err == nil || !strings.Contains(err.Error(), chunkstore.PackKey(packs[3])) {
		t.Errorf("Commit without pack %s = %v, want an error that names it", packs[3], err)
	}
	p.before = func(*chunkstore.Push) { remove(t, b, chunkstore.PackKey(packs[5])) }
	p.ban = true
	fourth := p.mustPush(t, open(t, b), file)
	// Of another size than the index says is as good as gone.
	p.before = func(*chunkstore.Push) { replace(t, b, chunkstore.PackKey(packs[9]), []byte("short")) }
	fifth := p.mustPush(t, open(t, b), file)
	remove(t, b, keys(t, b, "basebackups_006/"+first.Ref().Name)...)
	remove(t, b, keys(t, b, "basebackups_006/"+second.Ref().Name)...)
	remove(t, b, keys(t, b, "basebackups_006/"+fourth.Ref().Name)...)
	if n := checkAll(t, b); n != 1 {
		t.Errorf("%d backups, want %s alone", n, fifth.Ref())
	}
}

// TestOwnPackRemoved takes away a pack that the push itself stored.
func TestOwnPackRemoved(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	p := newPusher(t)
	p.ban = true
	p.before = func(run *chunkstore.Push) {
		if err := run.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		remove(t, b, chunkstore.PackKey(packsOf(t, b, run)[1]))
	}
	p.mustPush(t, open(t, b), random(1, 1<<20))
	if n := checkAll(t, b); n != 1 {
		t.Errorf("%d backups, want 1", n)
	}
}

// TestDamagedOutcomes: a push draws on nothing that it can't read, and goes on.
func TestDamagedOutcomes(t *testing.T) {
	t.Parallel()
	b := newBucket(t)
	p := newPusher(t)
	file := random(1, 1<<20)
	first := p.mustPush(t, open(t, b), file)
	second := p.mustPush(t, open(t, b), file)
	key := "basebackups_006/" + second.Ref().Name + "/" + second.Ref().Run.String() + ".outcome"
	replace(t, b, key, get(t, b, key)[:100])
	third := p.mustPush(t, open(t, b), file)
	if st := third.Stats(); st.New > 64<<10 {
		t.Errorf("stats = %+v, want the packs of %s", st, first.Ref())
	}
	remove(t, b, key)
	if n := checkAll(t, b); n != 2 {
		t.Errorf("%d backups, want 2", n)
	}
}

// TestFault fails each storage call of a push in turn. Whatever the push then
// says, every backup that exists reads back, and the next push succeeds.
func TestFault(t *testing.T) {
	t.Parallel()
	files := [][]byte{random(1, 500<<10), text(2, 400<<10), zeroed(random(3, 300<<10), 50<<10, 200<<10)}
	older := [][]byte{random(1, 300<<10), random(4, 200<<10)}
	push := func(t *testing.T, fault storagetest.Fault) (calls int, err error) {
		b := newBucket(t)
		p := newPusher(t)
		p.cfg.IndexPacks = 2
		p.cfg.Uploads = 1
		p.mustPush(t, open(t, b), older...)
		s := open(t, b)
		faulty := storagetest.NewFaulty(b, fault)
		failing, err := chunkstore.New(faulty, s.Prefix(), nil)
		if err != nil {
			t.Fatal(err)
		}
		_, perr := p.push(t.Context(), failing, files...)
		before := checkAll(t, b)
		if perr == nil && before != 2 {
			t.Errorf("%d backups after a push that said nil, want 2", before)
		}
		p.mustPush(t, s, files...)
		if n := checkAll(t, b); n != before+1 {
			t.Errorf("%d backups after another push, want %d", n, before+1)
		}
		return faulty.Calls(), perr
	}
	calls, err := push(t, storagetest.Fault{})
	if err != nil || calls < 15 {
		t.Fatalf("push without a fault = %v with %d calls", err, calls)
	}
	for _, mode := range []storagetest.Mode{storagetest.FailBefore, storagetest.LoseAnswer, storagetest.BreakBody, storagetest.FailFrom} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			for n := 1; n <= calls; n++ {
				_, err := push(t, storagetest.Fault{Call: n, Mode: mode})
				if mode == storagetest.FailFrom && err == nil {
					t.Errorf("push with the store gone from call %d on = nil", n)
				}
				if t.Failed() {
					t.Fatalf("call %d", n)
				}
			}
		})
	}
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	for n := 1; n <= 18; n++ {
		b := newBucket(t)
		p := newPusher(t)
		ctx, cancel := context.WithCancel(t.Context())
		faulty := storagetest.NewFaulty(b, storagetest.Fault{Before: func(i int, _, _ string) {
			if i == n {
				cancel()
			}
		}})
		_, err := p.push(ctx, open(t, faulty), random(1, 2<<20))
		cancel()
		if err == nil && faulty.Calls() >= n || err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("push cancelled at call %d = %v, want %v", n, err, context.Canceled)
		}
		for _, r := range runsOf(t, b) {
			if r.Open() && err != nil {
				t.Errorf("cancelled at call %d: run %s is still open", n, r.Ref)
			}
		}
		p.mustPush(t, open(t, b), random(1, 2<<20))
		checkAll(t, b)
	}
}

package chunkstore_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"wal-e/chunkstore"
	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
	"wal-e/internal/storage/storagetest"
)

var copyDay = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

func copyConfig(from, to storage.Bucket) chunkstore.CopyConfig {
	return chunkstore.CopyConfig{From: from, To: to, Host: "copier", HostID: "copier", Packs: 1, Now: func() time.Time { return copyDay }}
}

func mustPrepare(t *testing.T, from, to storage.Bucket) {
	t.Helper()
	if err := chunkstore.PrepareCopy(t.Context(), from, to, copyDay); err != nil {
		t.Fatalf("PrepareCopy = %v", err)
	}
}

func mustCopy(t *testing.T, from, to storage.Bucket, ref chunkstore.Ref) *chunkstore.Copied {
	t.Helper()
	c, err := chunkstore.Copy(t.Context(), copyConfig(from, to), ref)
	if err != nil {
		t.Fatalf("Copy(%s) = %v", ref, err)
	}
	return c
}

// Each copy sends what is new alone, reads without the source, and can be copied
// and pushed to.
func TestCopy(t *testing.T) {
	t.Parallel()
	from, to, third := newBucket(t), mem.New(nil), mem.New(nil)
	s, p := open(t, from), newPusher(t)
	file := random(1, 2<<20)
	first := p.mustPush(t, s, file).Ref()
	changed := append(slices.Clone(file), random(2, 100<<10)...)
	second := p.mustPush(t, s, changed).Ref()
	mustPrepare(t, from, to)
	a, b := mustCopy(t, from, to, first), mustCopy(t, from, to, second)
	if a.Found != 0 || a.Packs < 5 || b.Found < 5 || b.Packs > 2 || b.Packs == 0 {
		t.Errorf("copied %+v, then %+v", a, b)
	}
	for _, dir := range []string{"chunks_006/packs/", "chunks_006/index/", "chunks_006/config/"} {
		if have, want := keys(t, to, dir), keys(t, from, dir); !slices.Equal(have, want) {
			t.Errorf("copied %q, want %q", have, want)
		}
	}
	for _, key := range keys(t, from, "chunks_006/packs/") {
		if !equal(get(t, from, key), get(t, to, key)) {
			t.Errorf("%s has other bytes", key)
		}
	}
	origins, err := chunkstore.CopiedRuns(t.Context(), to)
	if err != nil || origins[first.Run] != a.Ref || origins[second.Run] != b.Ref || len(origins) != 2 {
		t.Errorf("CopiedRuns = %v, %v", origins, err)
	}

	remove(t, from, keys(t, from, "")...)
	if n := checkAll(t, to); n != 2 {
		t.Errorf("%d backups are in the copy", n)
	}
	mustPrepare(t, to, third)
	mustCopy(t, to, third, b.Ref)
	if n := checkAll(t, third); n != 1 {
		t.Errorf("%d backups are in the copy of the copy", n)
	}
	if origins, err := chunkstore.CopiedRuns(t.Context(), third); err != nil || origins[second.Run].Name != second.Name {
		t.Errorf("CopiedRuns of the third = %v, %v", origins, err)
	}
	run := p.mustPush(t, open(t, third), changed)
	if run.Stats().New > 100<<10 {
		t.Errorf("a push to the copy stored %d bytes anew", run.Stats().New)
	}
}

func TestCopyRefusesOtherPrefixes(t *testing.T) {
	t.Parallel()
	from, other := newBucket(t), mem.New(nil)
	if err := chunkstore.PrepareCopy(t.Context(), from, from, copyDay); err == nil {
		t.Error("an archive was copied to itself")
	}
	if err := chunkstore.PrepareCopy(t.Context(), other, from, copyDay); !errors.Is(err, chunkstore.ErrNoPrefix) {
		t.Errorf("PrepareCopy of nothing = %v", err)
	}
	if _, err := chunkstore.Admit(t.Context(), other, 1, false); err != nil {
		t.Fatal(err)
	}
	before := keys(t, other, "")
	if err := chunkstore.PrepareCopy(t.Context(), from, other, copyDay); err == nil || !strings.Contains(err.Error(), "another archive") {
		t.Errorf("PrepareCopy to another archive = %v", err)
	}
	if after := keys(t, other, ""); !slices.Equal(before, after) {
		t.Errorf("it wrote %q", after)
	}
}

// A cluster that is accepted later is accepted by the copy, and one that only
// the copy accepted stays so.
func TestCopyBringsSystems(t *testing.T) {
	t.Parallel()
	from, to := newBucket(t), mem.New(nil)
	mustPrepare(t, from, to)
	for b, system := range map[storage.Bucket]uint64{from: 11, to: 12} {
		if _, err := chunkstore.Admit(t.Context(), b, system, true); err != nil {
			t.Fatal(err)
		}
	}
	mustPrepare(t, from, to)
	p, err := chunkstore.LoadPrefix(t.Context(), to)
	if err != nil || !slices.Equal(p.Systems, []string{system, "12", "11"}) {
		t.Errorf("systems %v, %v", p.Systems, err)
	}
}

// Every call of either store fails once, in each way. Nothing half is a backup
// ever, and the copy that follows is whole.
func TestCopyFaults(t *testing.T) {
	t.Parallel()
	from := newBucket(t)
	s, p := open(t, from), newPusher(t)
	ref := p.mustPush(t, s, random(3, 400<<10)).Ref()
	run := func(from, to storage.Bucket) error {
		err := chunkstore.PrepareCopy(t.Context(), from, to, copyDay)
		if err == nil {
			_, err = chunkstore.Copy(t.Context(), copyConfig(from, to), ref)
		}
		return err
	}
	counted := [2]*storagetest.Faulty{storagetest.NewFaulty(from, storagetest.Fault{}), storagetest.NewFaulty(mem.New(nil), storagetest.Fault{})}
	if err := run(counted[0], counted[1]); err != nil {
		t.Fatal(err)
	}
	for side, c := range counted {
		for _, mode := range []storagetest.Mode{storagetest.FailBefore, storagetest.LoseAnswer, storagetest.BreakBody, storagetest.FailFrom} {
			for call := 1; call <= c.Calls(); call++ {
				to := mem.New(nil)
				buckets := [2]storage.Bucket{from, to}
				buckets[side] = storagetest.NewFaulty(buckets[side], storagetest.Fault{Call: call, Mode: mode})
				if mode == storagetest.FailFrom && side == 1 && call > 4 && call < 7 {
					continue // the intent is tried again after seconds
				}
				err := run(buckets[0], buckets[1])
				n := 0
				if _, perr := chunkstore.LoadPrefix(t.Context(), to); perr == nil {
					n = checkAll(t, to)
				}
				if err == nil && n != 1 {
					t.Errorf("side %d, call %d %s: success, and %d backups", side, call, mode, n)
				}
				if err := run(from, to); err != nil {
					t.Errorf("side %d, call %d %s: the copy that follows: %v", side, call, mode, err)
				} else if got := checkAll(t, to); got < 1 {
					t.Errorf("side %d, call %d %s: %d backups in the end", side, call, mode, got)
				}
			}
		}
	}
	t.Logf("%d and %d calls", counted[0].Calls(), counted[1].Calls())
}

// What is damaged at the source isn't copied, wherever it is.
func TestCopyChecksPacks(t *testing.T) {
	t.Parallel()
	from := newBucket(t)
	s, p := open(t, from), newPusher(t)
	push := p.mustPush(t, s, random(4, 20<<10), text(5, 30<<10))
	key := chunkstore.PackKey(packsOf(t, from, push)[0])
	whole := get(t, from, key)
	for i := range whole {
		if i >= 12 && i < 16 || i >= len(whole)-12 && i < len(whole)-8 {
			continue // reserved, not looked at
		}
		if i > 200 && i < len(whole)-200 && i%97 != 0 {
			continue
		}
		bad := slices.Clone(whole)
		bad[i] ^= 1
		replace(t, from, key, bad)
		to := mem.New(nil)
		mustPrepare(t, from, to)
		if _, err := chunkstore.Copy(t.Context(), copyConfig(from, to), push.Ref()); err == nil {
			t.Errorf("a pack with byte %d changed was copied", i)
		} else if !strings.Contains(err.Error(), key) {
			t.Errorf("byte %d: %v", i, err)
		}
		if n := checkAll(t, to); n != 0 {
			t.Errorf("byte %d: %d backups", i, n)
		}
	}
}

// A backup that is deleted at the source in the meantime leaves nothing that
// counts as one.
func TestCopyOfDeleted(t *testing.T) {
	t.Parallel()
	from, to := newBucket(t), mem.New(nil)
	s, p := open(t, from), newPusher(t)
	push := p.mustPush(t, s, random(6, 1<<20))
	mustPrepare(t, from, to)
	gone := storagetest.NewFaulty(from, storagetest.Fault{Before: func(n int, op, key string) {
		if n == 5 {
			if err := chunkstore.CreateTombstone(t.Context(), from, push.Ref(), chunkstore.Tombstone{Host: "op"}); err != nil {
				t.Error(err)
			}
			remove(t, from, keys(t, from, "chunks_006/packs/")...)
		}
	}})
	_, err := chunkstore.Copy(t.Context(), copyConfig(gone, to), push.Ref())
	if !errors.Is(err, chunkstore.ErrVanished) {
		t.Errorf("Copy = %v, want %v", err, chunkstore.ErrVanished)
	}
	if n := checkAll(t, to); n != 0 {
		t.Errorf("%d backups are at the destination", n)
	}
}

// Whoever has no key copies what is encrypted, and the owner of the key reads it.
func TestCopySealed(t *testing.T) {
	t.Parallel()
	from, to, k := newBucket(t), mem.New(nil), newKeys(t)
	host := sealed(t, open(t, from), k.Host())
	if _, err := chunkstore.CreateSecrets(t.Context(), from, k.Epoch(), []byte("sealed to somebody")); err != nil {
		t.Fatal(err)
	}
	p, files := newPusher(t), [][]byte{text(1, 300<<10), random(2, 300<<10)}
	ref := p.mustPush(t, host, files...).Ref()
	mustPrepare(t, from, to)
	copied := mustCopy(t, from, to, ref)
	remove(t, from, keys(t, from, "")...)
	if err := readBack(t.Context(), sealed(t, open(t, to), k), copied.Ref, filepath.Join(t.TempDir(), "index.db")); err != nil {
		t.Error(err)
	}
	if list, err := chunkstore.ListSecrets(t.Context(), to); err != nil || len(list) != 1 {
		t.Errorf("secrets of the copy: %v, %v", list, err)
	}
	if n := p.mustPush(t, sealed(t, open(t, to), k.Host()), files...).Stats().New; n != 0 {
		t.Errorf("a push to the copy stored %d bytes anew", n)
	}
}

// FuzzCheckPack feeds packs to whoever copies them.
func FuzzCheckPack(f *testing.F) {
	for _, name := range []string{"zstd.pack.v1", "raw.pack.v1"} {
		b, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(_ *testing.T, b []byte) { _ = chunkstore.CheckPackBytes(b) })
}

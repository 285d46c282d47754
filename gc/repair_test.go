package gc_test

import (
	"errors"
	"strings"
	"testing"

	"wal-e/chunkstore"
	"wal-e/gc"
	"wal-e/index"
	"wal-e/internal/storage"
	"wal-e/internal/storage/storagetest"
)

// A pack comes back after its backup was deleted and the pack was collected, as a
// repair may do that looked before, and a request to store it that was long under
// way. A collector that sleeps still has the pack on its list, so the backup can't
// be taken back with it, however many collections there were since.
func TestUndeleteOfWhatCameBack(t *testing.T) {
	t.Parallel()
	if err := undeleteWhatCameBack(t, gc.Skipped{}); !errors.Is(err, chunkstore.ErrCondemned) {
		t.Errorf("Undelete = %v, want %v", err, chunkstore.ErrCondemned)
	}
	if err := undeleteWhatCameBack(t, gc.Skipped{NamedPacks: true}); err != nil {
		t.Errorf("without the step Undelete fails all the same: this test shows nothing: %v", err)
	}
}

func undeleteWhatCameBack(t *testing.T, skip gc.Skipped) error {
	t.Helper()
	a := newArchive(t)
	config := func() gc.Config {
		cfg := a.config()
		cfg.Requests = 1
		cfg.Skip(skip)
		return cfg
	}
	a.push(5, [extents]int{2, 2, 2, 2, 2, 2}) // keeps the WAL of all
	first := a.push(10, [extents]int{})
	second := a.push(20, [extents]int{1, 1, 1, 0, 0, 0}) // needs the pack of the first
	other := a.push(25, [extents]int{1, 1, 1, 0, 0, 1})
	a.push(30, [extents]int{1, 1, 1, 2, 2, 2}) // needs the second's, not the first's
	later := a.push(40, [extents]int{1, 1, 1, 2, 1, 2})
	c := newCopy(t, a)
	a.mustCopyTo(c.b, second)
	a.delete(config(), first, other)

	o, err := chunkstore.ReadOutcome(t.Context(), a.b, second)
	if err != nil {
		t.Fatal(err)
	}
	var packs []index.PackID
	for p := range o.Footprint.All() {
		if p.Run == first.Run {
			packs = append(packs, p)
		}
	}
	slept := false
	sleeper := config()
	sleeper.Bucket = storagetest.NewFaulty(a.b, storagetest.Fault{Before: func(_ int, op, key string) {
		if slept || op != "delete" || !strings.HasPrefix(key, chunkstore.PackFolder) {
			return
		}
		slept = true
		a.collect(config())
		a.delete(config(), later) // whose mark takes the horizon over
		a.collect(config())
		for _, p := range packs {
			if _, err := a.b.Stat(t.Context(), chunkstore.PackKey(p)); err == nil {
				t.Fatalf("pack %s was not collected: this test shows nothing", p)
			}
			if err := a.store.RestorePack(t.Context(), p, c.b); err != nil {
				t.Fatal(err)
			}
		}
		_, err = gc.Undelete(t.Context(), gc.Undeletion{Bucket: a.b, Host: "op", Now: a.clock}, second)
	}})
	if _, derr := gc.Delete(t.Context(), sleeper, []chunkstore.Ref{second}); derr != nil {
		t.Fatal(derr)
	}
	if !slept || len(packs) == 0 {
		t.Fatalf("slept %t, %d packs: this test shows nothing", slept, len(packs))
	}
	if err == nil {
		for _, p := range packs {
			if _, err := a.b.Stat(t.Context(), chunkstore.PackKey(p)); err == nil {
				t.Errorf("the sleeper left pack %s: this test shows nothing", p)
			}
		}
		return nil
	}
	a.collect(config())
	for _, p := range packs {
		if _, err := a.b.Stat(t.Context(), chunkstore.PackKey(p)); err == nil {
			t.Errorf("pack %s came back, and no collection removes it", p)
		}
	}
	return err
}

// A deleted backup whose outcome is damaged keeps marks, and no collection from its
// work.
func TestCollectBesideDamagedOutcome(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	a.push(5, [extents]int{2, 2, 2, 2, 2, 2})
	first := a.push(10, [extents]int{})
	second := a.push(20, [extents]int{1, 1, 1, 0, 0, 0})
	a.push(30, [extents]int{1, 1, 1, 2, 2, 2}) // needs the second's packs, so that it stays
	a.delete(a.config(), second)
	data, err := storage.ReadAll(t.Context(), a.b, second.OutcomeKey(), 1<<20)
	if err == nil {
		err = a.b.Delete(t.Context(), second.OutcomeKey())
	}
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := storage.CreateBytes(t.Context(), a.b, second.OutcomeKey(), data, nil); err != nil {
		t.Fatal(err)
	}
	a.delete(a.config(), first)
	a.delete(a.config(), a.push(40, [extents]int{1, 2, 1, 2, 1, 2})) // whose mark takes the horizon over
	for p := range keysOf(t, a.b, chunkstore.PackFolder+first.Run.String()) {
		t.Errorf("pack %d of the deleted backup stays", p)
	}
	if n := len(keysOf(t, a.b, "chunks_006/condemned/")); n < 4 {
		t.Errorf("%d objects of marks, want those of two marks at least", n)
	}
}

package index_test

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"wal-e/index"
	"wal-e/internal/chunk"
)

func TestTable(t *testing.T) {
	t.Parallel()
	a, path := newArchive(), tablePath(t)
	table := open(t, path)
	a.add(index.ObjectID{Run: run(1), N: 0}, 3, 40, 0)
	if hits, err := a.lookup(t, table, nil); hits != 0 || err != nil {
		t.Fatalf("an empty table finds %d chunks, %v", hits, err)
	}
	for round := range 3 {
		a.add(index.ObjectID{Run: run(1), N: uint32(round + 1)}, 2, 300, 100000*(round+1))
		a.add(index.ObjectID{Run: run(2), N: uint32(round)}, 1, 300, 100000*(round+1)-700) // some stand in two packs
		want := 2
		if round == 0 {
			want = 3
		}
		if n, err := a.update(table, nil); n != want || err != nil {
			t.Fatalf("round %d: update needed %d objects, %v, want %d", round, n, err, want)
		}
		a.mustFind(t, table, nil)
		check(t, table.Close())
		table = open(t, path)
		if n, err := a.update(table, nil); n != 0 || err != nil {
			t.Fatalf("round %d: update after reopening needed %d objects, %v", round, n, err)
		}
		a.mustFind(t, table, nil)
	}
	for id, p := range a.packs {
		if size, ok := table.PackSize(id); !ok || size != int64(p.Size) {
			t.Errorf("PackSize(%s) = %d, %v, want %d", id, size, ok, p.Size)
		}
	}
	if _, ok := table.PackSize(index.PackID{Run: run(9)}); ok {
		t.Error("PackSize of an unknown pack is known")
	}
	if table.Path() != path {
		t.Errorf("Path() = %s, want %s", table.Path(), path)
	}
	leftovers(t, path)
}

// leftovers fails when an update has left files beside the table.
func leftovers(t *testing.T, path string) {
	t.Helper()
	for _, suffix := range []string{".new", ".spill"} {
		if _, err := os.Stat(path + suffix); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", path+suffix, err)
		}
	}
}

// Only wanted packs answer. One that is dropped and wanted again is added again.
func TestTableWanted(t *testing.T) {
	t.Parallel()
	a := newArchive()
	a.add(index.ObjectID{Run: run(1), N: 0}, 4, 30, 0)
	a.add(index.ObjectID{Run: run(2), N: 0}, 4, 30, 0) // the same chunks
	a.add(index.ObjectID{Run: run(3), N: 0}, 4, 30, 5000)
	table := open(t, tablePath(t))
	of := func(runs ...byte) func(index.PackID) bool {
		return func(p index.PackID) bool {
			for _, r := range runs {
				if p.Run == run(r) {
					return true
				}
			}
			return false
		}
	}
	first := func(p index.PackID) bool { return p.Seq%4 == 0 }
	none := func(index.PackID) bool { return false }
	for _, step := range []struct {
		name   string
		wanted func(index.PackID) bool
		needed int
	}{
		{"run 1", of(1), 3},
		{"run 1 again", of(1), 0},
		{"first packs", first, 2}, // of run 1 it is there
		{"run 1 after its others were dropped", of(1), 1},
		{"all", nil, 2},
		{"all again", nil, 0},
		{"filtered without a rewrite", of(2, 3), 0},
		{"nothing", none, 0},
		{"all, still there", nil, 0},
	} {
		if n, err := a.update(table, step.wanted); n != step.needed || err != nil {
			t.Fatalf("%s: update needed %d objects, %v, want %d", step.name, n, err, step.needed)
		}
		a.mustFind(t, table, step.wanted)
	}
}

// An update that is given up leaves the table as it was.
func TestTableAbandon(t *testing.T) {
	t.Parallel()
	a, path := newArchive(), tablePath(t)
	a.add(index.ObjectID{Run: run(1), N: 0}, 2, 30, 0)
	table := open(t, path)
	if _, err := a.update(table, nil); err != nil {
		t.Fatal(err)
	}
	more := newArchive()
	more.add(index.ObjectID{Run: run(2), N: 0}, 2, 30, 7000)
	u := table.Update(func(p index.PackID) bool { return p.Run == run(2) })
	check(t, u.Add(index.ObjectID{Run: run(2), N: 0}, more.objects[index.ObjectID{Run: run(2), N: 0}]))
	u.Abandon()
	a.mustFind(t, table, nil)
	if hits, err := more.lookup(t, table, nil); hits != 0 || err != nil {
		t.Errorf("after Abandon the table has %d chunks, %v", hits, err)
	}
	leftovers(t, path)
}

// A pack's own directory serves where no index object does.
func TestTableAddPack(t *testing.T) {
	t.Parallel()
	a := newArchive()
	a.add(index.ObjectID{Run: run(1), N: 0}, 2, 30, 0)
	path := tablePath(t)
	table := open(t, path)
	u := table.Update(nil)
	for id, p := range a.packs {
		if u.Holds(id) {
			t.Errorf("Holds(%s) before it was added", id)
		}
		check(t, u.AddPack(id, p))
		check(t, u.AddPack(id, p)) // counts once
		if !u.Holds(id) {
			t.Errorf("Holds(%s) = false", id)
		}
	}
	check(t, u.Commit())
	a.mustFind(t, table, nil)
	check(t, table.Close())
	a.mustFind(t, open(t, path), nil)
}

// More entries than a segment holds are sorted in several, beside the table.
func TestTableSpill(t *testing.T) {
	t.Parallel()
	const entries = 1<<19 + 100000
	a, path := newArchive(), tablePath(t)
	for i := range 4 {
		a.add(index.ObjectID{Run: run(1), N: uint32(i)}, 1, entries/4/5+1, i*entries)
	}
	table := open(t, path)
	if n, err := a.update(table, nil); n != 4 || err != nil {
		t.Fatalf("update needed %d objects, %v", n, err)
	}
	a.mustFind(t, table, nil)
	leftovers(t, path)
	a.add(index.ObjectID{Run: run(2), N: 0}, 1, entries/5+1, entries/2)
	wanted := func(p index.PackID) bool { return p.Seq != 1 }
	if n, err := a.update(table, wanted); n != 1 || err != nil {
		t.Fatalf("second update needed %d objects, %v", n, err)
	}
	a.mustFind(t, table, wanted)
	leftovers(t, path)
}

func TestTableLocked(t *testing.T) {
	t.Parallel()
	a, path := newArchive(), tablePath(t)
	a.add(index.ObjectID{Run: run(1), N: 0}, 2, 30, 0)
	table := open(t, path)
	locked := func() {
		t.Helper()
		if other, err := index.Open(path, "prefix"); !errors.Is(err, index.ErrLocked) {
			t.Fatalf("second Open = %v, %v, want %v", other, err, index.ErrLocked)
		}
		if other, err := index.Open(path, "another"); !errors.Is(err, index.ErrLocked) {
			t.Fatalf("Open for another owner = %v, %v, want %v", other, err, index.ErrLocked)
		}
	}
	locked()
	if _, err := a.update(table, nil); err != nil {
		t.Fatal(err)
	}
	locked() // the file is another one now
	a.mustFind(t, table, nil)
	check(t, table.Reset())
	locked()
	check(t, table.Close())
	check(t, open(t, path).Close())
	if _, err := os.Stat(path + ".lock"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the lock is left: %v", err)
	}
}

// Of many who open a table at once one has it.
func TestTableLockedOnce(t *testing.T) {
	t.Parallel()
	path := tablePath(t)
	var holders atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				table, err := index.Open(path, "prefix")
				if errors.Is(err, index.ErrLocked) {
					continue
				}
				if err != nil {
					t.Errorf("Open = %v", err)
					return
				}
				if n := holders.Add(1); n != 1 {
					t.Errorf("%d have the table open", n)
				}
				holders.Add(-1)
				if err := table.Close(); err != nil {
					t.Errorf("Close = %v", err)
				}
			}
		})
	}
	wg.Wait()
}

func TestTableOwner(t *testing.T) {
	t.Parallel()
	a, path := newArchive(), tablePath(t)
	a.add(index.ObjectID{Run: run(1), N: 0}, 2, 30, 0)
	table := open(t, path)
	if _, err := a.update(table, nil); err != nil {
		t.Fatal(err)
	}
	check(t, table.Close())
	other, err := index.Open(path, "another prefix")
	check(t, err)
	if hits, err := a.lookup(t, other, nil); hits != 0 || err != nil {
		t.Errorf("another owner finds %d chunks, %v", hits, err)
	}
	check(t, other.Close())
	if hits, err := a.lookup(t, open(t, path), nil); hits != 0 || err != nil {
		t.Errorf("the first owner finds %d chunks, %v", hits, err)
	}
}

func TestTableReset(t *testing.T) {
	t.Parallel()
	a, path := newArchive(), tablePath(t)
	a.add(index.ObjectID{Run: run(1), N: 0}, 2, 30, 0)
	table := open(t, path)
	for range 2 {
		if n, err := a.update(table, nil); n != 1 || err != nil {
			t.Fatalf("update needed %d objects, %v", n, err)
		}
		a.mustFind(t, table, nil)
		check(t, table.Reset())
		if hits, err := a.lookup(t, table, nil); hits != 0 || err != nil {
			t.Errorf("after Reset the table has %d chunks, %v", hits, err)
		}
	}
}

// A file that is removed while the table is open serves on; the next Open
// begins anew.
func TestTableRemoved(t *testing.T) {
	t.Parallel()
	a, path := newArchive(), tablePath(t)
	a.add(index.ObjectID{Run: run(1), N: 0}, 2, 30, 0)
	table := open(t, path)
	if _, err := a.update(table, nil); err != nil {
		t.Fatal(err)
	}
	check(t, os.RemoveAll(filepath.Dir(path)))
	a.mustFind(t, table, nil)
	check(t, table.Close())
	again := open(t, path)
	if n, err := a.update(again, nil); n != 1 || err != nil {
		t.Fatalf("update needed %d objects, %v, want 1", n, err)
	}
	a.mustFind(t, again, nil)
}

func TestTableNoPlace(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	check(t, os.MkdirAll(filepath.Join(dir, "folder", "full"), 0o700))
	for _, path := range []string{filepath.Join(dir, "file", "index.db"), filepath.Join(dir, "folder")} {
		if table, err := index.Open(path, "prefix"); err == nil {
			t.Errorf("Open(%s) = %v, want an error", path, table)
		}
	}
}

func TestTableConcurrentLookups(t *testing.T) {
	t.Parallel()
	a := newArchive()
	a.add(index.ObjectID{Run: run(1), N: 0}, 3, 100, 0)
	table := open(t, tablePath(t))
	if _, err := a.update(table, nil); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 5 {
				hits, err := a.lookup(t, table, nil)
				if want := len(a.sample()); err != nil || hits != want {
					t.Errorf("Lookup finds %d chunks, %v, want %d", hits, err, want)
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkLookup(b *testing.B) {
	const entries, batch = 1 << 20, 128
	a := newArchive()
	a.add(index.ObjectID{Run: run(1)}, 16, entries/16/5, 0)
	table := open(b, tablePath(b))
	if _, err := a.update(table, nil); err != nil {
		b.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for _, kind := range []string{"hit", "miss"} {
		b.Run(kind, func(b *testing.B) {
			ids := make([]chunk.ID, batch)
			for b.Loop() {
				for i := range ids {
					ids[i] = a.ids[r.IntN(len(a.ids))]
					if kind == "miss" {
						ids[i][15]++
					}
				}
				check(b, table.Lookup(ids, func(int, index.Location) {}))
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/batch, "ns/id")
		})
	}
}

func BenchmarkUpdate(b *testing.B) {
	const entries = 1 << 20
	a := newArchive()
	a.add(index.ObjectID{Run: run(1)}, 16, entries/16/5, 0)
	dir := b.TempDir()
	for b.Loop() {
		table := open(b, filepath.Join(dir, "index.db"))
		if _, err := a.update(table, nil); err != nil {
			b.Fatal(err)
		}
		check(b, table.Reset())
		check(b, table.Close())
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/entries, "ns/chunk")
}

package index_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"wal-e/index"
)

// An alteration is what happened to a table's file.
type alteration struct {
	name  string
	alter func(r *rand.Rand, b []byte) []byte
}

func alterations() []alteration {
	return []alteration{
		{"bit flipped", func(r *rand.Rand, b []byte) []byte {
			b[r.IntN(len(b))] ^= 1 << r.IntN(8)
			return b
		}},
		{"bit flipped where the tree is", func(r *rand.Rand, b []byte) []byte {
			b[r.IntN(len(b)/4096)*4096+r.IntN(256)] ^= 1 << r.IntN(8)
			return b
		}},
		{"number made small", func(r *rand.Rand, b []byte) []byte {
			b[r.IntN(len(b)/4096)*4096+r.IntN(256)] = byte(r.IntN(16))
			return b
		}},
		{"page zeroed", func(r *rand.Rand, b []byte) []byte {
			clear(b[r.IntN(len(b)/4096)*4096:][:4096])
			return b
		}},
		{"page overwritten", func(r *rand.Rand, b []byte) []byte {
			page := b[r.IntN(len(b)/4096)*4096:][:4096]
			for i := range page {
				page[i] = byte(r.Uint32())
			}
			return b
		}},
		{"page copied to another place", func(r *rand.Rand, b []byte) []byte {
			pages := len(b) / 4096
			copy(b[r.IntN(pages)*4096:][:4096], b[r.IntN(pages)*4096:])
			return b
		}},
		{"cut", func(r *rand.Rand, b []byte) []byte { return b[:r.IntN(len(b))] }},
		{"cut at a page", func(r *rand.Rand, b []byte) []byte { return b[:r.IntN(len(b)/4096)*4096] }},
		{"end zeroed", func(r *rand.Rand, b []byte) []byte {
			clear(b[r.IntN(len(b)):])
			return b
		}},
		{"longer", func(r *rand.Rand, b []byte) []byte { return append(b, make([]byte, r.IntN(10000)+1)...) }},
		{"another file", func(r *rand.Rand, b []byte) []byte { return []byte("this is not a table\n") }},
		{"empty", func(*rand.Rand, []byte) []byte { return nil }},
	}
}

// smallTable makes a table that has branch pages, and returns its bytes.
func smallTable(t *testing.T, path string) (*archive, []byte) {
	t.Helper()
	a := newArchive()
	for i := range 3 {
		a.add(index.ObjectID{Run: run(byte(i)), N: 0}, 4, 150, i*4*150*5)
	}
	table := open(t, path)
	if _, err := a.update(table, nil); err != nil {
		t.Fatal(err)
	}
	check(t, table.Close())
	b, err := os.ReadFile(path)
	check(t, err)
	return a, b
}

// Whatever happened to the file of a table, it answers truly or not at all,
// and serves again after the next Open at the latest.
func TestTableAltered(t *testing.T) {
	t.Parallel()
	for kind, alt := range alterations() {
		t.Run(alt.name, func(t *testing.T) {
			t.Parallel()
			path := tablePath(t)
			a, whole := smallTable(t, path)
			rounds := 25
			if testing.Short() {
				rounds = 10
			}
			for round := range rounds {
				seed := uint64(kind*1000000 + round)
				altered := alt.alter(rand.New(rand.NewPCG(seed, 3)), slices.Clone(whole))
				check(t, os.WriteFile(path, altered, 0o600))
				useAltered(t, a, path, seed)
			}
		})
	}
}

func useAltered(t *testing.T, a *archive, path string, seed uint64) {
	t.Helper()
	more := index.ObjectID{Run: run(7)}
	for try := range 3 {
		table, err := index.Open(path, "prefix")
		if err != nil {
			t.Fatalf("seed %d, try %d: Open = %v", seed, try, err)
		}
		_, err = a.update(table, nil)
		if err == nil {
			_, err = a.lookup(t, table, nil)
		}
		if err == nil {
			u := table.Update(nil)
			if err = u.Add(more, []index.Pack{{Seq: uint32(100 + try), Size: 100}}); err == nil {
				err = u.Commit() // rewrites the table
			}
			u.Abandon()
		}
		if err != nil && !errors.Is(err, index.ErrDamaged) {
			t.Fatalf("seed %d, try %d: %v, want %v", seed, try, err, index.ErrDamaged)
		}
		hits, lookupErr := a.lookup(t, table, nil)
		if err := table.Close(); err != nil && lookupErr == nil {
			t.Fatalf("seed %d, try %d: Close = %v", seed, try, err)
		}
		if err == nil && lookupErr == nil && hits == len(a.sample()) {
			return
		}
	}
	t.Fatalf("seed %d: the table doesn't recover", seed)
}

// A file that changes under an open table is damage too.
func TestTableAlteredWhileOpen(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{0, 4096, 16384, 100000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "index.db")
			a, _ := smallTable(t, path)
			table := open(t, path)
			check(t, os.Truncate(path, size))
			if _, err := a.lookup(t, table, nil); !errors.Is(err, index.ErrDamaged) {
				t.Errorf("Lookup = %v, want %v", err, index.ErrDamaged)
			}
			if _, err := a.update(table, nil); err != nil && !errors.Is(err, index.ErrDamaged) {
				t.Errorf("update = %v, want %v", err, index.ErrDamaged)
			}
			check(t, table.Reset())
			if n, err := a.update(table, nil); n != 3 || err != nil {
				t.Errorf("update after Reset needed %d objects, %v", n, err)
			}
			a.mustFind(t, table, nil)
		})
	}
}

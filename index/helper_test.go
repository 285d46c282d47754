package index_test

import (
	"encoding/binary"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"wal-e/index"
	"wal-e/internal/chunk"
	"wal-e/internal/runid"
)

// An archive is what packs hold, as tests know it.
type archive struct {
	packs     map[index.PackID]index.Pack
	objects   map[index.ObjectID][]index.Pack
	locations map[chunk.ID][]index.Location // of each chunk, by pack
	ids       []chunk.ID                    // of all chunks, in the order they came
}

func newArchive() *archive {
	return &archive{
		packs:     make(map[index.PackID]index.Pack),
		objects:   make(map[index.ObjectID][]index.Pack),
		locations: make(map[chunk.ID][]index.Location),
	}
}

func run(n byte) runid.ID { return runid.ID{5: n} }

// chunkID returns the id of the n-th made-up chunk. Ids are spread as hashes are.
func chunkID(n int) chunk.ID {
	var id chunk.ID
	r := rand.New(rand.NewPCG(uint64(n), 1))
	binary.LittleEndian.PutUint64(id[:], r.Uint64())
	binary.LittleEndian.PutUint64(id[8:], r.Uint64())
	return id
}

// add adds an index object with packs of records of five chunks, numbered
// from first.
func (a *archive) add(o index.ObjectID, packs, records, first int) {
	n := first
	for range packs {
		p := index.Pack{Seq: uint32(len(a.packs))}
		offset := uint32(20)
		for range records {
			rec := index.Record{Offset: offset, Stored: 1000}
			for k := range 5 {
				rec.Chunks = append(rec.Chunks, index.Chunk{ID: chunkID(n), Length: uint32(100 + k)})
				rec.Raw += uint32(100 + k)
				n++
			}
			p.Records = append(p.Records, rec)
			offset += rec.Stored
		}
		p.Size = offset + 100
		a.addPack(o.Run, p)
		a.objects[o] = append(a.objects[o], p)
	}
}

func (a *archive) addPack(r runid.ID, p index.Pack) {
	id := index.PackID{Run: r, Seq: p.Seq}
	a.packs[id] = p
	for _, rec := range p.Records {
		start := uint32(0)
		for _, c := range rec.Chunks {
			l := index.Location{Pack: id, Offset: rec.Offset, Stored: rec.Stored, Start: start, Length: c.Length}
			a.locations[c.ID] = append(a.locations[c.ID], l)
			a.ids = append(a.ids, c.ID)
			start += c.Length
		}
	}
}

// update brings a table to the packs that are wanted, as chunkstore does, and
// returns how many objects it needed.
func (a *archive) update(table *index.Table, wanted func(index.PackID) bool) (int, error) {
	u := table.Update(wanted)
	defer u.Abandon()
	needed := 0
	for _, o := range a.sortedObjects() {
		need, err := u.Need(o)
		if err != nil {
			return needed, err
		}
		if !need {
			continue
		}
		needed++
		if err := u.Add(o, a.objects[o]); err != nil {
			return needed, err
		}
	}
	return needed, u.Commit()
}

func (a *archive) sortedObjects() []index.ObjectID {
	var all []index.ObjectID
	for o := range a.objects {
		all = append(all, o)
	}
	slices.SortFunc(all, func(x, y index.ObjectID) int { return slices.Compare([]byte(x.String()), []byte(y.String())) })
	return all
}

// sample returns the ids that tests look up: many of each block of the table.
func (a *archive) sample() []chunk.ID {
	const ids = 3000
	step := 1 + len(a.ids)/ids
	var sample []chunk.ID
	for i := 0; i < len(a.ids); i += step {
		sample = append(sample, a.ids[i])
	}
	return append(sample, a.ids[0], a.ids[len(a.ids)-1])
}

// lookup asks for chunks of the archive and for some that it hasn't. Every
// answer must be true and wanted; it returns how many there were.
func (a *archive) lookup(t testing.TB, table *index.Table, wanted func(index.PackID) bool) (hits int, err error) {
	t.Helper()
	ids := a.sample()
	for n := range len(ids)/10 + 10 {
		ids = append(ids, chunkID(1<<40+n))
	}
	last := chunk.ID(slices.Repeat([]byte{0xFF}, chunk.HashSize))
	ids = append(ids, chunk.ID{}, last)
	err = table.Lookup(ids, func(i int, l index.Location) {
		hits++
		if !slices.Contains(a.locations[ids[i]], l) {
			t.Errorf("Lookup(%s) = %+v, want one of %+v", ids[i], l, a.locations[ids[i]])
		}
		if wanted != nil && !wanted(l.Pack) {
			t.Errorf("Lookup(%s) = %+v, which isn't wanted", ids[i], l)
		}
	})
	return hits, err
}

// mustFind makes sure that the table knows the archive's chunks as far as their
// packs are wanted.
func (a *archive) mustFind(t testing.TB, table *index.Table, wanted func(index.PackID) bool) {
	t.Helper()
	want := 0
	for _, id := range a.sample() {
		if slices.ContainsFunc(a.locations[id], func(l index.Location) bool { return wanted == nil || wanted(l.Pack) }) {
			want++
		}
	}
	if hits, err := a.lookup(t, table, wanted); err != nil || hits != want {
		t.Errorf("Lookup finds %d chunks, %v, want %d", hits, err, want)
	}
}

func tablePath(t testing.TB) string { return filepath.Join(t.TempDir(), "state", "index.db") }

func open(t testing.TB, path string) *index.Table {
	t.Helper()
	table, err := index.Open(path, "prefix")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = table.Close() }) // once more does no harm
	return table
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

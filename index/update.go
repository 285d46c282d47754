package index

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	bolt "go.etcd.io/bbolt"

	"wal-e/internal/chunk"
	"wal-e/internal/runid"
)

// Sizes of an update. Entries are sorted in memory a segment at a time, so that
// an update takes the same memory however many chunks there are.
const (
	segmentEntries = 1 << 19 // 20 MB
	blockEntries   = 448     // a value just below 16 KiB
	blocksPerTx    = 512
)

// An Update brings a Table to a new set of wanted packs: it says which index
// objects it needs, takes them, and merges them in.
type Update struct {
	t        *Table
	staged   []entry
	spilled  *bolt.DB              // sorted segments that didn't fit in memory
	segments int                   // in spilled
	objects  map[ObjectID][]uint32 // pack numbers of objects that were added
	packs    []packInfo            // the table's, and those added
	number   map[PackID]uint32
	added    bool
}

// Update begins an update after which lookups answer with packs for which
// wanted is true (nil: all).
func (t *Table) Update(wanted func(PackID) bool) *Update {
	u := &Update{t: t, objects: make(map[ObjectID][]uint32), number: make(map[PackID]uint32, len(t.packs))}
	u.packs = append(u.packs, t.packs...)
	for i, p := range t.packs {
		u.number[p.id] = uint32(i)
	}
	t.wanted = wanted
	return u
}

// Need tells whether an index object must be added: the table hasn't seen it,
// or has since dropped a pack of it that is wanted now.
func (u *Update) Need(o ObjectID) (need bool, err error) {
	defer u.t.watch(&err)
	defer guard(&err)
	defer faults()()
	err = u.t.db.View(func(tx *bolt.Tx) error {
		key := objectKey(o)
		v := tx.Bucket(objectBucket).Get(key)
		if v == nil {
			need = true
			return nil
		}
		seqs, err := unseal(objectBucket, key, v)
		if err != nil {
			return err
		}
		for ; len(seqs) >= 4; seqs = seqs[4:] {
			p := PackID{Run: o.Run, Seq: binary.LittleEndian.Uint32(seqs)}
			if _, held := u.number[p]; !held && (u.t.wanted == nil || u.t.wanted(p)) {
				need = true
			}
		}
		return nil
	})
	return need, err
}

func objectKey(o ObjectID) []byte {
	return binary.BigEndian.AppendUint32(append([]byte(nil), o.Run[:]...), o.N)
}

// Add takes what an index object says of its packs. Packs that are not wanted,
// or that the table holds already, are passed over.
func (u *Update) Add(o ObjectID, packs []Pack) error {
	seqs := make([]uint32, 0, len(packs))
	for _, p := range packs {
		seqs = append(seqs, p.Seq)
		if err := u.AddPack(PackID{Run: o.Run, Seq: p.Seq}, p); err != nil {
			return err
		}
	}
	u.objects[o] = seqs
	return nil
}

// Holds tells whether the table will have the pack after the Commit.
func (u *Update) Holds(id PackID) bool {
	_, held := u.number[id]
	return held
}

// AddPack takes the directory of one pack, unless it isn't wanted or the table
// holds it already.
func (u *Update) AddPack(id PackID, p Pack) error {
	if u.Holds(id) || u.t.wanted != nil && !u.t.wanted(id) {
		return nil
	}
	u.added = true
	n := uint32(len(u.packs))
	u.number[id] = n
	u.packs = append(u.packs, packInfo{id: id, size: p.Size})
	for _, r := range p.Records {
		start := uint32(0)
		for _, c := range r.Chunks {
			u.staged = append(u.staged, entry{
				id: c.ID, pack: n, offset: r.Offset, stored: r.Stored, start: start, length: c.Length,
			})
			start += c.Length
		}
		if len(u.staged) >= segmentEntries {
			if err := u.spill(); err != nil {
				return err
			}
		}
	}
	return nil
}

// spill writes the staged entries as a sorted segment of its own, in a file
// beside the table's.
func (u *Update) spill() (err error) {
	defer guard(&err)
	defer faults()()
	if u.spilled == nil {
		if u.spilled, err = create(u.t.path + ".spill"); err != nil {
			return err
		}
	}
	slices.SortFunc(u.staged, compareEntries)
	w := blockWriter{db: u.spilled, name: segmentName(u.segments)}
	u.segments++
	for _, e := range u.staged {
		if err := w.add(e); err != nil {
			return err
		}
	}
	u.staged = u.staged[:0]
	return w.flush()
}

func segmentName(i int) []byte { return fmt.Appendf(nil, "segment%06d", i) }

// create makes a new bbolt file at path. It is written once and either renamed
// into place after a sync or removed, so nothing in it need be synced before.
func create(path string) (*bolt.DB, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("index: %w", err)
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoSync: true, NoFreelistSync: true, FreelistType: bolt.FreelistMapType})
	if err != nil {
		return nil, fmt.Errorf("index: create %s: %w", path, err)
	}
	return db, nil
}

// Commit merges what was added and drops packs that are no longer wanted, if
// there was anything to add. Afterwards lookups answer with wanted packs only.
// The new table is a new file that takes the old one's place when it is whole.
func (u *Update) Commit() (err error) {
	defer u.t.watch(&err)
	defer guard(&err)
	defer faults()()
	defer u.Abandon()
	if len(u.objects) == 0 && !u.added {
		u.t.want(u.t.wanted)
		return nil
	}
	kept, renumber := u.keep()
	db, err := create(u.t.path + ".new")
	if err != nil {
		return err
	}
	if err := u.write(db, kept, renumber); err != nil {
		_ = db.Close()                   // the error that matters is err
		_ = os.Remove(u.t.path + ".new") // likewise; the next update removes it
		return err
	}
	old := u.t.db
	u.t.db = db
	u.t.packs, u.t.number = kept, make(map[PackID]uint32, len(kept))
	for i, p := range kept {
		u.t.number[p.id] = uint32(i)
	}
	u.t.want(u.t.wanted)
	if err := old.Close(); err != nil {
		return fmt.Errorf("index: close: %w", err)
	}
	return nil
}

// Abandon removes what the update left beside the table. It is called by
// Commit, and by whoever gives an update up.
func (u *Update) Abandon() {
	if u.spilled != nil {
		_ = u.spilled.Close()              // nothing in it is needed any more
		_ = os.Remove(u.t.path + ".spill") // the next spill removes it
		u.spilled = nil
	}
}

// write fills db with the new table and renames it into place.
func (u *Update) write(db *bolt.DB, kept []packInfo, renumber []uint32) error {
	if err := u.merge(db, renumber); err != nil {
		return err
	}
	if err := u.writeLists(db, kept); err != nil {
		return fmt.Errorf("index: write table: %w", err)
	}
	if err := db.Sync(); err != nil {
		return fmt.Errorf("index: sync table: %w", err)
	}
	if err := os.Rename(u.t.path+".new", u.t.path); err != nil {
		return fmt.Errorf("index: %w", err)
	}
	return nil
}

// keep returns the packs that stay, and the new number of each old one (or
// drop).
func (u *Update) keep() (kept []packInfo, renumber []uint32) {
	for _, p := range u.packs {
		if u.t.wanted != nil && !u.t.wanted(p.id) {
			renumber = append(renumber, drop)
			continue
		}
		renumber = append(renumber, uint32(len(kept)))
		kept = append(kept, p)
	}
	return kept, renumber
}

const drop = 1<<32 - 1

// merge writes the entries of the old table, the spilled segments and what is
// staged to db, in order.
func (u *Update) merge(db *bolt.DB, renumber []uint32) error {
	slices.SortFunc(u.staged, compareEntries)
	sources := []source{&sliceSource{rest: u.staged}}
	oldTx, err := u.t.db.Begin(false)
	if err != nil {
		return fmt.Errorf("index: %w", err)
	}
	defer func() { _ = oldTx.Rollback() }() // ends a read transaction
	if b := oldTx.Bucket(entryBucket); b != nil {
		sources = append(sources, &bucketSource{c: b.Cursor(), name: entryBucket, damaged: &u.t.damaged})
	}
	if u.spilled != nil {
		tx, err := u.spilled.Begin(false)
		if err != nil {
			return fmt.Errorf("index: %w", err)
		}
		defer func() { _ = tx.Rollback() }() // ends a read transaction
		for i := range u.segments {
			name := segmentName(i)
			sources = append(sources, &bucketSource{c: tx.Bucket(name).Cursor(), name: name, damaged: &u.t.damaged})
		}
	}
	w := blockWriter{db: db, name: entryBucket}
	for e := range mergeSources(sources) {
		if int(e.pack) >= len(renumber) || renumber[e.pack] == drop {
			continue
		}
		e.pack = renumber[e.pack]
		if err := w.add(e); err != nil {
			return err
		}
	}
	return w.flush()
}

// writeLists writes the small buckets: whose table it is, its packs, and the
// index objects that are merged in.
func (u *Update) writeLists(db *bolt.DB, kept []packInfo) error {
	runs := make(map[runid.ID]bool)
	for _, p := range kept {
		runs[p.id.Run] = true
	}
	objects, err := u.oldObjects(runs)
	if err != nil {
		return err
	}
	for o, seqs := range u.objects {
		v := make([]byte, 0, 4*len(seqs))
		for _, s := range seqs {
			v = binary.LittleEndian.AppendUint32(v, s)
		}
		key := objectKey(o)
		objects[string(key)] = seal(objectBucket, key, v)
	}
	return db.Update(func(tx *bolt.Tx) error {
		if err := makeBuckets(tx, u.t.owner); err != nil {
			return err
		}
		for i, p := range kept {
			key := binary.BigEndian.AppendUint32(nil, uint32(i))
			if err := tx.Bucket(packBucket).Put(key, seal(packBucket, key, encodePackInfo(p))); err != nil {
				return err
			}
		}
		for _, key := range slices.Sorted(maps.Keys(objects)) {
			if err := tx.Bucket(objectBucket).Put([]byte(key), objects[key]); err != nil {
				return err
			}
		}
		return nil
	})
}

// oldObjects returns the table's records of merged objects that belong to runs.
func (u *Update) oldObjects(runs map[runid.ID]bool) (map[string][]byte, error) {
	objects := make(map[string][]byte)
	err := u.t.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(objectBucket).ForEach(func(k, v []byte) error {
			if len(k) == runid.Size+4 && runs[runid.ID(k[:runid.Size])] {
				objects[string(k)] = slices.Clone(v)
			}
			return nil
		})
	})
	return objects, err
}

func encodePackInfo(p packInfo) []byte {
	b := make([]byte, 0, runid.Size+8)
	b = append(b, p.id.Run[:]...)
	b = binary.LittleEndian.AppendUint32(b, p.id.Seq)
	return binary.LittleEndian.AppendUint32(b, p.size)
}

// A blockWriter writes sorted entries as blocks into a bucket. Entries of one
// id stay in one block, so that a lookup reads a single one.
type blockWriter struct {
	db    *bolt.DB
	name  []byte
	block []entry
	ready [][]entry
}

func (w *blockWriter) add(e entry) error {
	if n := len(w.block); n >= blockEntries && w.block[n-1].id != e.id {
		w.ready = append(w.ready, w.block)
		w.block = make([]entry, 0, blockEntries)
		if len(w.ready) >= blocksPerTx {
			if err := w.write(); err != nil {
				return err
			}
		}
	}
	w.block = append(w.block, e)
	return nil
}

func (w *blockWriter) flush() error {
	if len(w.block) > 0 {
		w.ready = append(w.ready, w.block)
		w.block = nil
	}
	return w.write()
}

func (w *blockWriter) write() error {
	err := w.db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(w.name)
		if err != nil {
			return err
		}
		b.FillPercent = 1.0 // keys come in order
		for _, block := range w.ready {
			data := make([]byte, 0, len(block)*entrySize)
			for _, e := range block {
				data = appendEntry(data, e)
			}
			key := data[:chunk.HashSize]
			if err := b.Put(slices.Clone(key), seal(w.name, key, data)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("index: write table: %w", err)
	}
	w.ready = w.ready[:0]
	return nil
}

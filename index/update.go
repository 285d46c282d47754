package index

import (
	"encoding/binary"
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
	wanted   func(PackID) bool
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
	u := &Update{t: t, wanted: wanted, objects: make(map[ObjectID][]uint32), number: make(map[PackID]uint32, len(t.packs))}
	u.packs = append(u.packs, t.packs...)
	for i, p := range t.packs {
		u.number[p.id] = uint32(i)
	}
	return u
}

// Need tells whether an index object must be added: the table hasn't seen it,
// or has since dropped a pack of it that is wanted now.
func (u *Update) Need(o ObjectID) (need bool, err error) {
	defer u.t.watch(&err)
	err = u.t.db.view(func(tx *bolt.Tx) error {
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
			if _, held := u.number[p]; !held && (u.wanted == nil || u.wanted(p)) {
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
	if u.Holds(id) || u.wanted != nil && !u.wanted(id) {
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
		u.packs[n].raw += uint64(start)
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

// Commit merges what was added and drops packs that are no longer wanted, if
// there was anything to add. Afterwards lookups answer with wanted packs only.
// The new table is a new file that takes the old one's place when it is whole.
func (u *Update) Commit() (err error) {
	defer u.t.watch(&err)
	defer guard(&err)
	defer u.Abandon()
	if len(u.objects) == 0 && !u.added {
		u.t.want(u.wanted)
		return nil
	}
	err = u.t.db.view(func(old *bolt.Tx) error {
		return replaceFile(u.t.path, func(db *bolt.DB) error { return u.write(db, old) })
	})
	if err != nil {
		return err
	}
	if err := u.t.open(); err != nil {
		return err
	}
	u.t.want(u.wanted)
	return nil
}

// write fills db with what stays of the old table and what was added.
func (u *Update) write(db *bolt.DB, old *bolt.Tx) error {
	kept, renumber := u.keep()
	if err := u.merge(db, old, renumber); err != nil {
		return err
	}
	return writeLists(db, u.t.owner, kept, u.allObjects(old, kept))
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

// keep returns the packs that stay, and the new number of each old one (or
// drop).
func (u *Update) keep() (kept []packInfo, renumber []uint32) {
	for _, p := range u.packs {
		if u.wanted != nil && !u.wanted(p.id) {
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
func (u *Update) merge(db *bolt.DB, old *bolt.Tx, renumber []uint32) error {
	slices.SortFunc(u.staged, compareEntries)
	sources := []source{&sliceSource{rest: u.staged}}
	if b := old.Bucket(entryBucket); b != nil {
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

// allObjects returns what the table will say of merged objects: what it says
// of those that belong to runs of kept packs, and what the update adds.
func (u *Update) allObjects(old *bolt.Tx, kept []packInfo) map[string][]byte {
	runs := make(map[runid.ID]bool)
	for _, p := range kept {
		runs[p.id.Run] = true
	}
	objects := make(map[string][]byte)
	c := old.Bucket(objectBucket).Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		if len(k) == runid.Size+4 && runs[runid.ID(k[:runid.Size])] {
			objects[string(k)] = slices.Clone(v)
		}
	}
	for o, seqs := range u.objects {
		v := make([]byte, 0, 4*len(seqs))
		for _, s := range seqs {
			v = binary.LittleEndian.AppendUint32(v, s)
		}
		key := objectKey(o)
		objects[string(key)] = seal(objectBucket, key, v)
	}
	return objects
}

// writeLists writes the small buckets: whose table it is, its packs, and the
// index objects that are merged in.
func writeLists(db *bolt.DB, owner string, packs []packInfo, objects map[string][]byte) error {
	err := db.Update(func(tx *bolt.Tx) error {
		for _, name := range [][]byte{metaBucket, packBucket, objectBucket} {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		if err := tx.Bucket(metaBucket).Put(ownerKey, []byte(owner)); err != nil {
			return err
		}
		for i, p := range packs {
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
	if err != nil {
		return fmt.Errorf("index: write table: %w", err)
	}
	return nil
}

// packInfoSize is the length of an encoded packInfo.
const packInfoSize = runid.Size + 4 + 4 + 8

func encodePackInfo(p packInfo) []byte {
	b := make([]byte, 0, packInfoSize)
	b = append(b, p.id.Run[:]...)
	b = binary.LittleEndian.AppendUint32(b, p.id.Seq)
	b = binary.LittleEndian.AppendUint32(b, p.size)
	return binary.LittleEndian.AppendUint64(b, p.raw)
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

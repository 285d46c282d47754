package index

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"

	bolt "go.etcd.io/bbolt"

	"wal-e/internal/chunk"
	"wal-e/internal/runid"
)

// A Location is where a chunk's bytes are.
type Location struct {
	Pack   PackID
	Offset uint32 // of the record within the pack
	Stored uint32 // bytes of the record
	Start  uint32 // of the chunk within the record's uncompressed bytes
	Length uint32 // bytes of the chunk
}

// An ObjectID names an index object: the run that wrote it and its number.
type ObjectID struct {
	Run runid.ID
	N   uint32
}

func (o ObjectID) String() string { return fmt.Sprintf("%s/%08d", o.Run, o.N) }

// ErrLocked is wrapped by Open when another process has the table open.
var ErrLocked = errors.New("another process has it open")

// Version of what is in the file; a table of another version is made anew.
const tableVersion = "wal-e index table 2"

// Buckets of the file, and the one key of meta; nobody changes them.
var (
	metaBucket   = []byte("meta")
	packBucket   = []byte("packs")
	objectBucket = []byte("objects")
	entryBucket  = []byte("entries")
	ownerKey     = []byte("owner")
)

// A Table is a local index of one prefix, in a bbolt file. Lookup is safe for
// concurrent use once an Update has been committed; nothing else is.
type Table struct {
	db     *database
	path   string
	lock   *fileLock
	owner  string            // as it stands in the file
	packs  []packInfo        // by number
	number map[PackID]uint32 // of packs that the table holds
	wanted func(PackID) bool // nil: all
	offer  []bool            // wanted, by number

	checked *checkedSet // blocks of the file that is open
	damaged atomic.Bool // something in the file wasn't what was written
}

type packInfo struct {
	id   PackID
	size uint32
	raw  uint64 // bytes of its chunks, uncompressed
}

// Open opens the table at path and makes it if it isn't there. owner says
// whose it is (the prefix's identity); a table of another owner, of another
// version or one that can't be read is made anew. It waits for nobody: a table
// in use gives ErrLocked. While it is open a file lies beside it, named as it is
// with ".lock" appended.
func Open(path, owner string) (*Table, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	lock, err := takeLock(path + ".lock")
	if err != nil {
		return nil, err
	}
	t := &Table{path: path, lock: lock, owner: tableVersion + " " + owner}
	if err := t.open(); err != nil {
		if err := t.renew(err); err != nil {
			return nil, errors.Join(err, lock.release())
		}
	}
	return t, nil
}

// renew makes the table anew after err, which told that the file is of no use.
func (t *Table) renew(err error) error {
	if rerr := os.Remove(t.path); rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
		return fmt.Errorf("index: %s can't be used (%w) nor removed: %w", t.path, err, rerr)
	}
	err = replaceFile(t.path, func(db *bolt.DB) error { return writeLists(db, t.owner, nil, nil) })
	if err != nil {
		return err
	}
	return t.open()
}

// open opens the file that is there, in place of the one that is open. On an
// error it leaves t as it was.
func (t *Table) open() error {
	db, err := openDatabase(t.path)
	if err != nil {
		return err
	}
	packs, err := loadPacks(db, t.owner)
	if err != nil {
		_ = db.close() // the error that matters is err
		return err
	}
	if t.db != nil {
		_ = t.db.close() // it was only read
	}
	t.db, t.packs, t.number = db, packs, make(map[PackID]uint32, len(packs))
	t.checked = newCheckedSet(db.size)
	for i, p := range packs {
		t.number[p.id] = uint32(i)
	}
	t.want(nil)
	return nil
}

// watch remembers that the file is damaged. Methods that touch it defer watch.
func (t *Table) watch(err *error) {
	if errors.Is(*err, ErrDamaged) {
		t.damaged.Store(true)
	}
}

// loadPacks reads the list of packs, in the table of an owner.
func loadPacks(db *database, owner string) (list []packInfo, err error) {
	err = db.view(func(tx *bolt.Tx) error {
		meta, packs := tx.Bucket(metaBucket), tx.Bucket(packBucket)
		if meta == nil || packs == nil || tx.Bucket(objectBucket) == nil {
			return fmt.Errorf("%w: a part is missing", ErrDamaged)
		}
		if v := meta.Get(ownerKey); string(v) != owner {
			return fmt.Errorf("%w: it is the table of %q", ErrDamaged, v)
		}
		return packs.ForEach(func(k, v []byte) error {
			data, err := unseal(packBucket, k, v)
			if err != nil || len(k) != 4 || len(data) != packInfoSize {
				return fmt.Errorf("%w: pack list", ErrDamaged)
			}
			if int(binary.BigEndian.Uint32(k)) != len(list) {
				return fmt.Errorf("%w: pack list has a hole", ErrDamaged)
			}
			p := packInfo{size: binary.LittleEndian.Uint32(data[runid.Size+4:]), raw: binary.LittleEndian.Uint64(data[runid.Size+8:])}
			copy(p.id.Run[:], data)
			p.id.Seq = binary.LittleEndian.Uint32(data[runid.Size:])
			list = append(list, p)
			return nil
		})
	})
	return list, err
}

// Close closes the file. One that was found damaged is removed, so that the
// next Open makes it anew.
func (t *Table) Close() error {
	err := t.db.close()
	if t.damaged.Load() {
		if rerr := os.Remove(t.path); rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	return errors.Join(err, t.lock.release())
}

// Reset makes the table empty, in a new file.
func (t *Table) Reset() error {
	_ = t.db.close() // what was in it is given up
	t.damaged.Store(false)
	return t.renew(errors.New("it is reset"))
}

// Path is where the table's file is.
func (t *Table) Path() string { return t.path }

// PackRaw returns how many bytes the chunks of a pack have together.
func (t *Table) PackRaw(p PackID) (raw int64, ok bool) {
	n, ok := t.number[p]
	if !ok {
		return 0, false
	}
	return int64(t.packs[n].raw), true
}

// PackSize returns the size that the index gave for a pack.
func (t *Table) PackSize(p PackID) (size int64, ok bool) {
	n, ok := t.number[p]
	if !ok {
		return 0, false
	}
	return int64(t.packs[n].size), true
}

// Lookup finds ids in wanted packs: found is called with the index into ids
// and the location for each that is there. A damaged block of entries is
// treated as empty and reported by the error, with which the rest is still
// looked up.
func (t *Table) Lookup(ids []chunk.ID, found func(i int, l Location)) (err error) {
	defer t.watch(&err)
	return t.db.view(func(tx *bolt.Tx) error {
		b := tx.Bucket(entryBucket)
		if b == nil {
			return nil
		}
		var damaged error
		c := b.Cursor()
		for i := range ids {
			l, ok, err := t.lookup(c, ids[i])
			if err != nil {
				damaged = err
			}
			if ok {
				found(i, l)
			}
		}
		return damaged
	})
}

func (t *Table) lookup(c *bolt.Cursor, id chunk.ID) (Location, bool, error) {
	k, v := c.Seek(id[:])
	if k == nil || !bytes.Equal(k, id[:]) {
		k, v = c.Prev()
	}
	if k == nil {
		return Location{}, false, nil
	}
	block, err := t.block(k, v)
	if err != nil {
		return Location{}, false, err
	}
	n := len(block) / entrySize
	at, ok := findEntry(block, n, id)
	if !ok {
		return Location{}, false, nil
	}
	for ; at < n; at++ {
		e := parseEntry(block[at*entrySize:])
		if e.id != id {
			break
		}
		if int(e.pack) < len(t.packs) && t.offered(e.pack) {
			return Location{
				Pack: t.packs[e.pack].id, Offset: e.offset, Stored: e.stored, Start: e.start, Length: e.length,
			}, true, nil
		}
	}
	return Location{}, false, nil
}

// block returns the entries of a block. Its checksum is computed when it is
// first met; the whole file's was when it was opened.
func (t *Table) block(key, value []byte) ([]byte, error) {
	if t.checked.has(key) && len(value) >= 4 {
		return value[4:], nil
	}
	block, err := unseal(entryBucket, key, value)
	if err == nil {
		t.checked.add(key)
	}
	return block, err
}

func (t *Table) offered(pack uint32) bool { return t.wanted == nil || t.offer[pack] }

// findEntry returns the first of a block's n entries that has id.
func findEntry(block []byte, n int, id chunk.ID) (int, bool) {
	lo, hi := 0, n
	for lo < hi {
		mid := (lo + hi) / 2
		if bytes.Compare(block[mid*entrySize:mid*entrySize+chunk.HashSize], id[:]) < 0 {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo, lo < n && bytes.Equal(block[lo*entrySize:lo*entrySize+chunk.HashSize], id[:])
}

// An entry is one line of the table: 36 bytes, fixed, so that a block is
// searched where it lies.
type entry struct {
	id                                  chunk.ID
	pack, offset, stored, start, length uint32
}

const entrySize = chunk.HashSize + 5*4

func appendEntry(dst []byte, e entry) []byte {
	dst = append(dst, e.id[:]...)
	for _, v := range [...]uint32{e.pack, e.offset, e.stored, e.start, e.length} {
		dst = binary.LittleEndian.AppendUint32(dst, v)
	}
	return dst
}

func parseEntry(b []byte) entry {
	var e entry
	copy(e.id[:], b)
	for i, v := range [...]*uint32{&e.pack, &e.offset, &e.stored, &e.start, &e.length} {
		*v = binary.LittleEndian.Uint32(b[chunk.HashSize+4*i:])
	}
	return e
}

func compareEntries(a, b entry) int {
	if c := bytes.Compare(a.id[:], b.id[:]); c != 0 {
		return c
	}
	return int(int64(a.pack) - int64(b.pack))
}

// seal puts a checksum over the bucket, the key and the data before the data,
// so that a value that was altered or moved isn't believed.
func seal(bucket, key, data []byte) []byte {
	out := make([]byte, 4, 4+len(data))
	binary.LittleEndian.PutUint32(out, checksum(bucket, key, data))
	return append(out, data...)
}

func unseal(bucket, key, value []byte) ([]byte, error) {
	if len(value) < 4 || binary.LittleEndian.Uint32(value) != checksum(bucket, key, value[4:]) {
		return nil, fmt.Errorf("%w: value in bucket %q", ErrDamaged, bucket)
	}
	return value[4:], nil
}

func checksum(bucket, key, data []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	sum := crc32.Update(0, table, bucket)
	sum = crc32.Update(sum, table, key)
	return crc32.Update(sum, table, data)
}

// want sets which packs lookups may answer with.
func (t *Table) want(wanted func(PackID) bool) {
	t.wanted = wanted
	t.offer = slices.Grow(t.offer[:0], len(t.packs))
	for _, p := range t.packs {
		t.offer = append(t.offer, wanted == nil || wanted(p.id))
	}
}

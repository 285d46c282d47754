package chunkstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/zeebo/blake3"

	"wal-e/index"
	"wal-e/internal/fault"
	"wal-e/internal/runid"
	"wal-e/internal/storage"
)

// Repair makes new objects from what is whole. It is safe beside pushes and
// collections:
//
//   - An index object says nothing that packs don't, and is created under a number
//     of its own. What it replaces is removed after it stands.
//   - A pack comes back only under its own name with its own bytes, and only while a
//     valid backup needs it. No collector has such a pack on its list: it read the
//     outcomes after every push had ended that could have taken it. Should the backup
//     be deleted at that moment, the pack that came back is an orphan, which pushes
//     don't find (they look at what a valid backup needs, and at unfinished runs,
//     whose marks stand as long as they do) and the next collection removes. Who
//     takes the backup back finds the mark: it stands as long as the outcome does.
//   - A condemned mark keeps new backups from a pack. It is what collections write,
//     and like theirs it is never taken back: a pack that is needed stays stored.

// repairNumber is where the numbers of index objects begin that repairs make.
// Pushes count from 0.
const repairNumber = 50_000_000

// repairPacks is how many packs an index object of a repair covers at most: their
// directories are held in memory.
const repairPacks = 256

// A RepairedIndex is what RepairIndex did for a run.
type RepairedIndex struct {
	Created []string       // keys of new index objects
	Covered int            // packs in them
	Removed []string       // damaged ones that are gone
	Kept    []string       // damaged ones that these credentials may not remove
	Bare    []index.PackID // packs whose own directory can't be read
}

// RepairIndex makes sure that index objects cover packs, all of one run that has
// ended and stored with these sizes. What they lack is made from the packs' own
// directories. Index objects that are damaged, or of which wrong says so, are
// removed once others stand in their place.
func (s *Store) RepairIndex(ctx context.Context, run runid.ID, packs []index.PackID, sizes map[index.PackID]int64, wrong func(key string) bool) (*RepairedIndex, error) {
	r := &RepairedIndex{}
	covered := make(map[uint32]bool)
	var bad []string
	err := s.CheckIndex(ctx, run, func(key string, packs []index.Pack, damage error) {
		if damage != nil && !isPackDamage(damage) || errors.Is(damage, errNewer) {
			return // not ours to judge
		}
		if damage != nil || wrong(key) {
			bad = append(bad, key)
			return
		}
		for _, p := range packs {
			covered[p.Seq] = true
		}
	})
	if err != nil {
		return r, err
	}
	var missing []index.PackID
	for _, p := range packs {
		if !covered[p.Seq] {
			missing = append(missing, p)
		}
	}
	for batch := range slices.Chunk(missing, repairPacks) {
		dirs, err := s.readDirectories(ctx, batch, sizes)
		if err != nil {
			return r, err
		}
		var whole []index.Pack
		for i, dir := range dirs {
			if dir == nil {
				r.Bare = append(r.Bare, batch[i])
			} else {
				whole = append(whole, *dir)
			}
		}
		if len(whole) == 0 {
			continue
		}
		id := index.ObjectID{Run: run, N: s.repairNumber(whole)}
		if i := slices.Index(bad, indexKey(id)); i >= 0 {
			// An earlier repair made the same object, which is damaged by now: it goes
			// first. The packs tell the same meanwhile.
			gone, err := r.remove(ctx, s.bucket, bad[i])
			if err != nil {
				return r, err
			}
			if bad = slices.Delete(bad, i, i+1); !gone {
				continue
			}
		}
		if err := createOnce(ctx, s.bucket, indexKey(id), s.encodeIndex(id, whole)); err != nil {
			return r, err
		}
		r.Created, r.Covered = append(r.Created, indexKey(id)), r.Covered+len(whole)
	}
	for _, key := range bad {
		gone, err := r.remove(ctx, s.bucket, key)
		if err != nil {
			return r, err
		}
		if gone {
			r.Removed = append(r.Removed, key)
		}
	}
	return r, nil
}

// remove removes a damaged index object, if these credentials may.
func (r *RepairedIndex) remove(ctx context.Context, b storage.Bucket, key string) (gone bool, err error) {
	err = b.Delete(ctx, key)
	if errors.Is(err, storage.ErrPermission) {
		r.Kept = append(r.Kept, key)
		return false, nil
	}
	return err == nil, err
}

// repairNumber is the number of an index object over packs. It follows from what
// the object says, so that a repair that is repeated makes the same object, and
// that no number, which is a nonce when the object is sealed, serves for two. The
// key keeps it from telling anything of the content.
func (s *Store) repairNumber(packs []index.Pack) uint32 {
	sum := blake3.Sum256(index.EncodeObject(packs))
	id := s.hasher.Clone().Sum(sum[:])
	return repairNumber + binary.BigEndian.Uint32(id[:])%(100_000_000-repairNumber)
}

// ErrUnrepaired is wrapped when a pack can't be brought back from a copy.
var ErrUnrepaired = fault.LostData.Errorf("it can't be repaired from there")

// RestorePack brings back pack p, which a valid backup must need and which is
// gone or damaged, from the bucket of a copy. What the copy has is proven before
// anything is changed: every checksum, and the keyed hash of every chunk that can be
// opened. It does nothing when the pack is whole. A damaged pack is removed first,
// which takes the right to.
func (s *Store) RestorePack(ctx context.Context, p index.PackID, from storage.Bucket) error {
	key := PackKey(p)
	if stored, err := s.wholePack(ctx, p); err != nil || stored == packWhole {
		return err
	}
	data, err := storage.ReadAll(ctx, from, key, index.MaxPackSize)
	if errors.Is(err, storage.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrUnrepaired, err)
	}
	if err != nil {
		return err
	}
	copied := s.On(oneObject{Bucket: from, key: key, data: data})
	if state, err := copied.wholePack(ctx, p); err != nil || state != packWhole {
		return fmt.Errorf("%w: pack %s of %s is damaged, too, or of another archive: %w", ErrUnrepaired, key, from.URL(), errors.Join(err, ErrDamaged))
	}
	// It is looked at again: somebody else may have repaired it meanwhile.
	state, err := s.wholePack(ctx, p)
	if err != nil || state == packWhole {
		return err
	}
	if state == packDamaged {
		if err := s.bucket.Delete(ctx, key); err != nil {
			return fmt.Errorf("remove damaged pack %s of %s, in whose place a whole one would go: %w", key, s.bucket.URL(), err)
		}
	}
	if err := storage.CreateBytes(ctx, s.bucket, key, data, nil); err != nil && !errors.Is(err, storage.ErrExist) {
		return err
	}
	switch state, err = s.wholePack(ctx, p); {
	case err != nil:
		return err
	case state != packWhole:
		return fmt.Errorf("pack %s of %s: %w: it isn't whole although it was stored anew: look at the storage", key, s.bucket.URL(), ErrDamaged)
	}
	return nil
}

// A packState is how a stored pack is.
type packState int

const (
	packGone packState = iota
	packDamaged
	packWhole
)

// wholePack reads a pack and says how it is.
func (s *Store) wholePack(ctx context.Context, p index.PackID) (packState, error) {
	a, err := s.bucket.Stat(ctx, PackKey(p))
	if errors.Is(err, storage.ErrNotExist) {
		return packGone, nil
	}
	if err != nil {
		return packGone, err
	}
	state := packWhole
	_, err = s.CheckPack(ctx, p, a.Size, func(index.Record, error) { state = packDamaged })
	switch packErr := (*PackError)(nil); {
	case errors.Is(err, errNewer):
		return packGone, err // not ours to judge
	case errors.Is(err, storage.ErrNotExist):
		return packGone, nil
	case errors.As(err, &packErr):
		return packDamaged, nil
	}
	return state, err
}

// Whole tells whether a pack is stored and everything in it as it should be.
func (s *Store) Whole(ctx context.Context, p index.PackID) (whole, stored bool, err error) {
	state, err := s.wholePack(ctx, p)
	return state == packWhole, state != packGone, err
}

// oneObject is a bucket of which one object is in memory already.
type oneObject struct {
	storage.Bucket
	key  string
	data []byte
}

func (o oneObject) Get(_ context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if key != o.key {
		return nil, fmt.Errorf("read %s: %w", key, storage.ErrNotExist)
	}
	data := o.data[min(offset, int64(len(o.data))):]
	if length >= 0 {
		data = data[:min(length, int64(len(data)))]
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

func (o oneObject) Stat(_ context.Context, key string) (storage.Attributes, error) {
	if key != o.key {
		return storage.Attributes{}, fmt.Errorf("look at %s: %w", key, storage.ErrNotExist)
	}
	return storage.Attributes{Object: storage.Object{Key: key, Size: int64(len(o.data))}}, nil
}

// Condemn makes sure that new backups don't reference packs, by a mark over those
// that are in none yet. It returns how many these were. Backups that need them
// keep them.
func Condemn(ctx context.Context, b storage.Bucket, packs []index.PackID, host string, now time.Time) (int, error) {
	list, err := ReadMarks(ctx, b)
	if err != nil {
		return 0, err
	}
	var c Condemnation
	for _, p := range packs {
		if !slices.ContainsFunc(list.Marks, func(m *StandingMark) bool { return m.Packs.Has(p) }) {
			c.Packs.Add(p)
		}
	}
	n := c.Packs.Len()
	if n == 0 {
		return 0, nil
	}
	id, err := runid.New(now, nil)
	if err != nil {
		return 0, err
	}
	c.Host, c.Horizons = host, map[string]string{}
	return n, CreateMark(ctx, b, id, c)
}

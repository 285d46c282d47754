package chunkstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"wal-e/index"
	"wal-e/internal/runid"
	"wal-e/internal/storage"
)

// fetchers is how many index objects and pack directories are read at once.
const fetchers = 8

// refresh brings a table to hold what the packs in want contain: it reads the
// index objects that the table lacks, and, of packs that no index object
// covers (the run was killed before it wrote one, or the object is damaged),
// the directory at the pack's own end. sizes has the packs that are stored;
// it is nil when that wasn't looked up.
func (s *Store) refresh(ctx context.Context, t *index.Table, want *Footprint, sizes map[index.PackID]int64) error {
	u := t.Update(want.Has)
	defer u.Abandon()
	if err := s.addObjects(ctx, u, want.Runs()); err != nil {
		return err
	}
	if err := s.addDirectories(ctx, u, want, sizes); err != nil {
		return err
	}
	return asTableError(u.Commit())
}

// A tableError says that the local table is to blame, not the store: a push
// goes on without it.
type tableError struct{ err error }

func (e *tableError) Error() string { return e.err.Error() }

func (e *tableError) Unwrap() error { return e.err }

func asTableError(err error) error {
	if err == nil {
		return nil
	}
	return &tableError{err}
}

// addObjects adds the index objects of runs that the table needs.
func (s *Store) addObjects(ctx context.Context, u *index.Update, runs []runid.ID) error {
	var need []index.ObjectID
	var failed error
	err := listRuns(ctx, s.bucket, indexDir, runs, func(run runid.ID, n uint32, _ storage.Object) {
		id := index.ObjectID{Run: run, N: n}
		missing, err := u.Need(id)
		if err != nil {
			failed = err
		}
		if missing {
			need = append(need, id)
		}
	})
	if err != nil {
		return err
	}
	if failed != nil {
		return asTableError(failed)
	}
	slices.SortFunc(need, func(a, b index.ObjectID) int {
		return cmp.Or(slices.Compare(a.Run[:], b.Run[:]), cmp.Compare(a.N, b.N))
	})
	for len(need) > 0 {
		batch := need[:min(len(need), fetchers)]
		need = need[len(batch):]
		packs := make([][]index.Pack, len(batch))
		g, ctx := errgroup.WithContext(ctx)
		for i, id := range batch {
			g.Go(func() (err error) {
				packs[i], err = s.readIndex(ctx, id)
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		for i, id := range batch {
			if packs[i] == nil {
				continue
			}
			if err := u.Add(id, packs[i]); err != nil {
				return asTableError(err)
			}
		}
	}
	return nil
}

// readIndex reads an index object. A damaged one is reported and taken as
// empty, since the packs tell the same themselves.
func (s *Store) readIndex(ctx context.Context, id index.ObjectID) ([]index.Pack, error) {
	key := indexKey(id)
	data, err := storage.ReadAll(ctx, s.bucket, key, index.MaxObjectSize)
	if errors.Is(err, storage.ErrNotExist) {
		return nil, nil // its run was collected since it was listed
	}
	if err != nil {
		return nil, err
	}
	packs, err := s.decodeIndex(id, data)
	if err != nil {
		s.log.WarnContext(ctx, "index object can't be used; reading the packs themselves",
			"key", key, "error", err)
		return nil, nil
	}
	return packs, nil
}

// addDirectories adds packs of want that no index object covered, from the
// packs. One that is gone or damaged is left out: whoever needs a chunk of it finds
// it missing.
func (s *Store) addDirectories(ctx context.Context, u *index.Update, want *Footprint, sizes map[index.PackID]int64) error {
	var bare []index.PackID
	for p := range want.All() {
		if !u.Holds(p) {
			bare = append(bare, p)
		}
	}
	// A directory of full packs is some 30 KB in memory; an archive that lost its
	// index has as many as it has packs.
	for batch := range slices.Chunk(bare, directoryBatch) {
		dirs, err := s.readDirectories(ctx, batch, sizes)
		if err != nil {
			return err
		}
		for i, p := range batch {
			if dirs[i] == nil {
				continue
			}
			if err := u.AddPack(p, *dirs[i]); err != nil {
				return asTableError(err)
			}
		}
	}
	return nil
}

// directoryBatch is how many directories of packs are held at once.
const directoryBatch = 64

// readDirectories reads the directories of packs, nil for one that is of no use.
func (s *Store) readDirectories(ctx context.Context, packs []index.PackID, sizes map[index.PackID]int64) ([]*index.Pack, error) {
	dirs := make([]*index.Pack, len(packs))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(fetchers)
	for i, p := range packs {
		g.Go(func() error {
			dir, err := s.readDirectory(gctx, p, sizes)
			if isPackDamage(err) {
				s.log.WarnContext(ctx, "pack can't be used", "pack", PackKey(p), "error", err)
				return nil
			}
			dirs[i] = dir
			return err
		})
	}
	return dirs, g.Wait()
}

// isPackDamage tells a pack that can't be used from a store that can't be read.
func isPackDamage(err error) bool {
	return errors.Is(err, storage.ErrNotExist) || errors.Is(err, ErrDamaged) ||
		errors.Is(err, index.ErrDamaged) || errors.Is(err, errNewer)
}

// readDirectory reads a pack's directory from its end.
func (s *Store) readDirectory(ctx context.Context, p index.PackID, sizes map[index.PackID]int64) (*index.Pack, error) {
	key := PackKey(p)
	size, ok := sizes[p]
	if !ok {
		a, err := s.bucket.Stat(ctx, key)
		if err != nil {
			return nil, err
		}
		size = a.Size
	}
	if size < int64(s.sealer.headerSize())+footerSize || size > index.MaxPackSize {
		return nil, fmt.Errorf("%w: %d bytes long", ErrDamaged, size)
	}
	foot, err := readRange(ctx, s.bucket, key, size-footerSize, footerSize, 0)
	if err != nil {
		return nil, err
	}
	length, sum, err := parseFooter(foot, s.sealer.flags())
	if err != nil {
		return nil, err
	}
	if int64(length) > size-footerSize-int64(s.sealer.headerSize()) {
		return nil, fmt.Errorf("%w: directory of %d bytes in a pack of %d", ErrDamaged, length, size)
	}
	b, err := readRange(ctx, s.bucket, key, size-footerSize-int64(length), int64(length), 0)
	if err != nil {
		return nil, err
	}
	if crc(b) != sum {
		return nil, fmt.Errorf("%w: checksum of the directory differs", ErrDamaged)
	}
	if b, err = s.openDirectory(p, b); err != nil {
		return nil, err
	}
	dir, rest, err := index.ParsePack(b)
	if err != nil {
		return nil, err
	}
	if len(rest) != 0 || dir.Seq != p.Seq || int64(dir.Size) != size {
		return nil, fmt.Errorf("%w: directory is of pack %d with %d bytes", ErrDamaged, dir.Seq, dir.Size)
	}
	return &dir, nil
}

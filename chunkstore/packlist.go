package chunkstore

import (
	"context"
	"strings"
	"time"

	"wal-e/index"
	"wal-e/internal/runid"
	"wal-e/internal/storage"
)

// A PackList is the packs that a listing found: sizes in bytes, and per run its
// newest.
type PackList struct {
	Sizes  map[index.PackID]int64
	Newest map[runid.ID]time.Time // by the store's clock
}

// ListPacks lists all packs, or those of one run. It needs no key. Names that
// aren't ours are passed over.
func ListPacks(ctx context.Context, b storage.Bucket, run *runid.ID) (*PackList, error) {
	l := &PackList{Sizes: make(map[index.PackID]int64), Newest: make(map[runid.ID]time.Time)}
	dir := packDir
	if run != nil {
		dir += run.String() + "/"
	}
	return l, l.add(ctx, b, dir)
}

func (l *PackList) add(ctx context.Context, b storage.Bucket, dir string) error {
	for o, err := range b.List(ctx, dir, "") {
		if err != nil {
			return err
		}
		p, ok := parsePackKey(o.Key)
		if !ok {
			continue
		}
		l.Sizes[p] = o.Size
		if o.ModTime.After(l.Newest[p.Run]) {
			l.Newest[p.Run] = o.ModTime
		}
	}
	return nil
}

// parsePackKey parses what PackKey returns; other names are not ours.
func parsePackKey(key string) (index.PackID, bool) {
	run, number, _ := strings.Cut(strings.TrimPrefix(key, packDir), "/")
	id, err := runid.Parse(run)
	seq, ok := parseNumber(number)
	return index.PackID{Run: id, Seq: seq}, err == nil && ok && seq < maxSeq
}

// packsOf lists the stored packs of runs, with their sizes in bytes.
func (s *Store) packsOf(ctx context.Context, runs []runid.ID) (map[index.PackID]int64, error) {
	sizes := make(map[index.PackID]int64)
	err := listRuns(ctx, s.bucket, packDir, runs, func(run runid.ID, n uint32, o storage.Object) {
		if n < maxSeq {
			sizes[index.PackID{Run: run, Seq: n}] = o.Size
		}
	})
	if err != nil {
		return nil, err
	}
	return sizes, nil
}

// PackSizes lists the packs that are stored, with their sizes in bytes: those
// of runs, or all when runs is nil.
func (s *Store) PackSizes(ctx context.Context, runs []runid.ID) (map[index.PackID]int64, error) {
	if runs != nil {
		return s.packsOf(ctx, runs)
	}
	l, err := ListPacks(ctx, s.bucket, nil)
	if err != nil {
		return nil, err
	}
	return l.Sizes, nil
}

package backup

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"wal-e/chunkstore"
	"wal-e/index"
	"wal-e/internal/progress"
	"wal-e/internal/runid"
)

// badPacks are the packs, and the records of packs, that hold nothing usable.
// Only bad ones stand here.
type badPacks struct {
	mu      sync.Mutex
	whole   map[index.PackID]bool
	records map[blockID]bool
}

type blockID struct {
	pack   index.PackID
	offset uint32
}

func (b *badPacks) addPack(p index.PackID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.whole == nil {
		b.whole = make(map[index.PackID]bool)
	}
	b.whole[p] = true
}

func (b *badPacks) addRecord(p index.PackID, offset uint32) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.records == nil {
		b.records = make(map[blockID]bool)
	}
	b.records[blockID{p, offset}] = true
}

func (b *badPacks) has(l index.Location) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.whole[l.Pack] || b.records[blockID{l.Pack, l.Offset}]
}

// needing returns the backups that need a pack.
func (v *verifier) needing(p index.PackID) []string {
	var refs []string
	for i := range v.backups {
		if v.backups[i].footprint.Has(p) {
			refs = append(refs, v.backups[i].ref.String())
		}
	}
	return refs
}

// badPack notes a pack that can't be used.
func (v *verifier) badPack(p index.PackID, err error) {
	v.bad.addPack(p)
	v.problemOfPack(p, err)
}

func (v *verifier) problemOfPack(p index.PackID, err error) {
	for _, ref := range v.needing(p) {
		v.problems.add(chunkstore.PackKey(p), err, ref, "")
	}
}

var errMissing = errors.New("it is missing")

// listPacks lists the stored packs, notes those that are needed and gone, and
// counts those that nobody needs.
func (v *verifier) listPacks(ctx context.Context, unknown int) error {
	all := v.query == query{}
	runs := v.needed.Runs()
	if all {
		runs = nil
	}
	var err error
	if v.sizes, err = v.store.PackSizes(ctx, runs); err != nil {
		return err
	}
	for p := range v.needed.All() {
		size, stored := v.sizes[p]
		v.report.Packs++
		v.report.PackBytes += size
		if !stored {
			v.badPack(p, errMissing)
		}
	}
	if all && unknown == 0 {
		v.report.Orphans = &Orphans{}
		for p, size := range v.sizes {
			if !v.needed.Has(p) {
				v.report.Orphans.Packs++
				v.report.Orphans.Bytes += size
			}
		}
	}
	return nil
}

// loadIndex reads the index of all packs that are needed, and compares the
// sizes that it gives with those of the listing. Later readers, each of one
// backup, find everything there.
func (v *verifier) loadIndex(ctx context.Context) error {
	if _, err := v.store.NewReader(ctx, &v.needed, v.table); err != nil {
		return err
	}
	for p := range v.needed.All() {
		size, stored := v.sizes[p]
		want, known := v.table.PackSize(p)
		switch {
		case !stored: // noted
		case !known:
			v.badPack(p, fmt.Errorf("%w: no index object lists it, and its own directory can't be read", chunkstore.ErrDamaged))
		case size != want:
			v.badPack(p, fmt.Errorf("%w: it has %d bytes, the index says %d", chunkstore.ErrDamaged, size, want))
		}
	}
	return nil
}

// readData reads all packs that are needed, run by run.
func (v *verifier) readData(ctx context.Context) error {
	var total int64
	for p := range v.needed.All() {
		if v.reads(p) {
			total += v.sizes[p]
		}
	}
	v.cfg.Progress.Begin("read packs", progress.Bytes, total, nil)
	for _, run := range v.needed.Runs() {
		if v.chosen != nil && !slices.Contains(v.chosen.Runs(), run) {
			continue
		}
		if err := v.readRun(ctx, run); err != nil {
			return err
		}
	}
	return nil
}

// An indexed pack is what an index object says of a pack, as a hash.
type indexedPack struct {
	object string
	sum    [sha256.Size]byte
}

func (v *verifier) readRun(ctx context.Context, run runid.ID) error {
	indexed := make(map[uint32][]indexedPack)
	err := v.store.CheckIndex(ctx, run, func(key string, packs []index.Pack, damage error) {
		if damage != nil {
			// The packs tell the same; it costs a look at each.
			v.warnings.add(key, damage, "", "")
		}
		for _, p := range packs {
			indexed[p.Seq] = append(indexed[p.Seq], indexedPack{key, packSum(p)})
		}
	})
	if err != nil {
		return err
	}
	var mu sync.Mutex // of the report's figures
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(v.cfg.Workers)
	for p := range v.needed.All() {
		size, stored := v.sizes[p]
		if p.Run != run || !stored || !v.reads(p) {
			continue
		}
		g.Go(func() error {
			if err := v.readPack(ctx, p, size, indexed[p.Seq]); err != nil {
				return err
			}
			v.cfg.Progress.Add(size)
			mu.Lock()
			defer mu.Unlock()
			v.report.ReadPacks++
			v.report.ReadBytes += size
			if !v.store.CanRead() {
				v.report.Sealed++
			}
			return nil
		})
	}
	return g.Wait()
}

func packSum(p index.Pack) [sha256.Size]byte { return sha256.Sum256(index.AppendPack(nil, p)) }

// readPack reads one pack and compares its directory with the index.
func (v *verifier) readPack(ctx context.Context, p index.PackID, size int64, indexed []indexedPack) error {
	whole := true
	dir, err := v.store.CheckPack(ctx, p, size, func(r index.Record, err error) {
		whole = false
		v.bad.addRecord(p, r.Offset)
		v.problemOfPack(p, fmt.Errorf("record at %d: %w", r.Offset, err))
	})
	if packErr := (*chunkstore.PackError)(nil); errors.As(err, &packErr) {
		v.badPack(p, packErr.Err)
		return nil
	}
	if err != nil {
		return err
	}
	sum := packSum(*dir)
	for _, i := range indexed {
		if i.sum != sum {
			whole = false
			v.bad.addPack(p)
			for _, ref := range v.needing(p) {
				v.problems.add(i.object, fmt.Errorf("%w: it says other things of pack %s than the pack does", chunkstore.ErrDamaged, chunkstore.PackKey(p)), ref, "")
			}
		}
	}
	if whole && v.ledger != nil {
		v.bad.mu.Lock()
		defer v.bad.mu.Unlock()
		if v.whole == nil {
			v.whole = make(map[index.PackID]bool)
		}
		v.whole[p] = true
	}
	return nil
}

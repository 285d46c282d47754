package gc

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"wal-e/chunkstore"
	"wal-e/index"
	"wal-e/internal/envelope"
	"wal-e/internal/postgres"
	"wal-e/internal/runid"
	"wal-e/internal/storage"
)

// reap is step G7: it removes what is left of runs that were aborted or deleted
// and have no packs, and then marks that nobody can need. left are the packs
// that are still stored.
func (c *collector) reap(ctx context.Context, after *view, left map[index.PackID]bool) error {
	holds := make(map[runid.ID]bool)
	for p := range left {
		holds[p.Run] = true
	}
	if err := c.reapRuns(ctx, after, holds); err != nil {
		return err
	}
	if err := c.reapOrphans(ctx, after, holds); err != nil {
		return err
	}
	return c.reapMarks(ctx, holds)
}

// reapRuns removes runs. The intent goes first: a push that was ended and
// doesn't know it could else commit once its outcome is gone. The tombstone
// goes last: without it what is left would be a backup.
func (c *collector) reapRuns(ctx context.Context, after *view, holds map[runid.ID]bool) error {
	unfinished, _, err := c.copies(ctx, after)
	if err != nil {
		return err
	}
	var dead []*run
	for _, r := range after.runs {
		if unfinished[r.Ref.Run] {
			continue // its intent says what the next copy needs
		}
		if r.state == open || r.state == valid || c.young(r) || c.unheeded(r) || holds[r.Ref.Run] && !c.cfg.skip.packsGone {
			continue
		}
		dead = append(dead, r)
	}
	left, err := c.listLeft(ctx, dead)
	if err != nil {
		return err
	}
	var intents, outcomes, rest, tombstones []string
	for i, r := range dead {
		if left[i].packs && !c.cfg.skip.packsGone {
			holds[r.Ref.Run] = true // stored since G1, or by a push that doesn't know its end
			continue
		}
		rest = append(rest, left[i].indexes...)
		if r.Intent != nil || r.state != gone {
			intents = append(intents, r.IntentKey())
		}
		if r.Outcome != nil || r.state == aborted {
			outcomes = append(outcomes, r.OutcomeKey())
		}
		if r.Deleted != nil {
			tombstones = append(tombstones, r.TombstoneKey())
		}
		c.report.Reaped++
	}
	order := [][]string{intents, outcomes, rest, tombstones}
	if c.cfg.skip.intentFirst {
		order = [][]string{outcomes, intents, rest, tombstones}
	}
	if c.cfg.skip.tombstoneLast {
		order = [][]string{tombstones, intents, outcomes, rest}
	}
	for _, keys := range order {
		if err := c.delete(ctx, keys); err != nil {
			return err
		}
	}
	return nil
}

// unheeded tells whether a run was deleted after G1 looked. Its tombstone says
// that its system may have ended, so it stays until a collection has seen to
// the WAL.
func (c *collector) unheeded(r *run) bool {
	known := c.before.byID[r.Ref.Run]
	return r.state == deleted && (known == nil || known.state != deleted)
}

// leftOf is what is stored of a run besides intent, outcome and tombstone.
type leftOf struct {
	packs   bool
	indexes []string // keys
}

func (c *collector) listLeft(ctx context.Context, runs []*run) ([]leftOf, error) {
	left := make([]leftOf, len(runs))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(c.cfg.Requests)
	for i, r := range runs {
		g.Go(func() error {
			packs, err := chunkstore.ListPacks(ctx, c.b, &r.Ref.Run)
			if err != nil {
				return err
			}
			left[i].packs = len(packs.Sizes) > 0
			objects, err := chunkstore.ListIndexes(ctx, c.b, &r.Ref.Run)
			if o := objects[r.Ref.Run]; o != nil {
				left[i].indexes = o.Keys
			}
			return err
		})
	}
	return left, g.Wait()
}

// reapOrphans removes index objects of runs that are gone: their collector died
// halfway. The runs were listed later than the index objects, and an intent is
// there before any of them.
func (c *collector) reapOrphans(ctx context.Context, after *view, holds map[runid.ID]bool) error {
	var keys []string
	for id, o := range c.indexes {
		if after.byID[id] != nil || holds[id] {
			continue
		}
		if c.takesCopies {
			// A copied run has no intent here. Its packs stand before its index objects,
			// though perhaps not yet when packs were listed.
			packs, err := chunkstore.ListPacks(ctx, c.b, &id)
			if err != nil {
				return err
			}
			if len(packs.Sizes) > 0 {
				continue
			}
		}
		keys = append(keys, o.Keys...)
	}
	slices.Sort(keys)
	return c.delete(ctx, keys)
}

// reapMarks removes marks, their graces, and keep marks of runs that are gone.
//
// A mark may go once all runs that it names are gone, no push is open that saw
// them, and no outcome that stands names one of its packs; or once a later mark
// says all that it says, and the pushes that may have missed the later one have
// ended. The highest WAL horizon stands as long as there is anything: a collector
// may sleep on its list of WAL files, whose names, unlike those of packs, come
// again.
//
// The outcomes are there for those who take a deleted backup back. A pack of it may
// stand again after it was collected, by a repair or by a request that was long
// under way, and another collector may sleep with the pack on its list.
func (c *collector) reapMarks(ctx context.Context, holds map[runid.ID]bool) error {
	if err := c.settle(ctx); err != nil {
		return err
	}
	keeps, err := chunkstore.ListKeepMarks(ctx, c.b)
	if err != nil {
		return err
	}
	runs, err := chunkstore.Runs(ctx, c.b)
	if err != nil {
		return err
	}
	there := make(map[runid.ID]bool)
	quiet := true
	for _, r := range runs {
		there[r.Ref.Run] = true
		quiet = quiet && !r.Open()
	}
	keys := slices.Clone(c.orphans)
	for ref, marks := range keeps {
		if !there[ref.Run] {
			keys = append(keys, marks...)
		}
	}
	slices.Sort(keys)
	var named *chunkstore.Footprint
	for _, m := range c.marks {
		gone := c.covered(m)
		if !gone && (quiet || c.cfg.skip.secondGrace) && c.useless(m, there, holds, len(runs) == 0) {
			if named == nil {
				if named, err = c.namedPacks(ctx, runs); err != nil {
					return err
				}
			}
			gone = c.cfg.skip.namedPacks || !c.unread && !intersect(&m.Packs, named)
		}
		if gone {
			keys = append(keys, m.Keys()...)
		}
	}
	return c.delete(ctx, keys)
}

// namedPacks unites the footprints of all outcomes that stand, of deleted backups,
// too.
func (c *collector) namedPacks(ctx context.Context, runs []chunkstore.Run) (*chunkstore.Footprint, error) {
	outcomes := make([]*outcome, len(runs))
	var unread atomic.Bool
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(c.cfg.Requests)
	for i, r := range runs {
		if r.Outcome == nil {
			continue
		}
		g.Go(func() (err error) {
			outcomes[i], err = c.reader.readOutcome(ctx, r.Ref)
			if errors.Is(err, storage.ErrNotExist) {
				return nil // removed since it was listed
			}
			if version := (*envelope.VersionError)(nil); errors.Is(err, chunkstore.ErrDamaged) || errors.Is(err, envelope.ErrDamaged) || errors.As(err, &version) {
				// Of a backup this would have stopped the collection before. Others may
				// read it, or another copy of the object may be whole.
				c.cfg.Log.WarnContext(ctx, "outcome of a deleted backup can't be read, so marks stay", "backup", r.Ref, "detail", err.Error())
				unread.Store(true)
				return nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	c.unread = unread.Load()
	return needed(slices.DeleteFunc(outcomes, func(o *outcome) bool { return o == nil })), nil
}

func intersect(a, b *chunkstore.Footprint) bool {
	for p := range a.All() {
		if b.Has(p) {
			return true
		}
	}
	return false
}

// covered tells whether a later, ripe mark says all that m says.
func (c *collector) covered(m *chunkstore.StandingMark) bool {
	return slices.ContainsFunc(c.marks, func(l *chunkstore.StandingMark) bool {
		if slices.Compare(l.ID[:], m.ID[:]) <= 0 || !c.ripe(l) || !higher(l, m) {
			return false
		}
		for p := range m.Packs.All() {
			if !l.Packs.Has(p) {
				return false
			}
		}
		return true
	})
}

// ripe tells whether no push in the grace of m is pending.
func (c *collector) ripe(m *chunkstore.StandingMark) bool {
	return m.Grace != nil && !slices.ContainsFunc(c.report.Waiting, func(w Waiting) bool { return slices.Contains(m.Grace, w.Ref) })
}

// useless tells whether all that m names is gone, and its WAL horizon is in
// another mark. Where packs are copied to, their names could come again, so what
// a mark says of them stays.
func (c *collector) useless(m *chunkstore.StandingMark, there, holds map[runid.ID]bool, empty bool) bool {
	if c.takesCopies && len(m.Packs.Runs()) > 0 && !c.cfg.skip.keepCopied {
		return false
	}
	for _, id := range m.Packs.Runs() {
		if (there[id] || holds[id]) && !c.cfg.skip.packsGone {
			return false
		}
	}
	for system := range m.Horizons {
		elsewhere := slices.ContainsFunc(c.marks, func(l *chunkstore.StandingMark) bool {
			return slices.Compare(l.ID[:], m.ID[:]) > 0 && higherIn(l, m, system)
		})
		w := c.wal[system]
		nothing := empty && c.cfg.Everything && (w == nil || w.all)
		if !elsewhere && !nothing && !c.cfg.skip.keepHorizon {
			return false
		}
	}
	return true
}

// higher tells whether l has all the horizons of m.
func higher(l, m *chunkstore.StandingMark) bool {
	for system := range m.Horizons {
		if !higherIn(l, m, system) {
			return false
		}
	}
	return true
}

func higherIn(l, m *chunkstore.StandingMark, system string) bool {
	have, err := postgres.ParseLSN(l.Horizons[system])
	if err != nil {
		return false
	}
	want, err := postgres.ParseLSN(m.Horizons[system])
	return err == nil && have >= want
}

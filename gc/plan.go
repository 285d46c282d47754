package gc

import (
	"context"
	"maps"
	"slices"

	"wal-e/chunkstore"
	"wal-e/index"
	"wal-e/internal/runid"
)

// mergeMarks is how many marks may stand before a new one takes their packs in
// too, so that they can go.
const mergeMarks = 16

// A plan is what a collection would condemn. It has changed nothing yet.
type plan struct {
	candidates []index.PackID           // in no mark yet
	mark       *chunkstore.Condemnation // nil: nothing new
	floors     map[string]floor         // WAL below which nothing that is kept needs any
}

// makePlan is the rest of step G1.
func (c *collector) makePlan(ctx context.Context) (*plan, error) {
	kept := c.before.backups()
	young, err := c.youngOutcomes(ctx)
	if err != nil {
		return nil, err
	}
	kept = append(kept, young...)
	p := &plan{}
	need := needed(kept)
	offered, err := c.offered(ctx)
	if err != nil {
		return nil, err
	}
	_, copied, err := c.copies(ctx, c.before)
	if err != nil {
		return nil, err
	}
	need.Union(&copied)
	var condemned chunkstore.Footprint
	for _, m := range c.marks {
		condemned.Union(&m.Packs)
	}
	for pack := range c.packs.Sizes {
		r := c.before.byID[pack.Run]
		isOpen := r != nil && r.state == open && !c.cfg.skip.ownPacks
		if !need.Has(pack) && !condemned.Has(pack) && !isOpen && !offered[pack.Run] {
			p.candidates = append(p.candidates, pack)
		}
	}
	if p.floors, err = c.findFloors(ctx, c.before, young); err != nil {
		return nil, err
	}
	if err := c.listWAL(ctx, p.floors); err != nil {
		return nil, err
	}
	p.mark = c.composeMark(p)
	return p, nil
}

// composeMark makes the mark that condemns what is new, or nil. Its horizons
// are at least those of all marks that stand: those are promised already.
func (c *collector) composeMark(p *plan) *chunkstore.Condemnation {
	m := &chunkstore.Condemnation{SegmentSizes: make(map[string]uint32)}
	m.Horizons = make(map[string]string)
	raised := c.raiseHorizons(p.floors, m)
	if c.cfg.skip.horizonMark {
		m.Horizons = make(map[string]string)
	}
	if len(p.candidates) == 0 && !raised {
		return nil
	}
	for _, pack := range p.candidates {
		m.Packs.Add(pack)
	}
	if len(c.marks) >= mergeMarks {
		for _, old := range c.marks {
			m.Packs.Union(&old.Packs)
		}
	}
	return m
}

// youngOutcomes returns the outcomes of backups that were deleted so lately that
// they may be taken back.
func (c *collector) youngOutcomes(ctx context.Context) ([]*outcome, error) {
	var list []*outcome
	for _, r := range c.before.of(deleted) {
		if !c.young(r) || r.Outcome == nil {
			continue
		}
		o, err := c.reader.readOutcome(ctx, r.Ref)
		if err != nil {
			return nil, err
		}
		if o.result == chunkstore.Commit {
			list = append(list, o)
		}
	}
	return list, nil
}

// young tells whether a deleted run is within the grace that the user gave.
func (c *collector) young(r *run) bool {
	if c.cfg.Grace <= 0 || r.state != deleted {
		return false
	}
	return r.Deleted == nil || c.clock.IsZero() || c.clock.Sub(r.Deleted.ModTime) < c.cfg.Grace
}

// offered returns the runs whose packs the next push is offered though no
// backup needs them: unfinished ones, younger than the newest backup of their
// system. Condemning those would only make it upload twice.
func (c *collector) offered(ctx context.Context) (map[runid.ID]bool, error) {
	offered := make(map[runid.ID]bool)
	if c.cfg.Everything {
		return offered, nil
	}
	newest := newestBackups(c.before)
	stored := make(map[runid.ID]bool)
	for p := range c.packs.Sizes {
		stored[p.Run] = true
	}
	for _, r := range c.before.of(aborted) {
		if !stored[r.Ref.Run] {
			continue
		}
		i, err := c.reader.readIntent(ctx, r.Ref)
		if err != nil {
			if exists, eerr := c.reader.exists(ctx, r.IntentKey()); eerr == nil && !exists {
				continue
			}
			return nil, err
		}
		n, ok := newest[i.System]
		if !ok || slices.Compare(r.Ref.Run[:], n.Run[:]) > 0 {
			offered[r.Ref.Run] = true
		}
	}
	return offered, nil
}

// foresee fills the report of a dry run: what could be freed at once if no push
// were open, else what would wait.
func (c *collector) foresee() {
	need := needed(c.before.backups())
	c.report.Kept = len(c.before.of(valid))
	var a Amount
	var keys []string
	var dead chunkstore.Footprint
	for _, p := range c.plan.candidates {
		dead.Add(p)
	}
	for _, m := range c.marks {
		dead.Union(&m.Packs)
	}
	for _, p := range slices.SortedFunc(maps.Keys(c.packs.Sizes), comparePacks) {
		switch size := c.packs.Sizes[p]; {
		case need.Has(p):
			if c.shared(c.before, p) {
				c.report.Shared.addPack(size)
			}
		case dead.Has(p):
			a.addPack(size)
			keys = append(keys, chunkstore.PackKey(p))
		}
	}
	for _, system := range sortedKeys(c.wal) {
		ranges := c.ranges(c.before, system)
		for _, f := range c.wal[system].files {
			if !within(ranges, f) {
				a.addWAL(f.size)
				keys = append(keys, f.key)
			}
		}
	}
	for _, r := range c.before.of(open) {
		c.report.Waiting = append(c.report.Waiting, waitingFor(r.Run, r.intent))
	}
	if len(c.report.Waiting) > 0 {
		c.report.Pending = a
		return
	}
	c.report.Freed = a
	c.tell(keys)
}

package gc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"wal-e/chunkstore"
	"wal-e/internal/storage"
)

// openRuns lists the runs anew and returns the open ones.
func (c *collector) openRuns(ctx context.Context) ([]chunkstore.Ref, error) {
	runs, err := chunkstore.Runs(ctx, c.b)
	if err != nil {
		return nil, err
	}
	var refs []chunkstore.Ref
	for _, r := range runs {
		if r.Open() {
			refs = append(refs, r.Ref)
		}
	}
	return refs, nil
}

// writeGraces is step G3: it lists the runs, after the marks were there for all
// to see, and writes down which are open. A push that isn't in the list began
// later, and so sees the mark.
func (c *collector) writeGraces(ctx context.Context, marks []*chunkstore.StandingMark) error {
	fresh := slices.DeleteFunc(slices.Clone(marks), func(m *chunkstore.StandingMark) bool { return m.Grace != nil })
	if len(fresh) == 0 {
		return nil
	}
	refs, err := c.openRuns(ctx)
	if err != nil {
		return err
	}
	for _, m := range fresh {
		if m.Grace, err = chunkstore.CreateGrace(ctx, c.b, m.ID, refs); err != nil {
			return err
		}
	}
	return nil
}

// waitForPushes is step G4: every push in a grace has ended. Those that don't
// are waited for, ended, or reported, and their marks are left to a later
// collection. It returns the marks that are ripe.
func (c *collector) waitForPushes(ctx context.Context) ([]*chunkstore.StandingMark, error) {
	if c.cfg.skip.grace {
		return c.marks, nil
	}
	for {
		pending, err := c.pendingPushes(ctx)
		if err != nil {
			return nil, err
		}
		if len(pending) > 0 && c.cfg.Wait {
			c.cfg.Log.InfoContext(ctx, "waiting for pushes to end", "pushes", len(pending), "backup", pending[0].Ref, "host", pending[0].Host)
			if err := c.cfg.Sleep(ctx, c.cfg.Poll); err != nil {
				return nil, err
			}
			if c.clock, err = c.probe(ctx); err != nil {
				return nil, err
			}
			continue
		}
		c.report.Waiting = pending
		return slices.DeleteFunc(slices.Clone(c.marks), func(m *chunkstore.StandingMark) bool {
			return slices.ContainsFunc(pending, func(w Waiting) bool { return slices.Contains(m.Grace, w.Ref) })
		}), nil
	}
}

// pendingPushes returns the pushes in any grace that are still open, after
// ending those that may be ended.
func (c *collector) pendingPushes(ctx context.Context) ([]Waiting, error) {
	var refs []chunkstore.Ref
	for _, m := range c.marks {
		for _, ref := range m.Grace {
			if !slices.Contains(refs, ref) {
				refs = append(refs, ref)
			}
		}
	}
	if len(refs) == 0 {
		return []Waiting{}, nil
	}
	runs, err := chunkstore.Runs(ctx, c.b)
	if err != nil {
		return nil, err
	}
	pending := []Waiting{}
	for _, r := range runs {
		if !slices.Contains(refs, r.Ref) || !r.Open() {
			continue // ended, or removed since
		}
		w, err := c.endOrWait(ctx, r)
		if err != nil {
			return nil, err
		}
		if w != nil {
			pending = append(pending, *w)
		}
	}
	return pending, nil
}

// endOrWait ends an open push if it may be ended. Else it returns what people
// may know of it, or nil when it has ended meanwhile.
func (c *collector) endOrWait(ctx context.Context, r chunkstore.Run) (*Waiting, error) {
	ended, err := c.reader.exists(ctx, r.OutcomeKey())
	if err != nil || ended {
		return nil, err
	}
	newest, err := c.lastSign(ctx, r)
	if err != nil {
		return nil, err
	}
	if c.stalled(newest) || c.cfg.AbortRunning {
		return nil, c.fence(ctx, r.Ref, newest)
	}
	i, err := c.reader.readIntent(ctx, r.Ref)
	if errors.Is(err, storage.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	w := waitingFor(r, i)
	return &w, nil
}

func waitingFor(r chunkstore.Run, i *chunkstore.Intent) Waiting {
	w := Waiting{Ref: r.Ref, Host: i.Host, PID: i.PID, Since: i.Begun}
	if r.Intent != nil {
		w.Since = r.Intent.ModTime
	}
	return w
}

// lastSign is when the newest object of a run was stored, by the store's clock.
func (c *collector) lastSign(ctx context.Context, r chunkstore.Run) (time.Time, error) {
	newest := r.Intent.ModTime
	packs, err := chunkstore.ListPacks(ctx, c.b, &r.Ref.Run)
	if err != nil {
		return newest, err
	}
	indexes, err := chunkstore.ListIndexes(ctx, c.b, &r.Ref.Run)
	if err != nil {
		return newest, err
	}
	return latest(newest, r, packs, indexes[r.Ref.Run]), nil
}

func latest(t time.Time, r chunkstore.Run, packs *chunkstore.PackList, index *chunkstore.RunObjects) time.Time {
	if n := packs.Newest[r.Ref.Run]; n.After(t) {
		t = n
	}
	if index != nil && index.Newest.After(t) {
		t = index.Newest
	}
	return t
}

// stalled tells whether a push that was last heard of at newest counts as dead.
// When it is wrong the push fails, and nothing is lost.
func (c *collector) stalled(newest time.Time) bool {
	return c.cfg.FenceAfter > 0 && c.clock.Sub(newest) > c.cfg.FenceAfter
}

// fence ends a push from outside. If its own outcome was first, that counts.
func (c *collector) fence(ctx context.Context, ref chunkstore.Ref, newest time.Time) error {
	reason := fmt.Sprintf("no sign of life since %s", newest.UTC().Format(time.RFC3339))
	if !c.stalled(newest) {
		reason = "ended on request by a collection"
	}
	if c.cfg.skip.abort {
		return nil
	}
	o, err := chunkstore.Fence(ctx, c.b, ref, c.cfg.Host, reason)
	if errors.Is(err, storage.ErrNotExist) {
		return nil // it ended and was removed meanwhile
	}
	if err != nil {
		return err
	}
	if o.Result == chunkstore.Abort {
		c.report.Aborted = append(c.report.Aborted, ref)
		c.cfg.Log.WarnContext(ctx, "push was ended", "backup", ref, "reason", reason)
	}
	return nil
}

// fenceStalled ends the stalled pushes of G1's view, so that their packs and
// their WAL count at once.
func (c *collector) fenceStalled(ctx context.Context, v *view) error {
	if c.cfg.DryRun {
		return nil
	}
	for _, r := range v.of(open) {
		if r.Intent == nil {
			continue // its intent came while it was listed: it is alive
		}
		newest := latest(r.Intent.ModTime, r.Run, c.packs, c.indexes[r.Ref.Run])
		if !c.stalled(newest) && !c.cfg.AbortRunning {
			continue
		}
		if err := c.fence(ctx, r.Ref, newest); err != nil {
			return err
		}
		if err := c.reclassify(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// reclassify looks at a run again that was open.
func (c *collector) reclassify(ctx context.Context, r *run) error {
	r.state, r.outcome = gone, nil
	if c.cfg.skip.abort {
		r.state = aborted
		return nil
	}
	return c.reader.classify(ctx, r, false)
}

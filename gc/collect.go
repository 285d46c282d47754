package gc

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"wal-e/chunkstore"
	"wal-e/index"
	"wal-e/internal/progress"
	"wal-e/internal/runid"
	"wal-e/internal/storage"
)

// Collect removes what no valid backup needs. Any number may run at once, from
// anywhere, beside pushes and deletes; one that stopped is finished by any
// later one. While pushes are open it condemns what it found, says in the
// report whom it waits for, and returns.
//
// An error may come with a report of what was done before it.
func Collect(ctx context.Context, cfg Config) (*Report, error) {
	return collect(ctx, cfg, nil)
}

// collect is Collect; in a dry run dead are taken as deleted.
func collect(ctx context.Context, cfg Config, dead []chunkstore.Ref) (*Report, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	c := &collector{
		cfg: cfg, b: cfg.Bucket, dead: dead,
		report: &Report{DryRun: cfg.DryRun, Backups: []chunkstore.Ref{}, Waiting: []Waiting{}, Aborted: []chunkstore.Ref{}},
		reader: &reader{
			b: cfg.Bucket, requests: cfg.Requests, failOpen: cfg.skip.failClosed, trusting: cfg.skip.intentCheck,
			outcomes: make(map[chunkstore.Ref]*outcome), intents: make(map[chunkstore.Ref]*chunkstore.Intent),
		},
	}
	if cfg.Catalog != nil {
		maps.Copy(c.reader.outcomes, cfg.Catalog.outcomes)
	}
	if err := c.run(ctx); err != nil {
		return c.report, fmt.Errorf("collect %s: %w", cfg.Bucket.URL(), err)
	}
	return c.report, nil
}

// A collector is one collection under way.
type collector struct {
	cfg    Config
	b      storage.Bucket
	dead   []chunkstore.Ref
	report *Report
	reader *reader
	clock  time.Time // the store's, when the collection began; zero in a dry run

	// What step G1 found.
	packs   *chunkstore.PackList
	indexes map[runid.ID]*chunkstore.RunObjects
	before  *view
	marks   []*chunkstore.StandingMark
	orphans []string // graces without a mark
	plan    *plan

	takesCopies bool                 // packs of other prefixes are copied to this one
	unread      bool                 // an outcome that stands can't be read
	wal         map[string]*walFiles // by system identifier
}

func (c *collector) run(ctx context.Context) error {
	if c.clock = c.cfg.Clock; !c.cfg.DryRun && c.clock.IsZero() {
		var err error
		if c.clock, err = c.probe(ctx); err != nil {
			return err
		}
	}
	c.heedWeakness()
	if err := c.look(ctx); err != nil { // G1
		return err
	}
	if c.cfg.DryRun {
		c.foresee()
		return nil
	}
	ripe, err := c.condemn(ctx) // G2 to G4
	if err != nil {
		return err
	}
	after, err := c.lookAgain(ctx) // G5
	if err != nil {
		return err
	}
	left, err := c.sweep(ctx, ripe, after) // G6
	if err != nil {
		return err
	}
	return c.reap(ctx, after, left) // G7
}

// look is step G1. The packs are listed before the runs: a pack's run has an
// intent before it has packs, so each pack of an open push is known as one.
func (c *collector) look(ctx context.Context) error {
	var err error
	if c.cfg.skip.packsFirst {
		if c.before, err = c.reader.look(ctx, c.dead); err != nil {
			return err
		}
	}
	if c.packs, err = chunkstore.ListPacks(ctx, c.b, nil); err != nil {
		return err
	}
	if c.indexes, err = chunkstore.ListIndexes(ctx, c.b, nil); err != nil {
		return err
	}
	if !c.cfg.skip.packsFirst {
		if c.before, err = c.reader.look(ctx, c.dead); err != nil {
			return err
		}
	}
	if err := c.fenceStalled(ctx, c.before); err != nil {
		return err
	}
	marks, err := chunkstore.ReadMarks(ctx, c.b)
	if err != nil {
		return err
	}
	c.marks, c.orphans = marks.Marks, marks.Orphans
	// It was marked so before there was anything else, so it can't become so.
	if c.takesCopies, err = chunkstore.TakesCopies(ctx, c.b); err != nil {
		return err
	}
	if c.plan, err = c.makePlan(ctx); err != nil {
		return err
	}
	return nil
}

// condemn is steps G2 to G4. It returns the marks whose packs no open push can
// reference.
func (c *collector) condemn(ctx context.Context) ([]*chunkstore.StandingMark, error) {
	create := func() error {
		m, err := c.createMark(ctx)
		if m != nil {
			c.marks = append(c.marks, m)
		}
		return err
	}
	if !c.cfg.skip.markFirst {
		if err := create(); err != nil {
			return nil, err
		}
		if err := c.settle(ctx); err != nil {
			return nil, err
		}
		if err := c.writeGraces(ctx, c.marks); err != nil {
			return nil, err
		}
		return c.waitForPushes(ctx)
	}
	open, err := c.openRuns(ctx)
	if err != nil {
		return nil, err
	}
	if err := create(); err != nil {
		return nil, err
	}
	for _, m := range c.marks {
		if m.Grace == nil {
			if m.Grace, err = chunkstore.CreateGrace(ctx, c.b, m.ID, open); err != nil {
				return nil, err
			}
		}
	}
	return c.waitForPushes(ctx)
}

// createMark is step G2: it condemns what is in no mark yet, if there is any.
func (c *collector) createMark(ctx context.Context) (*chunkstore.StandingMark, error) {
	mark := c.plan.mark
	if mark == nil {
		return nil, nil
	}
	mark.Host = c.cfg.Host
	id, err := runid.New(c.cfg.Now(), c.cfg.Rand)
	if err != nil {
		return nil, err
	}
	if err := chunkstore.CreateMark(ctx, c.b, id, *mark); err != nil {
		return nil, err
	}
	return &chunkstore.StandingMark{ID: id, Condemnation: *mark}, nil
}

// settle waits until listings of a weak store show what was written before.
// A push may list the marks that much too early, and its intent be seen that
// much too late, so it waits for twice the lag.
func (c *collector) settle(ctx context.Context) error {
	if c.cfg.Settle <= 0 {
		return nil
	}
	return c.cfg.Sleep(ctx, 2*c.cfg.Settle)
}

// lookAgain is step G5: a listing begun after the pushes in the grace have
// ended, and every outcome in it read.
func (c *collector) lookAgain(ctx context.Context) (*view, error) {
	if c.cfg.skip.freshList {
		return c.before, nil
	}
	if err := c.settle(ctx); err != nil {
		return nil, err
	}
	after, err := c.reader.look(ctx, nil)
	if err == nil && c.cfg.skip.rereadAll {
		for _, r := range after.runs {
			if known := c.before.byID[r.Ref.Run]; r.state == valid && (known == nil || known.state != valid) {
				r.state, r.outcome = deleted, nil
			}
		}
	}
	return after, err
}

const (
	// deleteBatch is how many objects one request removes.
	deleteBatch = 1000
	// deleteBatches is how many such requests are under way at once. Stores bound
	// how many objects they remove in a second.
	deleteBatches = 4
)

// delete removes objects, in any order.
func (c *collector) delete(ctx context.Context, keys []string) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(min(deleteBatches, c.cfg.Requests))
	for batch := range slices.Chunk(keys, deleteBatch) {
		g.Go(func() error {
			if err := c.b.Delete(ctx, batch...); err != nil {
				return fmt.Errorf("remove %d objects, %s the first: %w", len(batch), batch[0], err)
			}
			c.cfg.Progress.Add(int64(len(batch)))
			return nil
		})
	}
	return g.Wait()
}

// deleteTold removes packs or WAL files, and tells the user of each.
func (c *collector) deleteTold(ctx context.Context, keys []string) error {
	c.tell(keys)
	c.cfg.Progress.Begin("remove objects", progress.Items, int64(len(keys)), nil)
	return c.delete(ctx, keys)
}

func (c *collector) tell(keys []string) {
	if c.cfg.Deleting == nil {
		return
	}
	for _, key := range keys {
		c.cfg.Deleting(key)
	}
}

// sweep is step G6: it removes what ripe marks condemn and no backup of the
// view needs. It returns the packs that are still stored.
func (c *collector) sweep(ctx context.Context, ripe []*chunkstore.StandingMark, after *view) (map[index.PackID]bool, error) {
	need := needed(after.backups())
	c.report.Kept = len(after.of(valid))
	var dead, waiting chunkstore.Footprint
	for _, m := range c.marks {
		if slices.Contains(ripe, m) {
			dead.Union(&m.Packs)
		} else {
			waiting.Union(&m.Packs)
		}
	}
	if c.cfg.skip.noPardon {
		if err := c.pardon(ctx, need); err != nil {
			return nil, err
		}
	}
	left := make(map[index.PackID]bool)
	var keys []string
	for _, p := range slices.SortedFunc(maps.Keys(c.packs.Sizes), comparePacks) {
		switch size := c.packs.Sizes[p]; {
		case need.Has(p):
			if c.shared(after, p) {
				c.report.Shared.addPack(size)
			}
		case dead.Has(p):
			keys = append(keys, chunkstore.PackKey(p))
			c.report.Freed.addPack(size)
			continue
		case waiting.Has(p):
			c.report.Pending.addPack(size)
		}
		left[p] = true
	}
	if err := c.deleteTold(ctx, keys); err != nil {
		return nil, err
	}
	return left, c.sweepWAL(ctx, ripe, after)
}

// shared tells whether a run stored p whose own backup was deleted.
func (c *collector) shared(v *view, p index.PackID) bool {
	r := v.byID[p.Run]
	return r == nil || r.state == deleted || r.state == gone
}

// pardon is what no collection may do: it takes condemnations back.
func (c *collector) pardon(ctx context.Context, need *chunkstore.Footprint) error {
	var keys []string
	for _, m := range c.marks {
		for p := range m.Packs.All() {
			if need.Has(p) {
				keys = append(keys, m.Keys()...)
				break
			}
		}
	}
	return c.delete(ctx, keys)
}

func comparePacks(a, b index.PackID) int {
	if c := slices.Compare(a.Run[:], b.Run[:]); c != 0 {
		return c
	}
	return int(int64(a.Seq) - int64(b.Seq))
}

func (a *Amount) addPack(bytes int64) {
	a.Packs++
	a.PackBytes += bytes
}

func (a *Amount) addWAL(bytes int64) {
	a.WAL++
	a.WALBytes += bytes
}

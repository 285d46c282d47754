package gc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"wal-e/chunkstore"
	"wal-e/internal/postgres"
	"wal-e/internal/storage"
)

// When the WAL of a whole system may go. A system that has a backup, or a push
// under way, has a floor, and its WAL from there on stays. One that has none is
// either new, and its first backup is still to come, or it has ended: its
// cluster was upgraded or shut down, and then its backups were deleted. What
// tells them apart is that it had backups:
//
//   - a tombstone of one stands, which no collection removes before it has
//     condemned the WAL (so a delete that was stopped is finished by any later
//     collection), and another system got a backup after its last WAL, or
//   - retention found that the history has ended and keeps at most single
//     backups of it, each with just its own WAL.
//
// And nothing may have come since: WAL that was stored after the last tombstone,
// or after retention looked, is of a cluster that lives again. History files
// stay, like those of systems that go on.

// An EndedSystem is a system of which retention found that it has ended.
type EndedSystem struct {
	System      string
	SegmentSize postgres.SegmentSize
	// Heard is when the newest WAL that retention knew of was stored, by the
	// store's clock. If any came later the system goes on.
	Heard time.Time
}

// findEnded returns those of systems that have ended, with the size of their
// segments. orphans are the WAL files of systems without a floor.
func (c *collector) findEnded(ctx context.Context, orphans map[string][]storage.Object) (map[string]postgres.SegmentSize, error) {
	ended := make(map[string]postgres.SegmentSize)
	for system, files := range orphans {
		if !slices.ContainsFunc(files, isSegment) {
			delete(orphans, system) // its history files stay
		}
	}
	if len(orphans) == 0 {
		return ended, nil
	}
	last, err := c.lastDeleted(ctx)
	if err != nil {
		return nil, err
	}
	pushes := make(map[string]bool) // systems of which a push is open
	for _, r := range c.before.of(open) {
		pushes[r.intent.System] = true
	}
	for system, files := range orphans {
		if pushes[system] {
			continue // its segment size isn't known, so it has no floor
		}
		if _, needed := c.cfg.Floors[system]; needed {
			continue
		}
		newest := slices.MaxFunc(files, func(a, b storage.Object) int { return a.ModTime.Compare(b.ModTime) }).ModTime
		if d, ok := last[system]; ok && !newest.After(d.at) && c.followed(system, newest) {
			ended[system] = d.size
			continue
		}
		i := slices.IndexFunc(c.cfg.Ended, func(e EndedSystem) bool { return e.System == system })
		if i >= 0 && !newest.After(c.cfg.Ended[i].Heard) {
			ended[system] = c.cfg.Ended[i].SegmentSize
		}
	}
	return ended, nil
}

// followed tells whether another system got a backup after a time by the store's
// clock.
func (c *collector) followed(system string, after time.Time) bool {
	return slices.ContainsFunc(c.before.of(valid), func(r *run) bool {
		return r.outcome.system != system && r.Outcome != nil && r.Outcome.ModTime.After(after)
	})
}

// isSegment tells whether a WAL file has a place in the log.
func isSegment(o storage.Object) bool {
	_, inLog := walNumber(path.Base(o.Key), postgres.MinSegmentSize)
	return inLog
}

// A deletion is the last of a system.
type deletion struct {
	at   time.Time // by the store's clock
	ref  chunkstore.Ref
	size postgres.SegmentSize
}

// lastDeleted returns the last deletion of each system of which a tombstone
// stands. Intents are small, so they are asked whose it is; of one backup of each system
// the outcome tells the size of segments.
func (c *collector) lastDeleted(ctx context.Context) (map[string]deletion, error) {
	runs := c.before.of(deleted)
	systems := make([]string, len(runs))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(c.cfg.Requests)
	for i, r := range runs {
		g.Go(func() error {
			intent, err := c.reader.readIntent(gctx, r.Ref)
			if errors.Is(err, storage.ErrNotExist) {
				return nil // removed since, by a collection that has seen to the WAL
			}
			if err == nil {
				systems[i] = intent.System
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	last := make(map[string]deletion)
	for i, r := range runs {
		if systems[i] == "" {
			continue
		}
		d := deletion{at: c.deletedAt(r), ref: r.Ref}
		if old, ok := last[systems[i]]; !ok || cmp.Or(old.at.Compare(d.at), slices.Compare(old.ref.Run[:], d.ref.Run[:])) < 0 {
			last[systems[i]] = d
		}
	}
	for _, system := range sortedKeys(last) {
		d := last[system]
		o, err := c.reader.readOutcome(ctx, d.ref)
		switch {
		case errors.Is(err, storage.ErrNotExist), err == nil && o.result != chunkstore.Commit:
			delete(last, system)
			continue
		case err != nil:
			return nil, fmt.Errorf("deleted backup %s: %w", d.ref, err)
		}
		d.size = o.needs.size
		last[system] = d
	}
	return last, nil
}

// deletedAt is when a run was deleted, which a dry run takes for later than
// anything.
func (c *collector) deletedAt(r *run) time.Time {
	if r.Deleted == nil {
		return time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)
	}
	return r.Deleted.ModTime
}

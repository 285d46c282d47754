package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"wal-e/chunkstore"
	"wal-e/compat"
	"wal-e/gc"
	"wal-e/internal/fault"
	"wal-e/internal/postgres"
	"wal-e/internal/storage"
	"wal-e/wal"
)

// A classicLayout is what retention knows of the classic layout in a prefix. Nil
// is one without.
type classicLayout struct {
	bucket  storage.Bucket
	backups []compat.Backup
	placed  *compat.Placed
	running []compat.Incomplete // pushes that may be under way
	system  string              // "" when nobody can tell
}

// readClassic reads the classic backups of an archive: a sentinel each. The
// cluster's identity is in its WAL; where that can't be read, because it is
// encrypted and there is no key, the backups are a history of their own.
//
// When everything is to go, sentinels that can't be read don't matter. A push
// without a sentinel that stored something less than stalled ago, by now,
// may be under way.
func (s *session) readClassic(ctx context.Context, b storage.Bucket, now time.Time, stalled time.Duration, everything bool) (*classicLayout, error) {
	c := &classicLayout{bucket: b}
	// First what has no sentinel: a push that completes between the two lists is in
	// both, and not in neither.
	incomplete, err := compat.ListIncomplete(ctx, b)
	if err != nil {
		return nil, err
	}
	if c.backups, err = compat.List(ctx, b); err != nil {
		return nil, err
	}
	for _, i := range incomplete {
		if now.Sub(i.Newest) <= stalled {
			c.running = append(c.running, i)
		}
	}
	id, size, err := compat.Cluster(ctx, b, s.decryptClassic)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err == nil {
		c.system = id.String()
	}
	if c.placed, err = compat.Place(ctx, b, c.backups, size); err != nil && everything && ctx.Err() == nil {
		// Where they lie counts for nothing then.
		c.placed, err = &compat.Placed{SegmentSize: postgres.DefaultSegmentSize, Positions: make([]compat.Position, len(c.backups))}, nil
	}
	if err != nil {
		return nil, &message{
			kind: fault.NotDeleted,
			text: "cannot tell what the classic backups need, so nothing is deleted", detail: err.Error(), err: err,
			hint: "Restore the sentinel from another copy; or, if that backup is lost, remove it and what is under its name by hand.",
		}
	}
	return c, nil
}

// catalog returns the backups as retention wants them. Their times are those of
// their sentinels.
func (c *classicLayout) catalog() []gc.Backup {
	if c == nil {
		return nil
	}
	var list []gc.Backup
	for i, b := range c.backups {
		at := c.placed.Positions[i]
		list = append(list, gc.Backup{
			Ref: chunkstore.Ref{Name: b.Name.String()}, System: c.system, Timeline: at.Timeline, Start: at.Start, Stop: at.Stop,
			SegmentSize: c.placed.SegmentSize, Taken: b.LastModified, Stored: b.LastModified, Classic: true,
		})
	}
	return list
}

// add tells a catalog what else there is of the classic layout: when the newest
// WAL came, and what pushes may be under way, which will need WAL.
func (c *classicLayout) add(catalog *gc.Catalog) {
	if c == nil {
		return
	}
	for _, r := range c.running {
		catalog.Open = append(catalog.Open, gc.OpenPush{Ref: chunkstore.Ref{Name: r.Name.String()}, System: c.system, Start: c.placed.Start(r.Name)})
	}
	if catalog.Archived != nil && c.placed.Archived.After(catalog.Archived[c.system]) {
		catalog.Archived[c.system] = c.placed.Archived
	}
}

// floors says from where on the classic backups that a plan keeps (nil: all)
// need WAL, which after a change of layout is in the new one. Where it isn't known
// whose they are, they may be anybody's.
func (c *classicLayout) floors(catalog *gc.Catalog, plan *gc.Plan) map[string]postgres.LSN {
	if c == nil {
		return nil
	}
	from := postgres.MaxLSN
	for _, r := range c.running {
		from = min(from, c.placed.Start(r.Name))
	}
	if plan == nil {
		for _, at := range c.placed.Positions {
			from = min(from, at.Start)
		}
	} else {
		for _, d := range plan.Decisions {
			if d.Classic && d.Keep && !d.OwnWAL {
				from = min(from, d.Start)
			}
		}
	}
	if from == postgres.MaxLSN {
		return nil
	}
	if c.system != "" {
		return map[string]postgres.LSN{c.system: from}
	}
	// Nor is the size of its segments, and with a smaller one positions are lower:
	// what has the same upper half of the name may be needed.
	from = from >> 32 << 32
	floors := make(map[string]postgres.LSN)
	for _, b := range catalog.Backups {
		if !b.Classic {
			floors[b.System] = from
		}
	}
	for _, p := range catalog.Open {
		floors[p.System] = from
	}
	return floors
}

// classicFloors is floors for a collection that deletes no backup.
func (s *session) classicFloors(ctx context.Context, b storage.Bucket, now time.Time, stalled time.Duration) (map[string]postgres.LSN, error) {
	contents, err := compat.Detect(ctx, b)
	if err != nil {
		return nil, layoutUnknown(err)
	}
	if !contents.Classic {
		return nil, nil
	}
	c, err := s.readClassic(ctx, b, now, stalled, false)
	if err != nil {
		return nil, err
	}
	catalog := &gc.Catalog{}
	if c.system == "" {
		if catalog, err = gc.ReadCatalog(ctx, b, deleteRequests, nil); err != nil {
			return nil, err
		}
	}
	return c.floors(catalog, nil), nil
}

// delete carries out the classic part of a plan.
//
// Classic WAL-E has no protocol by which a push that is under way could be seen.
// What has no sentinel counts as one until nothing was added to it for as long as
// makes a push stalled: it stays, with the WAL from where it begins.
func (c *classicLayout) delete(ctx context.Context, s *session, plan *gc.Plan, collect *gc.Config, now time.Time) (*compat.Deleted, error) {
	cfg := compat.DeleteConfig{
		Bucket: c.bucket, Everything: collect.Everything, SegmentSize: c.placed.SegmentSize, DryRun: collect.DryRun, Deleting: collect.Deleting,
		Skipping: func(key string) {
			collect.Log.WarnContext(ctx, "skipping non-qualifying key in 'delete before'", "detail", "The key is "+c.bucket.URL()+"/"+key+".",
				"hint", "wal-e doesn't make such objects, and leaves them.")
		},
	}
	for _, d := range plan.Decisions {
		if d.Classic && !d.Keep {
			name, err := compat.ParseName(d.Ref.Name)
			if err != nil {
				return nil, err
			}
			cfg.Victims = append(cfg.Victims, name)
		}
	}
	for _, h := range plan.Horizons {
		if h.System != c.system {
			continue
		}
		end := endOf(plan, h.System)
		cfg.Stays = func(no uint64, stored time.Time) bool {
			return h.Needs(no, cfg.SegmentSize) || end != nil && stored.After(end.Heard)
		}
		cfg.Garbage = func(no uint64, newest time.Time) bool {
			return !h.Needs(no, cfg.SegmentSize) && now.Sub(newest) > stalledAfter(collect.FenceAfter)
		}
	}
	return compat.Delete(ctx, cfg)
}

// endOf returns what a plan says of a system that has ended; nil: it goes on.
func endOf(plan *gc.Plan, system string) *gc.EndedSystem {
	for _, e := range plan.Ended() {
		if e.System == system {
			return &e
		}
	}
	return nil
}

// logClassicDeleted says what was deleted of the classic layout.
func logClassicDeleted(ctx context.Context, log *slog.Logger, d *compat.Deleted, dryRun bool) {
	text, verb := "deleted from the classic layout", "Deleted"
	if dryRun {
		text, verb = "what would be deleted from the classic layout", "Would delete"
	}
	incomplete := ""
	if d.Garbage > 0 {
		incomplete = fmt.Sprintf(", %d of them never completed", d.Garbage)
	}
	log.InfoContext(ctx, text, "detail", fmt.Sprintf("%s %s%s, %s; %s in %s.",
		verb, counted(d.Backups+d.Garbage, "backup"), incomplete, counted(d.WAL, "WAL file"), bytesText(d.Bytes), counted(d.Objects, "object")))
}

// stalledAfter is how long a classic push may show no sign of life.
func stalledAfter(fence time.Duration) time.Duration {
	if fence <= 0 {
		return 24 * time.Hour
	}
	return fence
}

// checkClassicWAL refuses when backups in the new layout, imported ones, can be rolled
// forward with segments that are in the classic layout only. Timelines count for
// nothing; and where nobody can tell whose the classic WAL is, it may be anybody's.
func (s *session) checkClassicWAL(ctx context.Context, b storage.Bucket) error {
	catalog, err := gc.ReadCatalog(ctx, b, deleteRequests, nil)
	if err != nil {
		return err
	}
	id, _, err := compat.Cluster(ctx, b, s.decryptClassic)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	anybodys := err != nil
	first := make(map[string]string) // segment by system, but for its timeline
	for _, ours := range catalog.Backups {
		if !anybodys && ours.System != id.String() {
			continue
		}
		size := cmp.Or(ours.SegmentSize, postgres.DefaultSegmentSize)
		name := postgres.SegmentAt(ours.Timeline, ours.Start, size).Name(size)[8:]
		if before, ok := first[ours.System]; !ok || name < before {
			first[ours.System] = name
		}
	}
	if len(first) == 0 {
		return &message{
			kind: fault.LastResort,
			text: fmt.Sprintf("the base backups of %s in the new layout are of other systems than %s, of which the classic ones are", b.URL(), id),
			hint: "Take one with `wal-e backup-push`, or import the classic ones. --force deletes them nevertheless.",
		}
	}
	names, err := compat.WALFiles(ctx, b)
	if err != nil {
		return err
	}
	for _, of := range slices.Sorted(maps.Keys(first)) {
		system, err := postgres.ParseSystemID(of)
		if err != nil {
			return err
		}
		needed := slices.DeleteFunc(slices.Clone(names), func(name string) bool {
			return postgres.ParseWALFile(name).Kind != postgres.SegmentFile || name[8:] < first[of]
		})
		missing, err := wal.Missing(ctx, b, system, slices.Values(needed))
		if err != nil {
			return err
		}
		if len(missing) > 0 {
			return &message{
				kind: fault.LastResort,
				text: fmt.Sprintf("%s, from %s on, can roll backups of the new layout forward and is only in the classic layout of %s",
					counted(len(missing), "WAL segment"), missing[0], b.URL()),
				hint: "Take them over with `wal-e import --wal`. --force deletes them nevertheless: such backups can then be restored as they were taken, and to no later moment.",
			}
		}
	}
	return nil
}

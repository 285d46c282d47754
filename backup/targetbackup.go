package backup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"wal-e/internal/fault"
	"wal-e/internal/postgres"
	"wal-e/internal/storage"
)

// checkQuery refuses LATEST for targets of which nobody can say which backups
// come before them.
func (r *RecoverConfig) checkQuery(q query) error {
	if err := r.check(); err != nil {
		return err
	}
	if k := r.Target.Kind; q.latest && (k == TargetXID || k == TargetName) {
		return fault.NoRoute.Errorf("a backup doesn't know which transactions and restore points follow it: name a backup that was complete before the target instead of LATEST")
	}
	return nil
}

// choose returns the newest backup from which the target can be reached.
func (r *RecoverConfig) choose(ctx context.Context, backups []*Backup) (*Backup, error) {
	backups = slices.Clone(backups)
	slices.SortFunc(backups, func(a, b *Backup) int { return compareTaken(b, a) })
	histories := historyCache{recover: r}
	for _, b := range backups {
		if r.checkReach(b) != nil {
			continue
		}
		ok, err := r.onTimeline(ctx, &histories, b)
		if err != nil {
			return nil, err
		}
		if ok {
			return b, nil
		}
	}
	oldest := backups[len(backups)-1]
	err := fmt.Errorf("no backup leads to the target (%s", r.Target.Describe(nil))
	if r.Timeline != "" {
		err = fmt.Errorf("%w, timeline %s", err, r.Timeline)
	}
	return nil, fmt.Errorf("%w): it needs one that was complete before it; the oldest of %s, %s, was at %s, LSN %s, on timeline %d",
		err, counted(len(backups), "backup"), oldest.Ref, oldest.Manifest.Stopped.UTC().Format(time.RFC3339), oldest.Manifest.StopLSN, oldest.Manifest.Timeline)
}

// checkReach tells whether the backup was complete before the target.
func (r *RecoverConfig) checkReach(b *Backup) error {
	_, stop := b.lsns()
	switch t := r.Target; {
	case t.Kind == TargetTime && t.Time.Before(b.Manifest.Stopped):
		return fault.NoRoute.Errorf("backup %s was complete at %s UTC only, and the target is %s: take an older backup, or LATEST, which chooses one",
			b.Ref, b.Manifest.Stopped.UTC().Format(timeLayout), t.Time.UTC().Format(timeLayout))
	case t.Kind == TargetLSN && t.LSN < stop:
		return fault.NoRoute.Errorf("backup %s is complete at LSN %s only, and the target is %s: take an older backup, or LATEST, which chooses one",
			b.Ref, stop, t.LSN)
	}
	return nil
}

// onTimeline tells whether recovery from b can go to the timeline that was
// asked for. To the latest and to its own it always can.
func (r *RecoverConfig) onTimeline(ctx context.Context, histories *historyCache, b *Backup) (bool, error) {
	want, ok := r.timelineNumber()
	if !ok {
		return true, nil
	}
	h, err := histories.get(ctx, b.Manifest.System, want)
	if err != nil {
		return false, err
	}
	_, stop := b.lsns()
	return h.ContainsEnd(b.Manifest.Timeline, stop), nil
}

// A route is the way of a recovery through the timelines.
type route struct {
	timeline postgres.Timeline
	// beside are other timelines that branch from the backup's way and that
	// this one doesn't pass.
	beside []postgres.Timeline
}

// resolve returns the timeline that a recovery from b goes to.
func (r *RecoverConfig) resolve(ctx context.Context, b *Backup) (route, error) {
	if err := r.checkReach(b); err != nil {
		return route{}, err
	}
	_, stop := b.lsns()
	histories := historyCache{recover: r}
	if want, ok := r.timelineNumber(); ok {
		h, err := histories.get(ctx, b.Manifest.System, want)
		if err != nil {
			return route{}, err
		}
		if !h.ContainsEnd(b.Manifest.Timeline, stop) {
			return route{}, fault.NoRoute.Errorf("backup %s ends at %s of timeline %d, which the way to timeline %d doesn't pass (it is on timeline %d there): "+
				"take another backup, or LATEST, which chooses one", b.Ref, stop, b.Manifest.Timeline, want, h.TimelineAt(max(stop, 1)-1))
		}
		return route{timeline: want}, nil
	}
	if r.Timeline == TimelineCurrent || r.Timelines == nil {
		return route{timeline: b.Manifest.Timeline}, nil
	}
	return r.latest(ctx, &histories, b, stop)
}

// latest returns the highest timeline that descends from the backup's.
func (r *RecoverConfig) latest(ctx context.Context, histories *historyCache, b *Backup, stop postgres.LSN) (route, error) {
	known, err := r.Timelines(ctx, b.Manifest.System)
	if err != nil {
		return route{}, fmt.Errorf("look for timelines: %w", err)
	}
	slices.Sort(known)
	p := route{timeline: b.Manifest.Timeline}
	var children []postgres.Timeline
	var way postgres.History
	for _, tl := range slices.Backward(slices.Compact(known)) {
		if tl <= b.Manifest.Timeline {
			break
		}
		h, err := histories.get(ctx, b.Manifest.System, tl)
		if err != nil {
			return route{}, err
		}
		if !h.ContainsEnd(b.Manifest.Timeline, stop) {
			continue
		}
		if len(children) == 0 {
			p.timeline, way = tl, h
		}
		children = append(children, tl)
	}
	for _, tl := range children {
		if tl != p.timeline && !slices.ContainsFunc(way.Ancestors, func(a postgres.Ancestor) bool { return a.Timeline == tl }) {
			p.beside = append(p.beside, tl)
		}
	}
	return p, nil
}

// A historyCache reads each timeline's history once.
type historyCache struct {
	recover *RecoverConfig
	known   map[historyKey]postgres.History
}

type historyKey struct {
	system string
	tl     postgres.Timeline
}

// get returns the history of a timeline. Timeline 1 has no file, and that of the
// first timeline that an archive saw may be missing: both have no ancestors.
func (c *historyCache) get(ctx context.Context, system string, tl postgres.Timeline) (postgres.History, error) {
	key := historyKey{system, tl}
	if h, ok := c.known[key]; ok {
		return h, nil
	}
	h := postgres.History{Timeline: tl}
	if tl > 1 && c.recover.History != nil {
		read, err := c.recover.History(ctx, system, tl)
		switch {
		case err == nil:
			h = read
		case !errors.Is(err, storage.ErrNotExist):
			return h, fmt.Errorf("history of timeline %d: %w", tl, err)
		}
	}
	if c.known == nil {
		c.known = make(map[historyKey]postgres.History)
	}
	c.known[key] = h
	return h, nil
}

func timelineList(list []postgres.Timeline) string {
	var words []string
	for _, tl := range list {
		words = append(words, fmt.Sprint(tl))
	}
	return strings.Join(words, ", ")
}

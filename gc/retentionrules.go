package gc

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"wal-e/internal/fault"
	"wal-e/internal/postgres"
	"wal-e/internal/runid"
)

// A Rule is why a backup is kept or deleted.
type Rule string

// Rules that keep, the policy's own first, then those that protect against it.
const (
	RuleBefore  Rule = "before"
	RuleRetain  Rule = "retain"
	RulePeriod  Rule = "retain-for"
	RuleDaily   Rule = "daily"
	RuleWeekly  Rule = "weekly"
	RuleMonthly Rule = "monthly"
	RulePITR    Rule = "pitr"

	RuleFloor  Rule = "keep-within"
	RuleMark   Rule = "mark"
	RuleNewest Rule = "newest-good"

	// RuleNone: nothing keeps it.
	RuleNone Rule = "none"
)

// protects tells whether a rule keeps what the policy alone would delete.
func (r Rule) protects() bool { return r == RuleFloor || r == RuleMark || r == RuleNewest }

// applyPolicy lets the policy's own rules keep backups.
func (d *decider) applyPolicy() error {
	p := d.policy
	switch {
	case p.Everything:
		return nil
	case p.Before != nil:
		return d.applyBefore()
	}
	endHistories(d.histories, p.most(), d.before(p.longest()))
	continuous := p.PITR == 0
	for _, h := range d.histories {
		if p.PITR > 0 {
			d.window(h, p.PITR, RulePITR, true)
		}
		if p.RetainFor > 0 {
			d.window(h, p.RetainFor, RulePeriod, continuous)
		}
		if p.Retain > 0 && !h.ended {
			h.retain(p.Retain, continuous)
		}
	}
	d.thin(p.Daily, RuleDaily, continuous, func(t time.Time) string { return t.Format(time.DateOnly) })
	d.thin(p.Weekly, RuleWeekly, continuous, func(t time.Time) string {
		year, week := t.ISOWeek()
		return strconv.Itoa(year) + " " + strconv.Itoa(week)
	})
	d.thin(p.Monthly, RuleMonthly, continuous, func(t time.Time) string { return t.Format("2006-01") })
	return nil
}

// before is the time so long ago, or zero for no period.
func (d *decider) before(period time.Duration) time.Time {
	if period == 0 {
		return time.Time{}
	}
	return d.now.Add(-period)
}

// window keeps backups of a period, and those before it from which moments
// within are restored. A backup goes when it is old and there is one after it
// that is old, too, and as good: then that one serves. Of a history that has
// ended no moment is within.
func (d *decider) window(h *history, period time.Duration, r Rule, continuous bool) {
	since := d.before(period)
	oldGood, oldAny := false, false // later than b
	for _, b := range slices.Backward(h.backups) {
		old := b.age().Before(since)
		served := h.ended || oldGood || oldAny && !b.good()
		if !old || !served {
			b.keep(r, continuous)
		}
		oldAny = oldAny || old
		oldGood = oldGood || old && b.good()
	}
}

// retain keeps the n newest names. Of each name the newest run stays and the
// newest without page errors; so do those of the other layout.
func (h *history) retain(n int, continuous bool) {
	type run struct {
		name    string
		classic bool
	}
	names := make(map[string]bool)
	newest, good := make(map[run]bool), make(map[run]bool)
	for _, b := range slices.Backward(h.backups) {
		if !names[b.Ref.Name] && len(names) == n {
			continue
		}
		names[b.Ref.Name] = true
		r := run{b.Ref.Name, b.Classic}
		if !newest[r] || b.good() && !good[r] {
			b.keep(RuleRetain, continuous)
		}
		newest[r] = true
		good[r] = good[r] || b.good()
	}
}

// thin keeps for each of the last n periods in which a backup was taken the
// newest of each system, if there is one then one without page errors. The
// periods are those of all systems together, so an old system's backups go in
// the course of time.
func (d *decider) thin(n int, r Rule, continuous bool, period func(time.Time) string) {
	if n == 0 {
		return
	}
	recent := d.recentPeriods(n, period)
	for _, h := range d.histories {
		best := make(map[string]*candidate)
		for _, b := range h.backups {
			p := period(b.taken().UTC())
			if old := best[p]; recent[p] && (old == nil || b.good() || !old.good()) {
				best[p] = b
			}
		}
		for _, b := range best {
			b.keep(r, continuous)
		}
	}
}

// recentPeriods returns the last n periods in which a backup was taken.
func (d *decider) recentPeriods(n int, period func(time.Time) string) map[string]bool {
	var times []time.Time
	for _, h := range d.histories {
		for _, b := range h.backups {
			times = append(times, b.taken().UTC())
		}
	}
	slices.SortFunc(times, time.Time.Compare)
	recent := make(map[string]bool)
	for _, t := range slices.Backward(times) {
		p := period(t)
		if !recent[p] && len(recent) == n {
			break
		}
		recent[p] = true
	}
	return recent
}

// applyBefore keeps what isn't older than a position.
func (d *decider) applyBefore() error {
	for _, h := range d.histories {
		if i := h.find(d.policy.Before); i >= 0 {
			// Two systems may have a backup of one name; the newest is meant.
			if d.target == nil || h.backups[i].rank.After(d.target.backups[d.targetAt].rank) {
				d.target, d.targetAt = h, i
			}
		}
	}
	if d.target != nil {
		d.beforeBackup(d.target, d.targetAt)
		return nil
	}
	if d.policy.Before.Run != (runid.ID{}) {
		return fmt.Errorf("%s %w", d.policy.Before, ErrNotBackup)
	}
	return d.beforePlace()
}

// find returns the newest backup that a position names, or -1.
func (h *history) find(p *Position) int {
	if p.Name == "" {
		return -1
	}
	for i, b := range slices.Backward(h.backups) {
		if b.Ref.Name == p.Name && (p.Run == runid.ID{} || p.Run == b.Ref.Run) {
			return i
		}
	}
	return -1
}

// beforeBackup keeps what isn't older than a backup: in its history by order,
// where those that start in the same segment all stay, and in others by time.
func (d *decider) beforeBackup(h *history, i int) {
	mark := h.backups[i]
	limit := mark.taken()
	if floor := d.before(d.policy.KeepWithin); !floor.IsZero() && floor.Before(limit) {
		limit = floor
	}
	endHistories(d.histories, 1, limit)
	for _, other := range d.histories {
		for k, b := range other.backups {
			same := other == h && (k >= i || b.segment() == mark.segment())
			if same || other != h && !b.taken().Before(mark.taken()) {
				b.keep(RuleBefore, true)
			}
		}
	}
}

// beforePlace keeps what isn't older than a segment. Nobody knows when that was
// written, so only backups go of which it is certain: on its timeline those that
// start in a segment before it; on others those that also come before the first
// backup of that timeline that isn't, or else after which there is one that is.
func (d *decider) beforePlace() error {
	var with []*history
	for _, h := range d.histories {
		if len(h.backups) > 0 {
			with = append(with, h)
		}
	}
	if len(with) == 0 {
		return nil
	}
	if len(with) > 1 {
		return fault.NoBackup.Errorf("%s is no backup here, and there are backups of %d systems: name a backup that exists", d.policy.Before, len(with))
	}
	h := with[0]
	place, err := postgres.ParseSegment(d.policy.Before.Segment, h.backups[len(h.backups)-1].segmentSize())
	if err != nil {
		return err
	}
	bound := h.bound(place)
	for i, b := range h.backups {
		older := b.segment() < place.No && (b.Timeline == place.Timeline || i < bound)
		if !older {
			b.keep(RuleBefore, true)
		}
	}
	return nil
}

// bound returns the index of the first backup of a place's timeline that starts
// there or later, else of the last that starts before, else 0.
func (h *history) bound(place postgres.Segment) int {
	bound := 0
	for i, b := range h.backups {
		if b.Timeline != place.Timeline {
			continue
		}
		if b.segment() >= place.No {
			return i
		}
		bound = i
	}
	return bound
}

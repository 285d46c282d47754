package gc

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"wal-e/chunkstore"
	"wal-e/internal/fault"
	"wal-e/internal/postgres"
)

// A Decision says what becomes of a backup.
type Decision struct {
	Backup
	Keep bool
	Rule Rule   // why; RuleNone when it is deleted
	Why  string // the same for people
	// OwnWAL says that of a kept backup just the WAL from its start to its stop
	// is kept.
	OwnWAL bool
}

// MarshalJSON writes positions as PostgreSQL does.
func (d Decision) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Backup       chunkstore.Ref    `json:"backup"`
		System       string            `json:"system_identifier"`
		Timeline     postgres.Timeline `json:"timeline"`
		Start        string            `json:"start_lsn"`
		Stop         string            `json:"stop_lsn"`
		Taken        time.Time         `json:"taken"`
		Stored       time.Time         `json:"stored"`
		PageFailures int64             `json:"page_failures"`
		Classic      bool              `json:"classic"`
		Keep         bool              `json:"keep"`
		Rule         Rule              `json:"rule"`
		Why          string            `json:"why"`
		OwnWAL       bool              `json:"own_wal_only"`
	}{d.Ref, d.System, d.Timeline, d.Start.String(), d.Stop.String(), d.Taken, d.Stored, d.PageFailures, d.Classic,
		d.Keep, d.Rule, d.Why, d.OwnWAL})
}

// A Plan says which backups a policy deletes, and what WAL the others need. It
// has changed nothing yet.
type Plan struct {
	Decisions []Decision `json:"backups"` // in order per system, the newest last
	Horizons  []Horizon  `json:"wal"`     // by system

	policy Policy
}

// A Horizon says what WAL of a system is needed.
type Horizon struct {
	System string
	// From is where the WAL begins of which all is needed: the smallest start of
	// kept backups and open pushes. It is MaxLSN when Ended.
	From   postgres.LSN
	Ranges []WALRange // what is needed below
	// Ended says that no backup of the system is left but those in Ranges, and
	// that none is expected: all its other WAL may go.
	Ended bool

	heard time.Time            // when the newest WAL that the catalog knows of was stored
	size  postgres.SegmentSize // of the newest backup
}

// A WALRange is the WAL that makes one backup consistent.
type WALRange struct {
	Backup      chunkstore.Ref
	Start, Stop postgres.LSN
}

// MarshalJSON writes positions as PostgreSQL does.
func (h Horizon) MarshalJSON() ([]byte, error) {
	type jsonRange struct {
		Backup chunkstore.Ref `json:"backup"`
		Start  string         `json:"start_lsn"`
		Stop   string         `json:"stop_lsn"`
	}
	ranges := []jsonRange{}
	for _, r := range h.Ranges {
		ranges = append(ranges, jsonRange{r.Backup, r.Start.String(), r.Stop.String()})
	}
	return json.Marshal(struct {
		System string      `json:"system_identifier"`
		From   string      `json:"from_lsn"`
		Ranges []jsonRange `json:"ranges"`
		Ended  bool        `json:"ended"`
	}{h.System, h.From.String(), ranges, h.Ended})
}

// Needs tells whether a segment, on any timeline, is needed.
func (h Horizon) Needs(no uint64, size postgres.SegmentSize) bool {
	if no >= postgres.SegmentAt(1, h.From, size).No {
		return true
	}
	return slices.ContainsFunc(h.Ranges, func(r WALRange) bool {
		w := walRange{start: r.Start, stop: r.Stop, size: size}
		return no >= w.first() && no <= w.last()
	})
}

// Deleted returns the backups that are to be deleted.
func (p *Plan) Deleted() []Backup {
	var list []Backup
	for _, d := range p.Decisions {
		if !d.Keep {
			list = append(list, d.Backup)
		}
	}
	return list
}

// Victims returns those of Deleted that Delete deletes: the classic ones aren't
// runs.
func (p *Plan) Victims() []chunkstore.Ref {
	var refs []chunkstore.Ref
	for _, b := range p.Deleted() {
		if !b.Classic {
			refs = append(refs, b.Ref)
		}
	}
	return refs
}

// Ranges returns the backups of which just their own WAL is kept, as Config
// wants them.
func (p *Plan) Ranges() []chunkstore.Ref {
	var refs []chunkstore.Ref
	for _, d := range p.Decisions {
		if d.Keep && d.OwnWAL && !d.Classic {
			refs = append(refs, d.Ref)
		}
	}
	return refs
}

// Ended returns the systems that have ended, as Config wants them.
func (p *Plan) Ended() []EndedSystem {
	var list []EndedSystem
	for _, h := range p.Horizons {
		if h.Ended {
			list = append(list, EndedSystem{System: h.System, SegmentSize: h.size, Heard: h.heard})
		}
	}
	return list
}

// A decider is one decision under way.
type decider struct {
	policy    Policy
	catalog   *Catalog
	now       time.Time
	histories []*history

	target   *history // of the backup that Before names, if it exists
	targetAt int
}

// Decide applies a policy to a catalog. now is the earlier of the host's and
// the store's clock: a clock that runs ahead makes backups look old.
//
// Whatever the policy, a history that goes on keeps its newest backup without
// page errors, and backups that are marked to be kept stay, of which, when no
// rule keeps them, just their own WAL is kept. Only Everything takes the newest
// backup; it fails when a mark or the floor protects any.
func Decide(p Policy, c *Catalog, now time.Time) (*Plan, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	d := &decider{policy: p, catalog: c, now: now, histories: histories(c)}
	if err := d.applyPolicy(); err != nil {
		return nil, err
	}
	for _, h := range d.histories {
		if p.KeepWithin > 0 {
			d.floor(h)
		}
		for _, b := range h.backups {
			if k, ok := c.Keeps[b.Ref]; ok && k.Holds(now) {
				b.keep(RuleMark, false)
			}
		}
		if b := h.newestGood(); b != nil && !h.ended && !p.Everything {
			b.keep(RuleNewest, true)
		}
	}
	plan := d.plan()
	if p.Everything {
		return plan, plan.checkEverything()
	}
	return plan, nil
}

// floor keeps what KeepWithin protects. When all is to go, nobody wants to
// restore a moment any more, so only young backups are protected.
func (d *decider) floor(h *history) {
	if !d.policy.Everything {
		d.window(h, d.policy.KeepWithin, RuleFloor, true)
		return
	}
	since := d.before(d.policy.KeepWithin)
	for _, b := range h.backups {
		if !b.age().Before(since) {
			b.keep(RuleFloor, true)
		}
	}
}

// checkEverything returns an error that names the backups that are protected.
func (p *Plan) checkEverything() error {
	var names []string
	for _, d := range p.Decisions {
		if d.Keep {
			names = append(names, fmt.Sprintf("%s (%s)", d.name(), d.Why))
		}
	}
	if len(names) == 0 {
		return nil
	}
	return fault.Marked.Errorf("everything can't be deleted: %s: release marks with backup-mark NAME --release, or leave out --keep-within", strings.Join(names, ", "))
}

// name is how people address the backup.
func (b Backup) name() string {
	if b.Classic {
		return b.Ref.Name
	}
	return b.Ref.String()
}

func (d *decider) plan() *Plan {
	p := &Plan{policy: d.policy, Decisions: []Decision{}, Horizons: []Horizon{}}
	for _, h := range d.histories {
		hor := d.horizon(h)
		for i, b := range h.backups {
			dec := Decision{Backup: b.Backup, Keep: b.by != "", Rule: b.by, Why: d.why(h, i)}
			dec.OwnWAL = dec.Keep && b.Start < hor.From
			if !dec.Keep {
				dec.Rule = RuleNone
			}
			if dec.OwnWAL {
				hor.Ranges = append(hor.Ranges, WALRange{Backup: b.Ref, Start: b.Start, Stop: b.Stop})
			}
			p.Decisions = append(p.Decisions, dec)
		}
		p.Horizons = append(p.Horizons, hor)
	}
	return p
}

// horizon says from where on a history needs its WAL after the decision. One
// that goes on has its newest backup, so without one all was deleted or it ended.
func (d *decider) horizon(h *history) Horizon {
	hor := Horizon{System: h.system, From: postgres.MaxLSN, Ended: true, heard: d.catalog.Archived[h.system]}
	for _, b := range h.backups {
		hor.size = b.segmentSize()
		if b.by != "" && b.continuous {
			hor.From, hor.Ended = min(hor.From, b.Start), false
		}
	}
	for _, p := range d.catalog.Open {
		if p.System == h.system {
			hor.From, hor.Ended = min(hor.From, p.Start), false
		}
	}
	return hor
}

// why says for people what became of a backup.
func (d *decider) why(h *history, i int) string {
	p, b := d.policy, h.backups[i]
	switch b.by {
	case RuleBefore:
		return "is not before " + p.Before.String()
	case RuleRetain:
		return fmt.Sprintf("is among the newest %d", p.Retain)
	case RulePeriod:
		return "is needed for the last " + FormatPeriod(p.RetainFor)
	case RulePITR:
		return "is needed for moments of the last " + FormatPeriod(p.PITR)
	case RuleDaily:
		return "is the newest of its day"
	case RuleWeekly:
		return "is the newest of its week"
	case RuleMonthly:
		return "is the newest of its month"
	case RuleFloor:
		return "is protected by --keep-within " + FormatPeriod(p.KeepWithin)
	case RuleMark:
		return "is " + d.catalog.Keeps[b.Ref].String()
	case RuleNewest:
		if !b.good() {
			return "is the newest"
		}
		return "is the newest without page errors"
	}
	return d.whyDeleted(h, i)
}

func (d *decider) whyDeleted(h *history, i int) string {
	b := h.backups[i]
	newer := func(o *candidate) bool { return o.Ref.Name == b.Ref.Name && o.by == RuleRetain }
	switch {
	case d.policy.Everything:
		return "everything is deleted"
	case d.policy.Before != nil:
		return "is before " + d.policy.Before.String()
	case slices.ContainsFunc(h.backups[i+1:], newer):
		return "there is a newer one of its name"
	case h.ended:
		return "its system was followed by another"
	}
	return "no rule keeps it"
}

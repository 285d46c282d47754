package gc_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"wal-e/chunkstore"
	"wal-e/gc"
	"wal-e/internal/postgres"
)

// randomCatalog makes backups of up to three systems. Unless they are honest,
// clocks are wrong, copies were stored late, and names come twice.
func randomCatalog(r *rand.Rand, honest bool) *gc.Catalog {
	c := catalogOf()
	systems := []string{oldSystem, newSystem, "7000000000000000003"}[:1+r.IntN(3)]
	segment := make(map[string]uint64)
	timeline := make(map[string]postgres.Timeline)
	n := r.IntN(40)
	for i := range n {
		s := systems[r.IntN(len(systems))]
		if honest {
			s = systems[i*len(systems)/n] // one after the other
		}
		segment[s] += uint64(r.IntN(3))
		if timeline[s] == 0 || r.IntN(10) == 0 {
			timeline[s]++
			segment[s] = max(5, segment[s]) - uint64(r.IntN(5))
		}
		b := retained{system: s, timeline: timeline[s], segment: segment[s], run: byte(i), days: float64(n-i) * 40 / float64(n)}
		if r.IntN(4) == 0 {
			b.failures = 1
		}
		if !honest {
			distort(r, &b)
		}
		c.Backups = append(c.Backups, b.backup())
		if r.IntN(8) == 0 {
			k := gc.Keep{}
			if r.IntN(2) == 0 {
				k.Until = today().Add(time.Duration(r.IntN(20)-10) * day)
			}
			c.Keeps[c.Backups[i].Ref] = k
		}
	}
	for _, s := range systems {
		if r.IntN(4) == 0 {
			c.Open = append(c.Open, gc.OpenPush{System: s, Start: postgres.LSN(r.IntN(40)) * postgres.LSN(postgres.DefaultSegmentSize)})
		}
		if r.IntN(4) == 0 {
			c.Archived[s] = today().Add(-time.Duration(r.IntN(40)) * day)
		}
	}
	if r.IntN(4) == 0 {
		c.Archived = nil
	}
	r.Shuffle(len(c.Backups), func(i, j int) { c.Backups[i], c.Backups[j] = c.Backups[j], c.Backups[i] })
	return c
}

func distort(r *rand.Rand, b *retained) {
	switch r.IntN(6) {
	case 0:
		b.stored, b.days = b.days, float64(r.IntN(400)-200)
	case 1:
		b.stored = b.days * r.Float64()
	}
}

func randomPolicy(r *rand.Rand, c *gc.Catalog) gc.Policy {
	some := func(n int) int { return max(0, r.IntN(2*n)-n) }
	p := gc.Policy{KeepWithin: time.Duration(some(20)) * day}
	if len(c.Backups) > 0 && r.IntN(5) == 0 {
		b := c.Backups[r.IntN(len(c.Backups))]
		p.Before = &gc.Position{Name: b.Ref.Name, Segment: b.Ref.Name[5:29]}
		return p
	}
	p.Retain, p.Daily, p.Weekly, p.Monthly = some(10), some(10), some(5), some(3)
	p.RetainFor, p.PITR = time.Duration(some(20))*day, time.Duration(some(20))*day
	if p.Check() != nil {
		p.Retain = 1 + r.IntN(5)
	}
	return p
}

// checkPlan checks what holds of every plan.
func checkPlan(t *testing.T, policy gc.Policy, c *gc.Catalog, p *gc.Plan) {
	t.Helper()
	if len(p.Decisions) != len(c.Backups) {
		t.Errorf("%d decisions about %d backups", len(p.Decisions), len(c.Backups))
	}
	horizons := make(map[string]gc.Horizon)
	for _, h := range p.Horizons {
		horizons[h.System] = h
	}
	keptGood, anyGood := false, false
	for _, d := range p.Decisions {
		anyGood = anyGood || d.PageFailures == 0
		keptGood = keptGood || d.Keep && d.PageFailures == 0
		h := horizons[d.System]
		k, marked := c.Keeps[d.Ref]
		since := today().Add(-policy.KeepWithin)
		switch {
		case !d.Keep && marked && k.Holds(today()):
			t.Errorf("%s is marked to be kept and was deleted", d.Ref)
		case !d.Keep && policy.KeepWithin > 0 && d.Stored.After(since):
			t.Errorf("%s is above the floor and was deleted", d.Ref)
		case d.Keep && !d.OwnWAL && h.From > d.Start:
			t.Errorf("%s is kept and starts at %s, below the horizon %s", d.Ref, d.Start, h.From)
		case d.Keep != (d.Rule != gc.RuleNone) || d.Why == "":
			t.Errorf("%s: keep %t by rule %q because it %q", d.Ref, d.Keep, d.Rule, d.Why)
		}
		if d.Keep {
			checkNeeds(t, h, d)
		}
	}
	if anyGood && !keptGood && !policy.Everything {
		t.Error("only damaged backups are left")
	}
	for _, o := range c.Open {
		if h := horizons[o.System]; h.From > o.Start || h.Ended {
			t.Errorf("open push from %s, horizon %+v", o.Start, h)
		}
	}
}

// checkNeeds checks that a kept backup has its WAL.
func checkNeeds(t *testing.T, h gc.Horizon, d gc.Decision) {
	t.Helper()
	for s := range postgres.Segments(d.Timeline, d.Start, d.Stop, d.SegmentSize) {
		if !h.Needs(s.No, d.SegmentSize) {
			t.Errorf("%s is kept, but not segment %d (%+v)", d.Ref, s.No, h)
		}
	}
	if last := (d.Start + 1<<40) / postgres.LSN(d.SegmentSize); !d.OwnWAL && !h.Needs(uint64(last), d.SegmentSize) {
		t.Errorf("%s is kept, but not the WAL after it (%+v)", d.Ref, h)
	}
}

// checkNewestGood checks that each system of which nobody can say that it has ended
// keeps its newest good backup.
func checkNewestGood(t *testing.T, c *gc.Catalog, p *gc.Plan) {
	t.Helper()
	kept := make(map[string]bool)
	newest := make(map[string]gc.Decision)
	for _, d := range p.Decisions {
		if old, ok := newest[d.System]; !ok || d.PageFailures == 0 || old.PageFailures > 0 {
			newest[d.System] = d
		}
		kept[d.System] = kept[d.System] || d.Keep
	}
	for system, d := range newest {
		goesOn := c.Archived == nil || len(newest) == 1 ||
			slices.ContainsFunc(c.Open, func(o gc.OpenPush) bool { return o.System == system })
		if goesOn && !d.Keep {
			t.Errorf("%s is the newest without page errors of system %s, and was deleted", d.Ref, system)
		}
	}
}

const propertySeeds = 1000

func TestPlanProperties(t *testing.T) {
	t.Parallel()
	for seed := range uint64(propertySeeds) {
		r := rand.New(rand.NewPCG(seed, 1))
		c := randomCatalog(r, false)
		policy := randomPolicy(r, c)
		p, err := gc.Decide(policy, c, today())
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		checkPlan(t, policy, c, p)
		checkNewestGood(t, c, p)
		if t.Failed() {
			t.Fatalf("seed %d, policy %+v", seed, policy)
		}
	}
}

// More to keep never deletes more, nor more WAL.
func TestPlanMonotonic(t *testing.T) {
	t.Parallel()
	wider := map[string]func(*gc.Policy) bool{
		"retain":      func(p *gc.Policy) bool { p.Retain++; return p.Retain > 1 },
		"retain for":  func(p *gc.Policy) bool { p.RetainFor += day; return p.RetainFor > day },
		"daily":       func(p *gc.Policy) bool { p.Daily++; return true },
		"weekly":      func(p *gc.Policy) bool { p.Weekly++; return true },
		"monthly":     func(p *gc.Policy) bool { p.Monthly++; return true },
		"pitr":        func(p *gc.Policy) bool { p.PITR += day; return p.PITR > day }, // the first takes WAL
		"keep-within": func(p *gc.Policy) bool { p.KeepWithin += day; return true },
	}
	for name, widen := range wider {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(propertySeeds) {
				r := rand.New(rand.NewPCG(seed, 2))
				c := randomCatalog(r, false)
				policy := randomPolicy(r, c)
				more := policy
				if policy.Before != nil && name != "keep-within" {
					continue
				}
				comparable := widen(&more)
				if err := compare(c, policy, more, comparable || policy.PITR == 0 && name != "pitr"); err != nil {
					t.Fatalf("seed %d: %+v, then %+v: %v", seed, policy, more, err)
				}
			}
		})
	}
}

// compare makes sure that the policy more keeps what less keeps, and its WAL
// if that can be compared.
func compare(c *gc.Catalog, less, more gc.Policy, wal bool) error {
	p, err := gc.Decide(less, c, today())
	if err != nil {
		return err
	}
	q, err := gc.Decide(more, c, today())
	if err != nil {
		return err
	}
	for i, d := range p.Decisions {
		if d.Keep && !q.Decisions[i].Keep {
			return fmt.Errorf("%s is kept (%s), and then not (%s)", d.Ref, d.Why, q.Decisions[i].Why)
		}
	}
	for i, h := range p.Horizons {
		if wal && q.Horizons[i].From > h.From {
			return fmt.Errorf("horizon of %s rises from %s to %s", h.System, h.From, q.Horizons[i].From)
		}
	}
	return nil
}

// A policy that is applied again deletes nothing more.
func TestPlanRepeats(t *testing.T) {
	t.Parallel()
	for seed := range uint64(propertySeeds) {
		r := rand.New(rand.NewPCG(seed, 3))
		c := randomCatalog(r, true)
		policy := randomPolicy(r, c)
		p, err := gc.Decide(policy, c, today())
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		deleted := p.Victims()
		c.Backups = slices.DeleteFunc(c.Backups, func(b gc.Backup) bool { return slices.Contains(deleted, b.Ref) })
		again, err := gc.Decide(policy, c, today())
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if d := again.Deleted(); len(d) > 0 {
			t.Fatalf("seed %d: %+v: the second time deletes %v", seed, policy, d[0].Ref)
		}
	}
}

// The order of the listing doesn't matter.
func TestPlanOrder(t *testing.T) {
	t.Parallel()
	for seed := range uint64(propertySeeds) {
		r := rand.New(rand.NewPCG(seed, 4))
		c := randomCatalog(r, false)
		policy := randomPolicy(r, c)
		refs := func() (list []chunkstore.Ref) {
			p, err := gc.Decide(policy, c, today())
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			return p.Victims()
		}
		first := refs()
		r.Shuffle(len(c.Backups), func(i, j int) { c.Backups[i], c.Backups[j] = c.Backups[j], c.Backups[i] })
		if second := refs(); !slices.Equal(first, second) {
			t.Fatalf("seed %d: deletes %v, then %v", seed, first, second)
		}
	}
}

package gc

import (
	"cmp"
	"slices"
	"time"

	"wal-e/internal/postgres"
)

// A history is what is known of one system identifier.
type history struct {
	system  string
	backups []*candidate // in order, the newest last
	last    time.Time    // its last sign of life
	alive   bool         // somebody pushes, or nobody knows better
	ended   bool
}

// A candidate is a backup about which it is decided.
type candidate struct {
	Backup
	rank time.Time // orders backups of a history
	by   Rule      // the first that keeps it; "" while none does
	// continuous says that not just the backup's own WAL is kept, but all from
	// its start on.
	continuous bool
}

// keep notes that a rule keeps the backup.
func (c *candidate) keep(r Rule, continuous bool) {
	if c.by == "" {
		c.by = r
	}
	c.continuous = c.continuous || continuous
}

// histories sorts a catalog by systems, and each system's backups.
func histories(c *Catalog) []*history {
	bySystem := make(map[string]*history)
	at := func(system string) *history {
		if bySystem[system] == nil {
			bySystem[system] = &history{system: system, alive: c.Archived == nil}
		}
		return bySystem[system]
	}
	for _, b := range c.Backups {
		h := at(b.System)
		h.backups = append(h.backups, &candidate{Backup: b, rank: b.taken()})
		h.heard(b.age())
	}
	for _, p := range c.Open {
		at(p.System).alive = true
	}
	for system, h := range bySystem {
		h.heard(c.Archived[system])
	}
	list := make([]*history, 0, len(bySystem))
	for _, system := range sortedKeys(bySystem) {
		bySystem[system].sort()
		list = append(list, bySystem[system])
	}
	return list
}

func (h *history) heard(t time.Time) {
	if t.After(h.last) {
		h.last = t
	}
}

// sort ranks the backups of each timeline by where they start, and then all by
// rank.
func (h *history) sort() {
	byStart := func(a, b *candidate) int {
		return cmp.Or(cmp.Compare(a.Start, b.Start), preferOurs(a, b), a.taken().Compare(b.taken()),
			a.Stored.Compare(b.Stored), slices.Compare(a.Ref.Run[:], b.Ref.Run[:]), cmp.Compare(a.Ref.Name, b.Ref.Name))
	}
	slices.SortFunc(h.backups, byStart)
	latest := make(map[postgres.Timeline]time.Time)
	for _, b := range h.backups {
		if t := latest[b.Timeline]; t.After(b.rank) {
			b.rank = t
		}
		latest[b.Timeline] = b.rank
	}
	slices.SortFunc(h.backups, func(a, b *candidate) int { return cmp.Or(a.rank.Compare(b.rank), byStart(a, b)) })
}

// preferOurs puts a classic backup before one of ours that starts at the same
// place: it is the import of it.
func preferOurs(a, b *candidate) int {
	switch {
	case a.Classic == b.Classic:
		return 0
	case a.Classic:
		return -1
	}
	return 1
}

// newestGood returns the newest backup without page errors, else the newest.
func (h *history) newestGood() *candidate {
	for _, b := range slices.Backward(h.backups) {
		if b.good() {
			return b
		}
	}
	if len(h.backups) == 0 {
		return nil
	}
	return h.backups[len(h.backups)-1]
}

// endHistories finds the histories that have ended: nothing was heard of them
// since limit (zero: at any time), and after that another one got so many good
// backups. The one of which was heard last never has.
func endHistories(list []*history, backups int, limit time.Time) {
	for _, h := range list {
		if h.alive || !limit.IsZero() && !h.last.Before(limit) {
			continue
		}
		h.ended = slices.ContainsFunc(list, func(other *history) bool {
			return other != h && other.goodSince(h.last) >= backups
		})
	}
}

// goodSince counts the names of backups without page errors that were taken
// after t.
func (h *history) goodSince(t time.Time) int {
	names := make(map[string]bool)
	for _, b := range h.backups {
		if b.good() && b.taken().After(t) {
			names[b.Ref.Name] = true
		}
	}
	return len(names)
}

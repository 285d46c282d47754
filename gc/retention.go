package gc

import (
	"time"

	"wal-e/chunkstore"
	"wal-e/internal/fault"
	"wal-e/internal/postgres"
)

// Retention decides which backups a user wants to keep. Nothing in the files
// retention*.go writes to the store: a Policy and a Catalog give a Plan, and
// Delete and Collect carry that out.
//
// How backups are ordered. Backups of one system identifier and timeline are
// ordered by where they start in the WAL, all others by the time they were
// taken, never by the number of a timeline: after pg_upgrade, or on a new
// primary, numbers begin anew. A time counts at most as late as the store says
// that the backup was stored, and at least as late as that of a backup before
// it on its timeline, so a clock that is wrong can't put backups out of order.
//
// Each system identifier is a history of its own, and rules count within it.
// One that goes on always keeps its newest backup without page errors, and a
// history has ended when nothing was heard of it (no backup, no WAL, no open
// push) while another one got as many backups as the rules keep: after
// pg_upgrade the old cluster's backups stay until the new one has as many of
// its own, and then they go, with their WAL. Two clusters under one prefix
// don't count against each other, for both archive WAL.

// A Backup is what retention needs to know of a valid backup.
type Backup struct {
	Ref      chunkstore.Ref // of a classic one, with a run of zeros
	System   string         // system identifier; "" for a classic backup of which nobody can tell
	Timeline postgres.Timeline
	Start    postgres.LSN
	Stop     postgres.LSN
	// SegmentSize is that of the WAL; 0 means 16 MB.
	SegmentSize postgres.SegmentSize
	Taken       time.Time // when it was stopped, by the clock of its host
	Stored      time.Time // when its outcome was stored, by the store's clock; zero: not known
	// PageFailures is how many pages had wrong checksums.
	PageFailures int64
	Classic      bool // of the classic layout
}

func (b Backup) good() bool { return b.PageFailures == 0 }

func (b Backup) segmentSize() postgres.SegmentSize {
	if b.SegmentSize == 0 {
		return postgres.DefaultSegmentSize
	}
	return b.SegmentSize
}

// segment is the number of the segment in which the backup starts.
func (b Backup) segment() uint64 {
	return postgres.SegmentAt(b.Timeline, b.Start, b.segmentSize()).No
}

// taken is when the backup was taken, as far as its host is believed.
func (b Backup) taken() time.Time {
	if !b.Stored.IsZero() && b.Stored.Before(b.Taken) {
		return b.Stored
	}
	return b.Taken
}

// age is the time that says how old the backup is: the later of when it was
// taken and when it was stored. A host can lie about the one, not about the
// other.
func (b Backup) age() time.Time {
	if b.Stored.After(b.Taken) {
		return b.Stored
	}
	return b.taken()
}

// An OpenPush is a push that may still become a backup. It doesn't count as
// one, but the WAL that it will need is kept.
type OpenPush struct {
	Ref    chunkstore.Ref
	System string
	Start  postgres.LSN
}

// A Catalog is all that retention looks at.
type Catalog struct {
	Backups []Backup
	Open    []OpenPush
	Keeps   map[chunkstore.Ref]Keep // marks by which a backup is kept, those that ran out too
	// Archived is when the newest WAL of a system was stored, by the store's
	// clock. Nil means not known: then every history counts as going on.
	Archived map[string]time.Time

	outcomes map[chunkstore.Ref]*outcome // as they were read, for the collection that follows
}

// A Policy says which backups are kept: those that one of its rules keeps.
// Before, Everything and the others exclude each other; KeepWithin goes with
// all.
type Policy struct {
	// Before deletes what is older than a backup or a segment.
	Before *Position
	// Everything deletes all backups, or fails when some are protected.
	Everything bool

	// Retain keeps the newest backups of each system. Those of one name count
	// once, and only the newest of them stays, and the newest without page
	// errors.
	Retain int
	// RetainFor keeps what was taken since, and the backup before that from
	// which the moments until the next one are restored.
	RetainFor time.Duration
	// Daily, Weekly and Monthly keep, for so many of the last calendar days,
	// ISO weeks and months (in UTC) in which a backup was taken, the newest
	// backup of each, if there is one then one without page errors.
	Daily, Weekly, Monthly int
	// PITR keeps like RetainFor. Of backups beyond just the WAL is kept that
	// makes them consistent, so any moment since can be restored, and before
	// that only the backups themselves. 0 keeps all WAL since the oldest backup
	// that a rule keeps.
	PITR time.Duration

	// KeepWithin is a floor: no rule deletes what was taken or stored since, or
	// what is needed to restore a moment since. A host that may only append
	// can't get good backups deleted by pushing many, or by lying about times.
	KeepWithin time.Duration
}

// Check returns an error unless the policy makes sense.
func (p Policy) Check() error {
	for _, n := range []struct {
		name  string
		value int
	}{{"retain", p.Retain}, {"--daily", p.Daily}, {"--weekly", p.Weekly}, {"--monthly", p.Monthly}} {
		if n.value < 0 {
			return fault.Usage.Errorf("%s %d: want a number of backups to keep, at least 1", n.name, n.value)
		}
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"retain", p.RetainFor}, {"--pitr", p.PITR}, {"--keep-within", p.KeepWithin}} {
		if d.value < 0 {
			return fault.Usage.Errorf("%s %s: want a period such as 14d", d.name, d.value)
		}
	}
	switch {
	case p.Before != nil && (p.Everything || p.keepsByAge()):
		return fault.Usage.Errorf("before goes with no other rule but --keep-within")
	case p.Everything && p.keepsByAge():
		return fault.Usage.Errorf("everything goes with no rule that keeps backups")
	case p.Before == nil && !p.Everything && !p.keepsByAge():
		return fault.Usage.Errorf("no rule says what to keep: want retain N, retain 14d, --daily, --weekly, --monthly or --pitr")
	}
	return nil
}

func (p Policy) keepsByAge() bool {
	return p.Retain != 0 || p.RetainFor != 0 || p.Daily != 0 || p.Weekly != 0 || p.Monthly != 0 || p.PITR != 0
}

// most is how many backups the policy keeps at most by one rule that counts.
func (p Policy) most() int { return max(1, p.Retain, p.Daily, p.Weekly, p.Monthly) }

// longest is the longest of the policy's periods.
func (p Policy) longest() time.Duration { return max(p.RetainFor, p.PITR, p.KeepWithin) }

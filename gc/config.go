package gc

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	"wal-e/chunkstore"
	"wal-e/internal/postgres"
	"wal-e/internal/progress"
	"wal-e/internal/storage"
)

// Config says what to collect and how. Bucket is required; the zero value of
// the rest works.
type Config struct {
	Bucket storage.Bucket
	Host   string // for people

	// DryRun reports what would be done and writes nothing at all.
	DryRun bool
	// Catalog is what ReadCatalog read of the bucket before, if anything: backups
	// in it aren't read again. They never change, so they count as what they
	// were; which of them still stand, and which others, is looked up anew.
	Catalog *Catalog
	// Clock is the store's, as Probe gave it lately; zero: Collect probes.
	Clock time.Time
	// Deleting, when not nil, is called for each pack and WAL file before it is
	// removed, or in a dry run for each that would be removed at once.
	Deleting func(key string)
	// Progress shows the removal; nil: nobody looks.
	Progress *progress.Meter
	// Wait waits for the pushes that block, looking again every Poll.
	Wait bool
	Poll time.Duration // 0 means 10 s
	// AbortRunning ends the pushes that block instead of waiting.
	AbortRunning bool
	// FenceAfter is how long a push may show no sign of life, by the store's
	// clock, before it is ended; 0 means 24 hours, negative means never.
	FenceAfter time.Duration

	// Grace keeps what backups need that were deleted less than so long ago, by
	// the store's clock, so that Undelete works.
	Grace time.Duration
	// Ranges names valid backups beyond the window of point-in-time recovery:
	// of each just the WAL from its start to its stop is kept.
	Ranges []chunkstore.Ref
	// Floors says of systems from where on their WAL is needed by what isn't a
	// run: by backups of the classic layout. It only ever keeps more.
	Floors map[string]postgres.LSN
	// Ended are systems of which retention found that they have ended.
	Ended []EndedSystem
	// Everything removes also what unfinished pushes left for the next one, and
	// all files of WAL archives that no backup needs.
	Everything bool

	// Exclusive is the operator's word that nothing else uses the prefix, for
	// weak stores: those that don't keep the promises of storage.Bucket. Settle
	// is the weaker way: how long a listing may lag behind such a store at most;
	// 0 means a minute when storage.Weakness knows of one, whatever a probe
	// shows. A collection waits for twice as long, each time it must see what
	// others wrote.
	Exclusive bool
	Settle    time.Duration

	Requests int       // at once; 0 means 16
	Rand     io.Reader // for names; nil means the system's
	Log      *slog.Logger
	Now      func() time.Time                           // for people and names; nil means time.Now
	Sleep    func(context.Context, time.Duration) error // nil waits

	skip skipped
}

// skipped are steps of the protocol that tests leave out, to see that they
// notice. A program can't set any.
type skipped struct {
	packsFirst    bool // G1 lists packs before runs
	ownPacks      bool // G1 spares packs of open runs
	markFirst     bool // G2 comes before G3
	grace         bool // G4 waits at all
	keepCopied    bool // G7 keeps the marks of packs that were copied
	abort         bool // G4 ends a stalled run by its outcome
	freshList     bool // G5 lists the runs anew
	rereadAll     bool // G5 reads backups that G1 didn't know
	failClosed    bool // G5 stops when an outcome can't be read
	intentFirst   bool // G7 removes the intent before the outcome
	tombstoneLast bool // G7 removes a tombstone after all else
	noPardon      bool // a condemnation is never taken back
	secondGrace   bool // G7 removes marks only while no run is open
	packsGone     bool // G7 keeps marks and runs while packs are left
	namedPacks    bool // G7 keeps marks of packs that an outcome names
	horizonMark   bool // G2 writes the WAL horizon into the mark
	horizonFresh  bool // G5 computes the WAL horizon anew
	keepHorizon   bool // G7 keeps the highest WAL horizon
	intentCheck   bool // G7 makes sure that litter has no intent
}

func (c *Config) setDefaults() error {
	if c.Bucket == nil {
		return errors.New("gc: internal error: no bucket")
	}
	if c.Poll <= 0 {
		c.Poll = 10 * time.Second
	}
	if c.FenceAfter == 0 {
		c.FenceAfter = 24 * time.Hour
	}
	if c.Requests <= 0 {
		c.Requests = 16
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Sleep == nil {
		c.Sleep = sleep
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

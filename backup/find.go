package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"wal-e/chunkstore"
	"wal-e/internal/fault"
	"wal-e/internal/postgres"
	"wal-e/internal/storage"
)

// A Backup is a valid backup of an archive.
type Backup struct {
	Ref          chunkstore.Ref
	Manifest     *Manifest
	Footprint    chunkstore.Footprint
	LastModified time.Time // of its outcome, by the store's clock

	// Unreadable says of runs why they couldn't be read, which may have been
	// meant by the query. A newer backup may be among them.
	Unreadable []error

	sealed *chunkstore.Outcome // of an encrypted one; see Open
}

// lsns returns where the backup starts and stops; parseManifest checked both.
func (b *Backup) lsns() (start, stop postgres.LSN) {
	start, _ = postgres.ParseLSN(b.Manifest.StartLSN)
	stop, _ = postgres.ParseLSN(b.Manifest.StopLSN)
	return start, stop
}

// walNames returns the segments that the backup needs to be consistent.
func (b *Backup) walNames() []string {
	start, stop := b.lsns()
	size := postgres.SegmentSize(b.Manifest.SegmentSize)
	var names []string
	for seg := range postgres.Segments(b.Manifest.Timeline, start, stop, size) {
		names = append(names, seg.Name(size))
	}
	return names
}

// FindConfig says which backup is wanted. Bucket and Query are required.
type FindConfig struct {
	Bucket storage.Bucket
	Query  string // LATEST, NAME, or NAME@RUN
	// System is the cluster's system identifier; "" means that there is only
	// one among those that Query names.
	System string
	// Recover narrows LATEST to backups from which its target can be reached.
	Recover *RecoverConfig
}

// Find returns the backup that a query names. NAME is the newest valid run of
// that name; NAME@RUN one run; LATEST is the backup that was taken last by the
// clock of its server, whenever it was stored, and with a recovery target the
// last one that was complete before the target.
//
// Two clusters in one prefix are never chosen between: when the query fits
// backups of several, and System says none of them, Find fails and lists them.
// After pg_upgrade that costs a flag until the old backups are gone; guessing
// could restore the wrong cluster.
//
// A backup that isn't there gives an error that wraps storage.ErrNotExist, a
// query that is none one that wraps ErrBadQuery.
func Find(ctx context.Context, cfg FindConfig) (*Backup, error) {
	q, err := parseQuery(cfg.Query)
	if err != nil {
		return nil, err
	}
	if cfg.Query == "" {
		return nil, fmt.Errorf("%q is %w: want LATEST, NAME, or NAME@RUN", cfg.Query, ErrBadQuery)
	}
	if cfg.Recover != nil {
		if err := cfg.Recover.checkQuery(q); err != nil {
			return nil, err
		}
	}
	read := q
	read.latest = false // of which cluster, and before which target, is decided here
	valid, damage, err := readBackups(ctx, cfg.Bucket, read)
	if err != nil {
		return nil, err
	}
	unreadable, err := sortDamage(damage)
	if err != nil {
		return nil, err
	}
	found := make([]*Backup, 0, len(valid))
	for _, v := range valid {
		found = append(found, &Backup{
			Ref: v.ref, Manifest: v.manifest, Footprint: v.footprint, LastModified: v.outcome.ModTime, Unreadable: unreadable, sealed: v.sealed,
		})
	}
	if found, err = cfg.oneSystem(found); err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, cfg.notFound(ctx, q, unreadable)
	}
	if q.latest && cfg.Recover != nil {
		return cfg.Recover.choose(ctx, found)
	}
	if q.latest {
		return slices.MaxFunc(found, compareTaken), nil
	}
	return slices.MaxFunc(found, compareRuns), nil
}

// compareTaken orders backups by when they were taken.
func compareTaken(a, b *Backup) int {
	return cmp.Or(a.Manifest.Stopped.Compare(b.Manifest.Stopped), compareRuns(a, b))
}

func compareRuns(a, b *Backup) int { return slices.Compare(a.Ref.Run[:], b.Ref.Run[:]) }

// sortDamage returns what is wrong with outcomes; that the store can't be read
// is an error.
func sortDamage(damage []damagedRun) ([]error, error) {
	var errs []error
	for _, d := range damage {
		if !isDamage(d.err) {
			return nil, d.err
		}
		errs = append(errs, d.err)
	}
	return errs, nil
}

// oneSystem leaves the backups of one cluster.
func (cfg FindConfig) oneSystem(found []*Backup) ([]*Backup, error) {
	if cfg.System != "" {
		return slices.DeleteFunc(found, func(b *Backup) bool { return b.Manifest.System != cfg.System }), nil
	}
	newest := make(map[string]*Backup)
	for _, b := range found {
		if n := newest[b.Manifest.System]; n == nil || compareTaken(n, b) < 0 {
			newest[b.Manifest.System] = b
		}
	}
	if len(newest) < 2 {
		return found, nil
	}
	var lines []string
	for _, system := range slices.Sorted(maps.Keys(newest)) {
		b := newest[system]
		lines = append(lines, fmt.Sprintf("%s (newest %s, taken %s on host %q)",
			system, b.Ref, b.Manifest.Stopped.UTC().Format(time.RFC3339), b.Manifest.Host))
	}
	return nil, fault.Ambiguous.Errorf("%s is ambiguous: %s holds backups of several clusters that it fits; choose one with --system: %s",
		cfg.Query, cfg.Bucket.URL(), strings.Join(lines, ", "))
}

// notFound says why there is no such backup.
func (cfg FindConfig) notFound(ctx context.Context, q query, unreadable []error) error {
	if len(unreadable) > 0 {
		return fmt.Errorf("backup %s: none that can be read: %w", cfg.Query, errors.Join(unreadable...))
	}
	of := ""
	if cfg.System != "" {
		of = " of system " + cfg.System
	}
	if q.latest {
		return fmt.Errorf("no backup%s in %s: %w", of, cfg.Bucket.URL(), storage.ErrNotExist)
	}
	runs, err := chunkstore.Runs(ctx, cfg.Bucket)
	if err != nil {
		return err
	}
	for _, r := range runs {
		switch {
		case !q.matches(r.Ref):
		case r.Deleted != nil:
			return fmt.Errorf("backup %s was deleted at %s: %w", r.Ref, r.Deleted.ModTime.UTC().Format(time.RFC3339), storage.ErrNotExist)
		case r.Open():
			return fmt.Errorf("backup %s isn't complete: its push has not ended: %w", r.Ref, storage.ErrNotExist)
		}
	}
	return fmt.Errorf("no backup %s%s in %s: %w", cfg.Query, of, cfg.Bucket.URL(), storage.ErrNotExist)
}

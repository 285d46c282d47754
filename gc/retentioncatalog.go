package gc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"wal-e/chunkstore"
	"wal-e/internal/postgres"
	"wal-e/internal/storage"
)

// ReadCatalog reads what retention looks at, with one request for each backup,
// so many at once (0 means 16). What can't be read or verified is an error: it
// might be what others are judged by. classic are the valid backups of the
// classic layout.
func ReadCatalog(ctx context.Context, b storage.Bucket, requests int, classic []Backup) (*Catalog, error) {
	if requests <= 0 {
		requests = 16
	}
	runs, err := chunkstore.Runs(ctx, b)
	if err != nil {
		return nil, err
	}
	backups, pushes := make([]*foundBackup, len(runs)), make([]*OpenPush, len(runs))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(requests)
	for i, r := range runs {
		switch {
		case r.Ended():
			g.Go(func() (err error) { backups[i], err = readBackup(gctx, b, r); return err })
		case r.Open():
			g.Go(func() (err error) { pushes[i], err = readOpenPush(gctx, b, r.Ref); return err })
		}
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	c := &Catalog{Backups: slices.Clone(classic), outcomes: make(map[chunkstore.Ref]*outcome)}
	for i := range runs {
		if backups[i] != nil {
			c.Backups = append(c.Backups, backups[i].backup)
			c.outcomes[runs[i].Ref] = backups[i].outcome
		}
		if pushes[i] != nil {
			c.Open = append(c.Open, *pushes[i])
		}
	}
	if c.Keeps, err = ReadKeeps(ctx, b); err != nil {
		return nil, err
	}
	c.Archived, err = readArchived(ctx, b, c.Backups)
	return c, err
}

// A foundBackup is a backup, and what a collection keeps of its outcome.
type foundBackup struct {
	backup  Backup
	outcome *outcome
}

// readBackup reads the backup of a run, or nil when it is none or was removed
// since it was listed.
func readBackup(ctx context.Context, b storage.Bucket, r chunkstore.Run) (*foundBackup, error) {
	o, err := chunkstore.ReadOutcome(ctx, b, r.Ref)
	if errors.Is(err, storage.ErrNotExist) {
		if _, serr := b.Stat(ctx, r.IntentKey()); errors.Is(serr, storage.ErrNotExist) {
			return nil, nil
		}
	}
	if err != nil {
		return nil, err
	}
	if o.Result != chunkstore.Commit {
		return nil, nil
	}
	read := &foundBackup{}
	if read.outcome, err = newOutcome(o); err == nil {
		read.backup, err = newBackup(r.Ref, o, read.outcome, r.Outcome.ModTime)
	}
	if err != nil {
		return nil, fmt.Errorf("%s of %s: %w", r.OutcomeKey(), b.URL(), err)
	}
	return read, nil
}

func readOpenPush(ctx context.Context, b storage.Bucket, ref chunkstore.Ref) (*OpenPush, error) {
	i, err := chunkstore.ReadIntent(ctx, b, ref)
	if errors.Is(err, storage.ErrNotExist) {
		return nil, nil // ended and removed since it was listed
	}
	if err != nil {
		return nil, err
	}
	start, err := postgres.ParseLSN(i.Start)
	if err != nil {
		return nil, fmt.Errorf("%s of %s: %w: %w", ref.IntentKey(), b.URL(), chunkstore.ErrDamaged, err)
	}
	return &OpenPush{Ref: ref, System: i.System, Start: start}, nil
}

// NewBackup takes what retention needs from the outcome of a run that
// committed, which was stored at a time by the store's clock.
func NewBackup(ref chunkstore.Ref, o *chunkstore.Outcome, stored time.Time) (Backup, error) {
	read, err := newOutcome(o)
	if err != nil {
		return Backup{}, err
	}
	return newBackup(ref, o, read, stored)
}

func newBackup(ref chunkstore.Ref, o *chunkstore.Outcome, read *outcome, stored time.Time) (Backup, error) {
	var m struct {
		Timeline postgres.Timeline `json:"timeline"`
		Stopped  time.Time         `json:"stopped"`
		Pages    struct {
			Failed int64 `json:"failed"`
		} `json:"page_checksums"`
	}
	if err := json.Unmarshal(o.Manifest, &m); err != nil {
		return Backup{}, fmt.Errorf("manifest: %w: %w", chunkstore.ErrDamaged, err)
	}
	if m.Stopped.IsZero() {
		return Backup{}, fmt.Errorf("manifest: %w: it doesn't say when the backup was taken", chunkstore.ErrDamaged)
	}
	return Backup{
		Ref: ref, System: o.System, Timeline: m.Timeline,
		Start: read.needs.start, Stop: read.needs.stop, SegmentSize: read.needs.size,
		Taken: m.Stopped, Stored: stored, PageFailures: m.Pages.Failed,
	}, nil
}

// classicWALDir is the folder of WAL files in the classic layout, which knows no
// systems.
const classicWALDir = "wal_005/"

// readArchived finds out when the newest WAL of each system with backups was
// stored. Where there is only one system nobody asks, and it lists nothing.
func readArchived(ctx context.Context, b storage.Bucket, backups []Backup) (map[string]time.Time, error) {
	archived := make(map[string]time.Time)
	for _, backup := range backups {
		archived[backup.System] = time.Time{}
	}
	if len(archived) < 2 {
		return archived, nil
	}
	for system := range archived {
		dir := walDir + system + "/"
		if system == "" {
			dir = classicWALDir
		}
		for o, err := range b.List(ctx, dir, "") {
			if err != nil {
				return nil, err
			}
			if o.ModTime.After(archived[system]) {
				archived[system] = o.ModTime
			}
		}
	}
	return archived, nil
}

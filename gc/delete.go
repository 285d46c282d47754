package gc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"wal-e/chunkstore"
	"wal-e/internal/postgres"
	"wal-e/internal/storage"
)

// ErrNotBackup is wrapped when a run isn't a backup that stands.
var ErrNotBackup = errors.New("is not a backup")

// Delete deletes backups, for good but for Undelete, and then collects. It is
// durable in the store before anything is removed.
func Delete(ctx context.Context, cfg Config, refs []chunkstore.Ref) (*Report, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	refs, err := checkBackups(ctx, cfg, refs)
	if err != nil {
		return nil, err
	}
	if !cfg.DryRun {
		if err := createTombstones(ctx, cfg, refs); err != nil {
			return nil, err
		}
	}
	report, err := collect(ctx, cfg, refs)
	if report != nil {
		report.Backups = append(report.Backups, refs...)
	}
	return report, err
}

func createTombstones(ctx context.Context, cfg Config, refs []chunkstore.Ref) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(cfg.Requests)
	t := chunkstore.Tombstone{Host: cfg.Host, Deleted: cfg.Now().UTC()}
	for _, ref := range refs {
		g.Go(func() error {
			if err := chunkstore.CreateTombstone(ctx, cfg.Bucket, ref, t); err != nil {
				return fmt.Errorf("delete backup %s: %w", ref, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// checkBackups makes sure that refs are runs that ended. Deleted ones pass: a
// delete may be repeated. It leaves out those that the catalog has and that are
// gone: others have deleted and collected them since.
func checkBackups(ctx context.Context, cfg Config, refs []chunkstore.Ref) ([]chunkstore.Ref, error) {
	if len(refs) == 0 {
		return nil, nil
	}
	runs, err := chunkstore.Runs(ctx, cfg.Bucket)
	if err != nil {
		return nil, err
	}
	there := make(map[chunkstore.Ref]chunkstore.Run)
	for _, r := range runs {
		there[r.Ref] = r
	}
	var checked []chunkstore.Ref
	for _, ref := range refs {
		r, ok := there[ref]
		switch {
		case !ok && cfg.Catalog != nil && cfg.Catalog.outcomes[ref] != nil:
			continue
		case !ok:
			return nil, fmt.Errorf("%s %w in %s", ref, ErrNotBackup, cfg.Bucket.URL())
		case r.Deleted == nil && r.Outcome == nil:
			return nil, fmt.Errorf("%s %w yet: its push is still open", ref, ErrNotBackup)
		}
		checked = append(checked, ref)
	}
	return checked, nil
}

// An Undeletion says how a backup is taken back. Bucket is required.
type Undeletion struct {
	Bucket  storage.Bucket
	Host    string
	Program string
	Now     func() time.Time // nil means time.Now
}

// Undelete takes a deleted backup back and returns its new run. It fails when
// what the backup needs is gone or condemned.
func Undelete(ctx context.Context, cfg Undeletion, ref chunkstore.Ref) (chunkstore.Ref, error) {
	return chunkstore.Readopt(ctx, cfg.Bucket, ref, chunkstore.Readoption{
		Host: cfg.Host, Program: cfg.Program, Now: cfg.Now,
		WAL: func(ctx context.Context, o *chunkstore.Outcome) error { return walPresent(ctx, cfg.Bucket, o) },
	})
}

// walPresent makes sure that every segment that a backup needs is stored, unless
// the backup carries its own.
func walPresent(ctx context.Context, b storage.Bucket, o *chunkstore.Outcome) error {
	read, err := newOutcome(o)
	if err != nil {
		return err
	}
	var m struct {
		Kind     string            `json:"kind"`
		Timeline postgres.Timeline `json:"timeline"`
	}
	if err := json.Unmarshal(o.Manifest, &m); err != nil {
		return fmt.Errorf("manifest: %w: %w", chunkstore.ErrDamaged, err)
	}
	if m.Kind == "offline" {
		return nil
	}
	for s := range postgres.Segments(m.Timeline, read.needs.start, read.needs.stop, read.needs.size) {
		key := walDir + o.System + "/" + s.Name(read.needs.size)
		if _, err := b.Stat(ctx, key); err != nil {
			return fmt.Errorf("WAL segment %s that the backup needs: %w", key, err)
		}
	}
	return nil
}

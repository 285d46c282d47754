package backup

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"wal-e/chunkstore"
	"wal-e/internal/storage"
)

// ErrDeleted is wrapped by Fetch when the backup was deleted meanwhile.
var ErrDeleted = errors.New("was deleted while it was fetched")

// explain adds to an error what the operator needs to go on.
func (f *fetcher) explain(ctx context.Context, err error) error {
	again := ""
	if f.began || f.marker != nil {
		again = fmt.Sprintf("; %s is unfinished, and the same command goes on with it", f.dir)
	}
	switch {
	case ctx.Err() != nil:
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%w: the disk is full: make room%s", err, again)
	case isDamage(err):
		return f.explainDamage(ctx, err)
	}
	return fmt.Errorf("%w%s", err, again)
}

// explainDamage says whether the backup was deleted, and else which other backups
// are hit.
func (f *fetcher) explainDamage(ctx context.Context, err error) error {
	b := f.cfg.Store.Bucket()
	runs, lerr := chunkstore.Runs(ctx, b)
	if lerr != nil {
		return fmt.Errorf("%w (which backups are concerned isn't known: %w)", err, lerr)
	}
	left := ""
	if f.began || f.marker != nil {
		left = fmt.Sprintf("; what is in %s is no cluster: empty it, and fetch another backup", f.dir)
	}
	stands := false
	for _, r := range runs {
		if r.Ref != f.b.Ref {
			continue
		}
		stands = r.Ended()
		if r.Deleted != nil {
			return fmt.Errorf("backup %s %w, at %s: %w%s", f.b.Ref, ErrDeleted, r.Deleted.ModTime.UTC().Format(time.RFC3339), err, left)
		}
	}
	if !stands {
		return fmt.Errorf("backup %s %w: its catalog entry is gone: %w%s", f.b.Ref, ErrDeleted, err, left)
	}
	return fmt.Errorf("%w; concerned: %s%s", err, f.concerned(ctx, b, err), left)
}

// concerned names the backups that need the pack that err is about.
func (f *fetcher) concerned(ctx context.Context, b storage.Bucket, err error) string {
	names := []string{f.b.Ref.String()}
	pack := (*chunkstore.PackError)(nil)
	if !errors.As(err, &pack) {
		return names[0]
	}
	valid, damage, rerr := readBackups(ctx, b, query{})
	if rerr != nil {
		return names[0] + fmt.Sprintf(" (others aren't known: %v)", rerr)
	}
	for _, v := range valid {
		if v.ref != f.b.Ref && v.footprint.Has(pack.Pack) {
			names = append(names, v.ref.String())
		}
	}
	if len(damage) > 0 {
		names = append(names, fmt.Sprintf("%d backups that can't be read", len(damage)))
	}
	if len(names) == 1 {
		return names[0] + " only"
	}
	return strings.Join(names, ", ")
}

package main

import (
	"context"
	"fmt"
	"time"

	"wal-e/backup"
	"wal-e/internal/storage"
)

// secondWithin is how long ago the last copy, or backup that stands alone, may
// be. Backups share what they store, so without either one damaged pack can
// spoil all of them.
const secondWithin = 30 * 24 * time.Hour

// A secondSet is what there is beside backups that share their packs.
type secondSet struct {
	Copy  *copyNote  // the last one that was recorded; nil: none
	Fresh *time.Time // when the newest backup was stored that needs no packs of others, if lately; by the store's clock
	Since time.Time  // since when there are backups; zero without any
}

// findSecond looks for the last copy and the last fresh backup.
func findSecond(ctx context.Context, b storage.Bucket, c *backup.Catalog, now time.Time) (*secondSet, error) {
	last, err := lastCopy(ctx, b)
	if err != nil {
		return nil, err
	}
	first, alone := c.Stored()
	s := &secondSet{Copy: last, Since: first}
	if !alone.IsZero() && now.Sub(alone) <= secondWithin {
		s.Fresh = &alone
	}
	return s, nil
}

// missing says what is wrong, or "".
func (s *secondSet) missing(now time.Time) string {
	days := int(secondWithin.Hours() / 24)
	switch {
	case s.Since.IsZero() || now.Sub(s.Since) <= secondWithin || s.Fresh != nil || s.Copy != nil && now.Sub(s.Copy.At) <= secondWithin:
		return ""
	case s.Copy != nil:
		return fmt.Sprintf("the last copy, to %s, is %d days old, and no backup of the last %d days stands alone: one damaged pack can spoil all of them",
			s.Copy.To, int(now.Sub(s.Copy.At).Hours()/24), days)
	}
	return fmt.Sprintf("there is no copy, and no backup of the last %d days stands alone: one damaged pack can spoil all of them", days)
}

const todoSecond = "Copy the archive with `wal-e copy --to PREFIX --wal`, or store a backup anew with `wal-e backup-push --fresh`, and do so every few weeks."

// second reads when the archive was copied last.
func (r *statusReport) second(ctx context.Context, b storage.Bucket) error {
	s, err := findSecond(ctx, b, r.catalog, r.now)
	if err != nil {
		return err
	}
	if r.Fresh = s.Fresh; s.Copy != nil {
		r.Copy, r.copied = s.Copy, s.Copy
	}
	if text := s.missing(r.now); text != "" {
		r.problem(todoSecond, "%s", text)
	}
	return nil
}

// secondText is the line of status about copies.
func (r *statusReport) secondText(ago func(time.Time) string) string {
	const label = "last copy         "
	switch c := r.copied; {
	case c != nil && c.WAL:
		return fmt.Sprintf("%s%s, with WAL, to %s\n", label, ago(c.At), c.To)
	case c != nil:
		return fmt.Sprintf("%s%s, without WAL, to %s\n", label, ago(c.At), c.To)
	case r.Fresh != nil:
		return fmt.Sprintf("%snone; a backup that stands alone was stored %s\n", label, ago(*r.Fresh))
	}
	return label + "none: `wal-e copy` makes a second archive\n"
}

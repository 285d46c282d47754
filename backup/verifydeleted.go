package backup

import (
	"context"
	"slices"

	"wal-e/chunkstore"
)

// forgetDeleted takes back what is wrong with backups that were deleted while they
// were verified: their packs and their WAL go, and that is no damage. A collection
// removes a tombstone last, when nothing of the backup is left. What concerns other
// backups, too, stays.
func (v *verifier) forgetDeleted(ctx context.Context) error {
	concerned := make(map[string]bool)
	for _, p := range v.problems.objects {
		for _, ref := range p.Backups {
			concerned[ref] = true
		}
	}
	if len(concerned) == 0 {
		return nil
	}
	runs, err := chunkstore.Runs(ctx, v.cfg.Bucket)
	if err != nil {
		return err
	}
	for _, r := range runs {
		if r.Deleted == nil && (r.Intent != nil || r.Outcome != nil) {
			delete(concerned, r.Ref.String())
		}
	}
	gone := func(ref string) bool { return concerned[ref] }
	for object, p := range v.problems.objects {
		if before := len(p.Backups); before > 0 {
			p.Backups = slices.DeleteFunc(p.Backups, gone)
			if len(p.Backups) == 0 {
				delete(v.problems.objects, object)
			}
		}
	}
	v.report.Backups = slices.DeleteFunc(v.report.Backups, func(b VerifiedBackup) bool {
		return gone(chunkstore.Ref{Name: b.Name, Run: b.Run}.String())
	})
	for ref := range concerned {
		v.cfg.Log.InfoContext(ctx, "backup was deleted while it was verified", "backup", ref)
	}
	return nil
}

package gc

import (
	"context"
	"errors"
	"slices"

	"wal-e/chunkstore"
	"wal-e/internal/runid"
	"wal-e/internal/storage"
)

// copies finds the copies under way from another prefix, and those that ended
// without a backup and that the next copy will go on with: as with pushes, the
// ones that are younger than the newest backup of their system. It returns them
// and the packs that they need. What they stored stands under the names of other
// runs, and could not be stored a second time once it was condemned.
func (c *collector) copies(ctx context.Context, v *view) (map[runid.ID]bool, chunkstore.Footprint, error) {
	var packs chunkstore.Footprint
	unfinished := make(map[runid.ID]bool)
	if !c.takesCopies {
		return unfinished, packs, nil
	}
	newest := newestBackups(v)
	for _, r := range v.runs {
		i := r.intent
		switch {
		case r.state == aborted && !c.cfg.Everything:
			var err error
			i, err = c.reader.readIntent(ctx, r.Ref)
			if errors.Is(err, storage.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, packs, err
			}
			if n, ok := newest[i.System]; ok && slices.Compare(r.Ref.Run[:], n.Run[:]) < 0 {
				continue
			}
		case r.state != open:
			continue
		}
		if i != nil && i.Copies != nil {
			packs.Union(i.Copies)
			unfinished[r.Ref.Run] = true
		}
	}
	return unfinished, packs, nil
}

// newestBackups returns the newest valid backup of each system.
func newestBackups(v *view) map[string]chunkstore.Ref {
	newest := make(map[string]chunkstore.Ref)
	for _, r := range v.of(valid) {
		if n, ok := newest[r.outcome.system]; !ok || chunkstore.CompareRefs(n, r.Ref) < 0 {
			newest[r.outcome.system] = r.Ref
		}
	}
	return newest
}

package backup

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"wal-e/chunkstore"
	"wal-e/index"
	"wal-e/internal/runid"
	"wal-e/internal/storage"
)

// What a repair came to.
const (
	RepairRestored = "restored" // the object is whole again
	RepairRebuilt  = "rebuilt"  // an index object was made from packs
	RepairRemoved  = "removed"  // a damaged index object, which others replace
	RepairAvoided  = "avoided"  // no new backup refers to it; the next push stores anew what it finds
	RepairNone     = "none"     // it can't be repaired
	repairOpenRun  = "its push is open, or was killed: the next push of its host ends it, and repair works then"
	repairNextPush = "the next backup-push doesn't refer to it and stores anew what still is in the cluster; the backups named stay damaged until it comes back with --from PREFIX, a copy"
	repairSource   = "this prefix takes copies: repair it with --from and the archive that is copied here; if clusters push here by now, push the next backup with --fresh, which refers to nothing that is stored"
	walProblem     = "WAL segment " // what objects of problems with WAL begin with
	repairOutside  = "only a copy of the archive has it: copy the object back"
)

// A Repair is what was done about one object.
type Repair struct {
	Object string `json:"object"`
	Result string `json:"result"`
	Text   string `json:"text"`
}

// repair repairs what was found wrong with packs and index objects of one epoch,
// whose store v has.
func (v *verifier) repair(ctx context.Context) error {
	if !v.cfg.Repair {
		return nil
	}
	runs, err := chunkstore.Runs(ctx, v.cfg.Bucket)
	if err != nil {
		return err
	}
	open, valid := make(map[runid.ID]bool), make(map[string]bool)
	for _, r := range runs {
		open[r.Ref.Run] = r.Open()
		valid[r.Ref.String()] = r.Ended()
	}
	if err := v.repairPacks(ctx, valid); err != nil {
		return err
	}
	// After packs came back, so that index objects cover them.
	sizes, err := v.store.PackSizes(ctx, v.needed.Runs())
	if err != nil {
		return err
	}
	for _, run := range v.needed.Runs() {
		if err := v.repairIndex(ctx, run, open[run], sizes); err != nil {
			return err
		}
	}
	return nil
}

// badNow lists the packs of this epoch that something is wrong with, and that a
// backup needs which still stands.
func (v *verifier) badNow(valid map[string]bool) []index.PackID {
	bad := make(map[index.PackID]bool)
	v.problems.mu.Lock()
	defer v.problems.mu.Unlock()
	for p := range v.needed.All() {
		o := v.problems.objects[chunkstore.PackKey(p)]
		if o != nil && slices.ContainsFunc(o.Backups, func(ref string) bool { return valid[ref] }) {
			bad[p] = true
		}
	}
	return slices.SortedFunc(maps.Keys(bad), func(a, b index.PackID) int {
		return strings.Compare(chunkstore.PackKey(a), chunkstore.PackKey(b))
	})
}

func (v *verifier) repairPacks(ctx context.Context, valid map[string]bool) error {
	copies, err := chunkstore.TakesCopies(ctx, v.cfg.Bucket)
	if err != nil {
		return err
	}
	var avoid []index.PackID
	for _, p := range v.badNow(valid) {
		key := chunkstore.PackKey(p)
		whole, stored, err := v.store.Whole(ctx, p)
		if err != nil {
			return err
		}
		if whole {
			continue // its index object is wrong
		}
		text := "no copy to take it from was named with --from; "
		if v.cfg.CopyFrom != nil {
			err := v.store.RestorePack(ctx, p, v.cfg.CopyFrom)
			if err == nil {
				v.repaired(key, RepairRestored, "it came back from "+v.cfg.CopyFrom.URL()+", and was read again")
				continue
			}
			if !errors.Is(err, chunkstore.ErrUnrepaired) && !errors.Is(err, storage.ErrPermission) {
				return err
			}
			text = err.Error() + "; "
		}
		if copies {
			// A mark would refuse each later copy of what needs the pack.
			v.repaired(key, RepairNone, text+repairSource)
			continue
		}
		if stored {
			avoid = append(avoid, p)
		}
		v.repaired(key, RepairAvoided, text+repairNextPush)
	}
	if _, err := chunkstore.Condemn(ctx, v.cfg.Bucket, avoid, v.cfg.Host, v.cfg.Now()); err != nil {
		return fmt.Errorf("keep new backups from damaged packs: %w", err)
	}
	return nil
}

func (v *verifier) repairIndex(ctx context.Context, run runid.ID, open bool, sizes map[index.PackID]int64) error {
	var packs []index.PackID
	for p := range v.needed.All() {
		if _, stored := sizes[p]; stored && p.Run == run {
			packs = append(packs, p)
		}
	}
	wrong := func(key string) bool {
		v.problems.mu.Lock()
		defer v.problems.mu.Unlock()
		return v.problems.objects[key] != nil
	}
	if open {
		damaged := false
		err := v.store.CheckIndex(ctx, run, func(key string, _ []index.Pack, damage error) {
			if damaged = damage != nil || wrong(key); damaged {
				v.repaired(key, RepairNone, repairOpenRun)
			}
		})
		return err
	}
	r, err := v.store.RepairIndex(ctx, run, packs, sizes, wrong)
	for _, key := range r.Created {
		v.repaired(key, RepairRebuilt, "made from the packs themselves")
	}
	for _, key := range r.Removed {
		v.repaired(key, RepairRemoved, "what it should say is in the packs, and in other index objects")
	}
	for _, key := range r.Kept {
		v.repaired(key, RepairNone, "it stays: the credentials lack the right to delete; readers of a damaged one go on with the packs; remove it with credentials that may, such as those of retention")
	}
	return err
}

// repairOthers says what can't be repaired, once all epochs were seen to.
func (v *verifier) repairOthers() {
	if !v.cfg.Repair || v.report.Mended {
		return
	}
	done := make(map[string]bool)
	for _, r := range v.report.Repairs {
		done[r.Object] = true
	}
	for _, p := range v.report.Problems {
		if done[p.Object] {
			continue
		}
		text := repairOutside
		if p.Text == errPlain.Error() {
			text = "delete it once encrypted backups have taken its place; if it is to be restored, allow backups in the clear"
		} else if strings.HasPrefix(p.Object, walProblem) {
			text = "only the server or a copy of the archive may still have it: push it again with wal-push"
		} else if strings.HasPrefix(p.Object, "chunks_006/packs/") {
			text = "the pack is whole, and its index object is wrong: run verify with --read-data --repair"
		}
		v.repaired(p.Object, RepairNone, text)
	}
}

func (v *verifier) repaired(object, result, text string) {
	v.report.Repairs = append(v.report.Repairs, Repair{Object: object, Result: result, Text: text})
}

// mended tells whether something was done about every damaged object, so that a
// second verification may find none: what files and lists cost by them, it looks at
// again.
func (v *verifier) mended() bool {
	done := len(v.report.Problems) > 0
	for _, r := range v.report.Repairs {
		done = done && r.Result != RepairAvoided && r.Result != RepairNone
	}
	for _, p := range v.report.Problems {
		done = done && !strings.HasPrefix(p.Object, walProblem)
	}
	return done && len(v.report.Repairs) > 0
}

// again verifies once more after a repair that mended all, for what couldn't be read
// before may have hidden other damage. Packs aren't read again: they were found
// whole, or restored and then read.
func (v *verifier) again(ctx context.Context) error {
	if !v.cfg.Repair || !v.mended() {
		return nil
	}
	cfg := v.cfg
	cfg.Repair, cfg.CopyFrom, cfg.ReadData, cfg.Record, cfg.Share, cfg.MissingWAL, cfg.ReadWAL = false, nil, false, false, Share{}, nil, nil
	second, err := Verify(ctx, cfg)
	if err != nil && !errors.Is(err, ErrProblems) {
		return fmt.Errorf("verify once more after the repair: %w", err)
	}
	v.report.Mended = err == nil
	v.report.Backups = second.Backups
	for _, p := range second.Problems {
		if !slices.ContainsFunc(v.report.Problems, func(old Problem) bool { return old.Object == p.Object }) {
			v.report.Problems = append(v.report.Problems, p)
		}
	}
	return nil
}

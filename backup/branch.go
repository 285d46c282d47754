package backup

import (
	"context"
	"errors"
	"fmt"

	"wal-e/internal/fault"
	"wal-e/internal/postgres"
	"wal-e/internal/storage"
)

// checkBranch refuses a standby that follows a timeline which has ended: after a
// fail-over the segment in which the next timeline began is archived on that one
// alone, so a backup that needs it would be read in full and then wait for it in
// vain. last is the number of the last segment that is known to be needed. While
// the standby lags behind the end of the timeline the backup may succeed, and where
// the timeline goes on, as it does beside a clone that was promoted, the archive
// has that segment.
func (p *pusher) checkBranch(ctx context.Context, tl postgres.Timeline, last uint64) error {
	if p.cfg.Timelines == nil {
		return nil
	}
	timelines, err := p.cfg.Timelines(ctx, p.system)
	if err != nil {
		return fmt.Errorf("look for timelines in the archive: %w", err)
	}
	size := p.control.WALSegmentSize
	for _, next := range timelines {
		if next <= tl {
			continue
		}
		h, err := p.cfg.History(ctx, p.system, next)
		if errors.Is(err, storage.ErrNotExist) {
			continue
		}
		if err != nil {
			p.log.WarnContext(ctx, "history of a timeline can't be read", "detail", err.Error(),
				"hint", "Whether this server follows a timeline that has ended isn't known; the push goes on.")
			continue
		}
		for _, a := range h.Ancestors {
			ended := postgres.SegmentAt(tl, a.Switch, size)
			if a.Timeline != tl || last < ended.No {
				continue
			}
			missing, err := p.cfg.MissingWAL(ctx, p.system, []string{ended.Name(size)})
			if err != nil {
				return fmt.Errorf("look for WAL in the archive: %w", err)
			}
			if len(missing) > 0 {
				return fault.WALMissing.Errorf("this standby follows timeline %d, which was left at %s for timeline %d: the backup needs segment %s, and the archive has it on the later timeline alone: "+
					"let the standby follow (recovery_target_timeline = 'latest', and a primary_conninfo or restore_command that leads there), or back up another server; "+
					"if the primary of timeline %d still runs, wait until it has archived that segment",
					tl, a.Switch, next, ended.Name(size), tl)
			}
		}
	}
	return nil
}

// lastNeeded is the number of the last segment that a backup of a standby is known
// to need when it begins: that of its start, and of the point up to which the data
// files are ahead.
func (p *pusher) lastNeeded(start postgres.LSN, tl postgres.Timeline) uint64 {
	size := p.control.WALSegmentSize
	last := postgres.SegmentAt(tl, start, size).No
	if ahead := p.control.MinRecoveryPoint; ahead > start && p.control.MinRecoveryTimeline == tl {
		last = max(last, postgres.SegmentBefore(tl, ahead, size).No)
	}
	return last
}

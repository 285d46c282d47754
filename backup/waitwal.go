package backup

import (
	"context"
	"fmt"
	"time"

	"wal-e/internal/fault"
	"wal-e/internal/postgres"
)

// Pauses while WAL is waited for, and how often the wait is told.
const (
	walPollFirst = 100 * time.Millisecond
	walPollMost  = 5 * time.Second
	walTell      = time.Minute
)

// A walWait waits until the archive has the segments of a backup. That the
// server calls them archived is no proof: an archive_command of /bin/true does
// as much. The prefix is asked.
type walWait struct {
	missing func(ctx context.Context, names []string) ([]string, error)
	// archiver says what the server's archiver last did, for people.
	archiver func(ctx context.Context) string
	tell     func(detail string)
	timeout  time.Duration
	hint     string
}

// wait returns when all segments from start to stop are there.
func (w walWait) wait(ctx context.Context, tl postgres.Timeline, start, stop postgres.LSN, size postgres.SegmentSize) error {
	var names []string
	for seg := range postgres.Segments(tl, start, stop, size) {
		names = append(names, seg.Name(size))
	}
	deadline := time.NewTimer(w.timeout)
	defer deadline.Stop()
	tell := time.NewTicker(walTell)
	defer tell.Stop()
	for pause := walPollFirst; ; pause = min(2*pause, walPollMost) {
		missing, err := w.missing(ctx, names)
		if err != nil {
			return fmt.Errorf("look for the backup's WAL in the archive: %w", err)
		}
		if len(missing) == 0 {
			return nil
		}
		names = missing // what is there stays there
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-deadline.C:
			return fault.WALMissing.Errorf("after %s the archive still lacks %d WAL segments that the backup needs, %s the first (%s): "+
				"%s; then run backup-push again, which uses what was stored", w.timeout, len(missing), missing[0], w.archiver(ctx), w.hint)
		case <-tell.C:
			w.tell(fmt.Sprintf("The archive lacks %d WAL segments that the backup needs, %s the first. %s.", len(missing), missing[0], w.archiver(ctx)))
		case <-time.After(pause):
		}
	}
}

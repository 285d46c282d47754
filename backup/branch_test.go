package backup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"wal-e/internal/postgres"
	"wal-e/internal/storage"
)

// A standby is refused when it needs the segment in which its timeline ended, and
// only then: not while it lags behind, nor where the timeline goes on beside a
// clone that was promoted, nor when it can't be told.
func TestCheckBranch(t *testing.T) {
	t.Parallel()
	const size = postgres.DefaultSegmentSize
	histories := map[postgres.Timeline]postgres.History{
		2: {Timeline: 2, Ancestors: []postgres.Ancestor{{Timeline: 1, Switch: 7*postgres.LSN(size) + 100}}},
		3: {Timeline: 3, Ancestors: []postgres.Ancestor{{Timeline: 1, Switch: 5 * postgres.LSN(size)}}},
		4: {Timeline: 4, Ancestors: []postgres.Ancestor{{Timeline: 1, Switch: 7*postgres.LSN(size) + 100}, {Timeline: 2, Switch: 9 * postgres.LSN(size)}}},
	}
	for _, tc := range []struct {
		name    string
		tl      postgres.Timeline
		last    uint64 // segment
		there   []uint64
		unread  bool
		refused string
	}{
		{"at its end", 1, 7, []uint64{5, 6}, false, "left at 0/7000064 for timeline 2"},
		{"behind it", 1, 6, []uint64{5, 6}, false, ""},
		{"goes on", 1, 7, []uint64{5, 6, 7}, false, ""},
		{"at a clone's", 1, 5, []uint64{5}, false, ""},
		{"at the start of a segment", 2, 9, nil, false, "left at 0/9000000 for timeline 4"},
		{"before the start of a segment", 2, 8, nil, false, ""},
		{"the last timeline", 4, 12, nil, false, ""},
		{"histories can't be read", 1, 7, nil, true, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			p := &pusher{control: &postgres.ControlFile{WALSegmentSize: size}, log: slog.New(slog.DiscardHandler), system: "7", cfg: PushConfig{
				Timelines: func(context.Context, string) ([]postgres.Timeline, error) {
					return []postgres.Timeline{2, 3, 4, 5}, nil
				},
				History: func(_ context.Context, _ string, tl postgres.Timeline) (postgres.History, error) {
					h, ok := histories[tl]
					switch {
					case tc.unread:
						return h, errors.New("no key")
					case !ok:
						return h, fmt.Errorf("history: %w", storage.ErrNotExist)
					}
					return h, nil
				},
				MissingWAL: func(_ context.Context, _ string, names []string) ([]string, error) {
					for _, no := range tc.there {
						if names[0] == (postgres.Segment{Timeline: tc.tl, No: no}).Name(size) {
							return nil, nil
						}
					}
					return names, nil
				},
			}}
			err := p.checkBranch(t.Context(), tc.tl, tc.last)
			if (err != nil) != (tc.refused != "") || err != nil && !strings.Contains(err.Error(), tc.refused) {
				t.Errorf("checkBranch = %v, want %q", err, tc.refused)
			}
		})
	}
}

package backup_test

import (
	"sync"
	"testing"
	"time"

	"wal-e/backup"
	"wal-e/internal/progress"
)

// A push counts every byte that it copies, and those that it needn't look at apart,
// while somebody looks.
func TestPushProgress(t *testing.T) {
	t.Parallel()
	n := newNight(t, stoppedCluster(t, false).Dir)
	watched := func() (*backup.PushResult, progress.State) {
		m := &progress.Meter{}
		end := make(chan struct{})
		var g sync.WaitGroup
		g.Go(func() {
			before := int64(0)
			ticks := time.NewTicker(time.Millisecond)
			defer ticks.Stop()
			for {
				select {
				case <-end:
					return
				case <-ticks.C:
				}
				if s, ok := m.State(); ok {
					if s.Done < before || s.Skipped > s.Done || s.Total > 0 && s.Done > s.Total {
						t.Errorf("state %+v after %d", s, before)
					}
					before = s.Done
				}
			}
		})
		r := n.push(t, func(c *backup.PushConfig) { c.Progress = m })
		close(end)
		g.Wait()
		s, _ := m.State()
		return r, s
	}
	const control = 8192
	first, s := watched()
	if s.Phase != "copy" || s.Done != first.Manifest.Bytes-control || s.Skipped != 0 || s.New <= 0 || s.New > first.Stats.New {
		t.Errorf("a push of %d bytes, %d new, ends with %+v", first.Manifest.Bytes, first.Stats.New, s)
	}
	second, s := watched()
	if s.Done != second.Manifest.Bytes-control || s.Skipped != second.Manifest.Push.Unread || s.Skipped == 0 {
		t.Errorf("a push of %d bytes, %d unread, ends with %+v", second.Manifest.Bytes, second.Manifest.Push.Unread, s)
	}
}

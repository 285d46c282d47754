package backup

import (
	"testing"
	"time"
)

func TestReadVerified(t *testing.T) {
	t.Parallel()
	c, dir := newFakeCluster(t), t.TempDir()
	c.push(t, dir, nil)
	if got, err := ReadVerified(t.Context(), c.bucket); got != nil || err != nil {
		t.Errorf("without any: %+v, %v", got, err)
	}
	// Whoever looks does so later than all of it.
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	first := now
	for _, never := range []bool{true, false} {
		share := Share{Bytes: 1}
		if !never {
			share = Share{Percent: 100}
			now = now.Add(24 * time.Hour)
		}
		r := c.verify(t, VerifyConfig{ReadData: true, Share: share, Now: func() time.Time { return now }})
		got, err := ReadVerified(t.Context(), c.bucket)
		if err != nil || !got.Last.Equal(now) || got.Packs != r.Packs || got.NeverRead != r.Share.NeverRead || (got.NeverRead > 0) != never {
			t.Fatalf("at %s: %+v, %v; the verification says %+v of %d packs", now, got, err, r.Share, r.Packs)
		}
		if got.Oldest == nil || !got.Oldest.Equal(*r.Share.Oldest) || never && !got.Oldest.Equal(first) {
			t.Errorf("at %s: the oldest was read %v, want %s", now, got.Oldest, r.Share.Oldest)
		}
	}
}

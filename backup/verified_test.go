package backup

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"wal-e/internal/storage"
)

func readVerified(t *testing.T, b storage.Bucket) (*Verified, error) {
	t.Helper()
	c, err := ReadCatalog(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	return c.Verified(t.Context())
}

func TestReadVerified(t *testing.T) {
	t.Parallel()
	c, dir := newFakeCluster(t), t.TempDir()
	c.push(t, dir, nil)
	if got, err := readVerified(t, c.bucket); got != nil || err != nil {
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
		got, err := readVerified(t, c.bucket)
		if err != nil || !got.Last.Equal(now) || got.Packs != r.Packs || got.NeverRead != r.Share.NeverRead || (got.NeverRead > 0) != never {
			t.Fatalf("at %s: %+v, %v; the verification says %+v of %d packs", now, got, err, r.Share, r.Packs)
		}
		if got.Oldest == nil || !got.Oldest.Equal(*r.Share.Oldest) || never && !got.Oldest.Equal(first) {
			t.Errorf("at %s: the oldest was read %v, want %s", now, got.Oldest, r.Share.Oldest)
		}
	}
}

// What a verification of all backups came to is there for others to read, also when
// it read no data; what was interrupted, or was of one backup, changes nothing of it.
func TestReadVerifyResult(t *testing.T) {
	t.Parallel()
	c, dir := newFakeCluster(t), t.TempDir()
	ref := c.push(t, dir, nil)
	now := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	cfg := VerifyConfig{Record: true, Host: "db1", Now: func() time.Time { return now }}
	read := func() *Verified {
		t.Helper()
		got, err := readVerified(t, c.bucket)
		if err != nil || got == nil {
			t.Fatalf("Verified = %+v, %v", got, err)
		}
		return got
	}
	lists := c.verify(t, cfg)
	if r := read(); r.NeverRead != lists.Packs || r.Result == nil ||
		*r.Result != (VerifyResult{At: now.Truncate(time.Second), Host: "db1", Backups: 1, Packs: lists.Packs}) {
		t.Errorf("after one without data: %+v, %+v", r, r.Result)
	}
	now = now.Add(time.Hour)
	cfg.ReadData = true
	all := c.verify(t, cfg)
	if r := read(); r.NeverRead != 0 || r.Oldest == nil || !r.Oldest.Equal(now.Truncate(time.Second)) || r.Result.ReadPacks != all.Packs || r.Result.ReadBytes != all.ReadBytes || r.Result.Problems != 0 {
		t.Errorf("after one of all data: %+v, %+v", r, r.Result)
	}

	key := c.keys(t, "chunks_006/packs/"+ref.Run.String())[0]
	c.replace(t, key, func(b []byte) []byte { b[len(b)/2] ^= 4; return b })
	now = now.Add(time.Hour)
	c.verify(t, cfg)
	damaged := read().Result
	if damaged == nil || !damaged.At.Equal(now.Truncate(time.Second)) || damaged.Problems != 1 || !strings.HasPrefix(damaged.First, key+": ") {
		t.Fatalf("after one that found damage: %+v", damaged)
	}
	now = now.Add(time.Hour)
	one := cfg
	one.Query, one.Share = ref.Name, Share{Percent: 100}
	c.verify(t, one)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	broken := cfg
	broken.Bucket, broken.TempDir = c.bucket, t.TempDir()
	if _, err := Verify(ctx, broken); !errors.Is(err, context.Canceled) {
		t.Fatalf("Verify = %v, want that it is cancelled", err)
	}
	if r := read().Result; r == nil || *r != *damaged {
		t.Errorf("after one of a backup, and one that was interrupted: %+v, want %+v", r, damaged)
	}

	// Who may only read has verified all the same, and is told what isn't known now.
	var log bytes.Buffer
	cfg.Bucket, cfg.Log = denied{c.bucket, true, false}, slog.New(slog.NewTextHandler(&log, nil))
	if r := c.verify(t, cfg); len(r.Problems) != 1 || !strings.Contains(log.String(), "is not written down") {
		t.Errorf("without the right to create: %+v; log: %s", r.Problems, &log)
	}
}

// Verifications of one backup don't forget what those of others have read.
func TestVerifyShareKeepsOthers(t *testing.T) {
	t.Parallel()
	c, dir := newFakeCluster(t), t.TempDir()
	first := c.push(t, dir, nil)
	c.files["base/5/16384"] = random(2, 9<<20)
	c.push(t, dir, nil)
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	share := VerifyConfig{ReadData: true, Share: Share{Percent: 100}, Now: func() time.Time { return now }}
	if all := c.verify(t, share); all.Share.NeverRead != 0 {
		t.Fatalf("%d packs were not read", all.Share.NeverRead)
	}
	share.Query = first.Name + "@" + first.Run.String()
	for range ledgerKept + 1 {
		now = now.Add(time.Minute)
		c.verify(t, share)
	}
	if r, err := readVerified(t, c.bucket); err != nil || r.NeverRead != 0 {
		t.Errorf("Verified = %+v, %v: want all packs read", r, err)
	}
}

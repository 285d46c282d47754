package main

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"testing"
	"time"

	"wal-e/gc"
	"wal-e/internal/postgres"
	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
)

// A completing bucket has a push complete as soon as the backups were listed.
type completing struct {
	storage.Bucket
	complete func()
}

func (b *completing) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		for o, err := range b.Bucket.List(ctx, prefix, after) {
			if !yield(o, err) {
				return
			}
		}
		if strings.HasPrefix(prefix, "basebackups_005/") && b.complete != nil {
			b.complete()
			b.complete = nil
		}
	}
}

// A push that completes while the archive is read is a backup or under way, so
// that its WAL stays; and where the size of segments isn't known, none is needed
// from higher up than it may be.
func TestReadClassicBesideACompletingPush(t *testing.T) {
	t.Parallel()
	const name = "base_000000010000000300000005_00000040"
	m := mem.New(time.Now)
	put := func(key, text string) {
		if err := storage.CreateBytes(t.Context(), m, "basebackups_005/"+key, []byte(text), nil); err != nil {
			t.Fatal(err)
		}
	}
	put(name+"/tar_partitions/part_00000000.tar.lzo", "x")
	b := &completing{m, func() {
		put(name+"_backup_stop_sentinel.json", fmt.Sprintf(`{"wal_segment_backup_stop": %q, "wal_segment_offset_backup_stop": "00000200", "expanded_size_bytes": 1, "spec": {"base_prefix": "/d", "tablespaces": []}}`,
			"000000010000000300000005"))
	}}
	s := &session{}
	c, err := s.readClassic(t.Context(), b, time.Now(), time.Hour, false)
	if err != nil {
		t.Fatal(err)
	}
	if b.complete != nil || len(c.backups)+len(c.running) == 0 {
		t.Errorf("of a push that completed nothing is known: %+v", c)
	}
	// Segments may be of 1 MiB: the fifth of those is lower than that of 16 MiB.
	catalog := &gc.Catalog{Backups: []gc.Backup{{System: "7"}}}
	if from, ok := c.floors(catalog, nil)["7"]; !ok || from > 3<<32+5*postgres.LSN(postgres.MinSegmentSize) {
		t.Errorf("WAL is needed from %s on, %v", from, ok)
	}
}

package chunkstore_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"

	"wal-e/chunkstore"
	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
)

// deaf is a store that stores intents and never answers.
type deaf struct {
	storage.Bucket
	intents map[string]int
}

var errNoAnswer = errors.New("connection reset by peer")

func (d *deaf) Create(ctx context.Context, key string, r io.Reader, size int64, meta storage.Meta) error {
	err := d.Bucket.Create(ctx, key, r, size, meta)
	if strings.HasSuffix(key, ".intent") {
		d.intents[key]++
		return errNoAnswer
	}
	return err
}

// Intents whose answers are lost are sent once under each of a few names, none of
// which looks alive afterwards, and the error says so.
func TestIntentWithoutAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := mem.New(nil)
		if _, err := chunkstore.Admit(t.Context(), b, 7, false); err != nil {
			t.Fatal(err)
		}
		d := &deaf{Bucket: b, intents: make(map[string]int)}
		s, err := chunkstore.Open(t.Context(), storage.Retry(d, storage.Policy{}), nil)
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Begin(t.Context(), chunkstore.PushConfig{Name: "base_000000010000000000000002_00000040"})
		if !errors.Is(err, errNoAnswer) || !strings.Contains(err.Error(), "under 5 names") || !strings.Contains(err.Error(), "it can be sent only once") {
			t.Errorf("Begin = %v", err)
		}
		for key, n := range d.intents {
			if n != 1 {
				t.Errorf("%s was sent %d times", key, n)
			}
		}
		runs, err := chunkstore.Runs(t.Context(), b)
		if err != nil || len(runs) != 5 || len(d.intents) != 5 {
			t.Errorf("%d runs of %d intents, %v", len(runs), len(d.intents), err)
		}
		for _, r := range runs {
			if r.Open() {
				t.Errorf("run %s looks alive", r.Ref)
			}
		}
	})
}

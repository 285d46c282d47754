package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"wal-e/internal/envelope"
	"wal-e/internal/fault"
	"wal-e/internal/runid"
	"wal-e/internal/storage"
)

// copiesKey marks a prefix to which packs of others are copied, under the names
// that they have there. It is created before anything else and never removed.
//
// Such names could come again, unlike those that pushes make, and a collector
// that sleeps before it removes could hit the newcomer. So there a mark stays as
// long as no later one says the same, for ever, and a copy creates no pack that
// a mark names.
const copiesKey = "chunks_006/copies"

const (
	copiesKind    = "copies"
	copiesVersion = 1
)

// copies is the content of copiesKey, for people.
type copies struct {
	From string    `json:"from"` // URL
	Made time.Time `json:"made"`
}

// TakesCopies tells whether a prefix was made by copying.
func TakesCopies(ctx context.Context, b storage.Bucket) (bool, error) {
	_, err := b.Stat(ctx, copiesKey)
	if errors.Is(err, storage.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// PrepareCopy makes sure that to may take copies of from: when it is empty it
// becomes a prefix with the same parameters, else it must be one that was made
// so. It brings the accepted clusters and the sealed secrets up to date. Its
// error says what else the destination is.
func PrepareCopy(ctx context.Context, from, to storage.Bucket, now time.Time) error {
	source, err := LoadPrefix(ctx, from)
	if err != nil {
		return err
	}
	for {
		p, err := LoadPrefix(ctx, to)
		switch {
		case errors.Is(err, ErrNoPrefix):
			data, err := envelope.Encode(copiesKind, copiesVersion, copies{From: from.URL(), Made: now.UTC()})
			if err != nil {
				return err
			}
			if err := createOnce(ctx, to, copiesKey, data); err != nil {
				return err
			}
			first := *source
			first.number = 0
			p = &first
		case err != nil:
			return err
		case p.ID != source.ID || p.DedupKey != source.DedupKey || p.Chunking != source.Chunking:
			return fault.OtherCluster.Errorf("%s is %w: it holds another archive: copy to an empty prefix", to.URL(), errDestination)
		default:
			ours, err := TakesCopies(ctx, to)
			if err != nil {
				return err
			}
			if !ours {
				return fault.OtherCluster.Errorf("%s is %w: it is the one that was copied from: copy to an empty prefix", to.URL(), errDestination)
			}
			systems := len(p.Systems)
			for _, s := range source.Systems {
				if !slices.Contains(p.Systems, s) {
					p.Systems = append(p.Systems, s)
				}
			}
			if len(p.Systems) == systems {
				return copySecrets(ctx, from, to)
			}
			p.number++
		}
		if err := p.create(ctx, to); err != nil && !errors.Is(err, storage.ErrExist) {
			return err
		}
	}
}

// copySecrets copies the sealed secrets of all epochs that to lacks.
func copySecrets(ctx context.Context, from, to storage.Bucket) error {
	there := make(map[string]bool)
	for o, err := range to.List(ctx, epochDir, "") {
		if err != nil {
			return err
		}
		there[o.Key] = true
	}
	for o, err := range from.List(ctx, epochDir, "") {
		if err != nil {
			return err
		}
		if there[o.Key] || !strings.HasSuffix(o.Key, epochSuffix) {
			continue
		}
		data, err := storage.ReadAll(ctx, from, o.Key, epochLimit)
		if err != nil {
			return err
		}
		if err := createOnce(ctx, to, o.Key, data); err != nil {
			return err
		}
	}
	return nil
}

// CopiedRuns tells which runs have a valid backup in a prefix: those that
// took it, of which it may hold copies.
func CopiedRuns(ctx context.Context, b storage.Bucket) (map[runid.ID]Ref, error) {
	runs, err := Runs(ctx, b)
	if err != nil {
		return nil, err
	}
	origins := make(map[runid.ID]Ref)
	for _, r := range runs {
		if !r.Ended() {
			continue
		}
		o, err := ReadOutcome(ctx, b, r.Ref)
		if errors.Is(err, storage.ErrNotExist) {
			continue // collected since it was listed
		}
		if err != nil {
			return nil, err
		}
		if o.Result == Commit {
			origins[o.Origin(r.Ref)] = r.Ref
		}
	}
	return origins, nil
}

// FenceCopies ends the open copies of a host. The caller knows, by a lock, that
// none is alive.
func FenceCopies(ctx context.Context, b storage.Bucket, hostID, host string) error {
	runs, err := Runs(ctx, b)
	if err != nil {
		return err
	}
	for _, r := range runs {
		if !r.Open() {
			continue
		}
		i, err := ReadIntent(ctx, b, r.Ref)
		if errors.Is(err, storage.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if i.CopyOf == nil || i.HostID != hostID {
			continue
		}
		if _, err := Fence(ctx, b, r.Ref, host, "its process ended without an outcome; the next copy went on"); err != nil {
			return fmt.Errorf("end copy %s, whose process died: %w", r.Ref, err)
		}
	}
	return nil
}

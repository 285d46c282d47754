package wal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"wal-e/internal/postgres"
	"wal-e/internal/storage"
)

// maxHistory bounds a timeline history file in bytes; a line is some 60 bytes,
// and a cluster has as many as it had timelines.
const maxHistory = 1 << 20

// Timelines returns the timelines of a system that have a history file in the
// archive, in order. It takes one short listing per timeline, however many
// files there are.
func Timelines(ctx context.Context, b storage.Bucket, system postgres.SystemID) ([]postgres.Timeline, error) {
	dir := SystemPrefix(system)
	var found []postgres.Timeline
	for after := ""; ; {
		name, err := firstAfter(ctx, b, dir, after)
		if err != nil || name == "" {
			return found, err
		}
		f := postgres.ParseWALFile(name)
		if f.Kind == postgres.OtherFile {
			after = dir + name
			continue
		}
		// A timeline's history comes before its segments.
		if f.Kind == postgres.HistoryFile {
			found = append(found, f.Timeline)
		}
		after = dir + name[:timelineDigits] + behindDigits
	}
}

const (
	timelineDigits = 8
	behindDigits   = "G" // sorts behind every digit of a name
)

// firstAfter returns the name of the first file in dir behind a key, "" when
// there is none.
func firstAfter(ctx context.Context, b storage.Bucket, dir, after string) (string, error) {
	for o, err := range b.List(ctx, dir, after) {
		if err != nil {
			return "", fmt.Errorf("wal: list %s of %s: %w", dir, b.URL(), err)
		}
		return strings.TrimPrefix(o.Key, dir), nil
	}
	return "", nil
}

// ReadHistory reads a timeline's history from the archive. One that isn't there
// gives an error that wraps ErrNotFound and storage.ErrNotExist.
func ReadHistory(ctx context.Context, b storage.Bucket, system postgres.SystemID, tl postgres.Timeline) (postgres.History, error) {
	name := tl.HistoryName()
	var text bytes.Buffer
	_, err := readObject(ctx, Config{Bucket: b}, Key(system, name), expectation{system: system, name: name}, func(piece []byte) error {
		if text.Len()+len(piece) > maxHistory {
			return fmt.Errorf("it is longer than %d bytes", maxHistory)
		}
		text.Write(piece)
		return nil
	})
	if errors.Is(err, storage.ErrNotExist) {
		return postgres.History{}, fmt.Errorf("%w: %w", absent(b, system, name), storage.ErrNotExist)
	}
	if err != nil {
		return postgres.History{}, err
	}
	h, err := postgres.ParseHistory(tl, text.Bytes())
	if err != nil {
		return postgres.History{}, fmt.Errorf("wal: %s in %s: %w", name, b.URL(), err)
	}
	return h, nil
}

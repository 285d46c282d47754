package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"wal-e/compat"
	"wal-e/internal/postgres"
	"wal-e/internal/storage"
)

// A classicLog is the WAL of a timeline in the classic layout, which knows neither
// systems nor segment sizes: names tell all there is.
type classicLog struct {
	timeline    postgres.Timeline
	segments    uint64
	first, last string
	gaps        []walGap
}

// classicSegmentSize is that of the segment that was archived last. Where that is
// encrypted, and there is no key, the original's only size is assumed.
func (s *session) classicSegmentSize(ctx context.Context, b storage.Bucket) (postgres.SegmentSize, error) {
	_, size, err := compat.Cluster(ctx, b, s.decryptClassic)
	if errors.Is(err, storage.ErrNotExist) || errors.Is(err, compat.ErrUndecipherable) {
		return postgres.DefaultSegmentSize, nil
	}
	return size, err
}

// readClassicWAL reads each WAL file of the classic layout, and says which are damaged.
func (s *session) readClassicWAL(ctx context.Context, b storage.Bucket) (damaged []string, err error) {
	names, err := compat.WALFiles(ctx, b)
	if err != nil || len(names) == 0 {
		return nil, err
	}
	system, err := compat.System(ctx, b, s.decryptClassic)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		_, err := compat.ReadWAL(ctx, compat.WALConfig{Bucket: b, Decrypt: s.decryptClassic, System: system}, name, int64(postgres.MaxSegmentSize))
		switch {
		case compat.IsDamage(err):
			damaged = append(damaged, err.Error())
		case err != nil:
			return damaged, err
		}
	}
	return damaged, nil
}

// surveyClassic lists the WAL of the classic layout, by timeline. A gap is needed
// when a backup begins before its end, on whatever timeline.
func (s *session) surveyClassic(ctx context.Context, b storage.Bucket, known []knownGap) ([]*classicLog, error) {
	oldest, err := oldestClassic(ctx, b)
	if err != nil {
		return nil, err
	}
	size, err := s.classicSegmentSize(ctx, b)
	if err != nil {
		return nil, err
	}
	var logs []*classicLog
	var previous postgres.Segment
	folder, suffix, _ := strings.Cut(compat.WALKey("*"), "*")
	for o, err := range b.List(ctx, folder, "") {
		if err != nil {
			return nil, fmt.Errorf("list the classic WAL in %s: %w", b.URL(), err)
		}
		name, ok := strings.CutSuffix(strings.TrimPrefix(o.Key, folder), suffix)
		seg, err := postgres.ParseSegment(name, size)
		if !ok || err != nil {
			continue // a history, a .partial or .backup file, or another cluster's
		}
		if len(logs) == 0 || logs[len(logs)-1].timeline != seg.Timeline {
			logs = append(logs, &classicLog{timeline: seg.Timeline, first: name})
		} else if seg.No > previous.No+1 {
			l := logs[len(logs)-1]
			gap := walGap{
				First:    postgres.Segment{Timeline: seg.Timeline, No: previous.No + 1}.Name(size),
				Last:     postgres.Segment{Timeline: seg.Timeline, No: seg.No - 1}.Name(size),
				Segments: seg.No - previous.No - 1,
			}
			gap.Needed = oldest != "" && gap.Last[8:] >= oldest[8:]
			gap.Known = slices.ContainsFunc(known, func(k knownGap) bool { return k.covers(gap) })
			l.gaps = append(l.gaps, gap)
		}
		l := logs[len(logs)-1]
		l.segments++
		l.last, previous = name, seg
	}
	return logs, nil
}

// oldestClassic returns the first segment of the oldest classic backup, by its
// number, "" when there is no backup.
func oldestClassic(ctx context.Context, b storage.Bucket) (oldest string, err error) {
	for o, err := range b.List(ctx, "basebackups_005/", "") {
		if err != nil {
			return "", fmt.Errorf("list the classic backups in %s: %w", b.URL(), err)
		}
		base, ok := strings.CutSuffix(strings.TrimPrefix(o.Key, "basebackups_005/"), "_backup_stop_sentinel.json")
		name, err := compat.ParseName(base)
		if !ok || err != nil {
			continue
		}
		if oldest == "" || name.Segment[8:] < oldest[8:] {
			oldest = name.Segment
		}
	}
	return oldest, nil
}

// problems says what a classic backup can't be recovered over.
func (l *classicLog) problems() []string {
	var problems []string
	for _, g := range l.gaps {
		if g.Needed && !g.Known {
			problems = append(problems, fmt.Sprintf("classic layout: %s: %s", areMissing(g.Segments), g.names()))
		}
	}
	return problems
}

// printClassic prints the WAL of the classic layout, as wal-show does.
func printClassic(w io.Writer, logs []*classicLog) error {
	for _, l := range logs {
		if _, err := fmt.Fprintf(w, "classic layout, timeline %d: %s, %s to %s\n", l.timeline, counted(l.segments, "segment"), l.first, l.last); err != nil {
			return err
		}
		for _, g := range l.gaps {
			why := "no backup needs it"
			if g.Needed {
				why = "a backup needs it"
			}
			if _, err := fmt.Fprintf(w, "  missing: %s; %s\n", g, why); err != nil {
				return err
			}
		}
	}
	return nil
}

package wal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"wal-e/internal/fault"
	"wal-e/internal/postgres"
	"wal-e/internal/storage"
)

// A Log is what the archive holds of one system on one timeline.
type Log struct {
	System      postgres.SystemID
	Timeline    postgres.Timeline
	SegmentSize postgres.SegmentSize // 0 without segments

	// History is the way to the timeline; nil when the archive doesn't hold its
	// file. Timeline 1 needs none.
	History *postgres.History

	Runs    []Run // without a gap each, in order
	Bytes   int64 // stored, of all files
	Files   int   // that aren't segments: histories, .partial and .backup files
	Newest  time.Time
	Partial string // the last .partial file, "" if there is none
}

// A Run is a range of segments that follow each other.
type Run struct {
	First, Last   uint64    // segment numbers
	Oldest, Newer time.Time // when the first and the last were archived, by the store's clock
}

// A Gap is a range of segments that the archive doesn't hold between others that
// it holds.
type Gap struct {
	Timeline    postgres.Timeline
	First, Last uint64
	SegmentSize postgres.SegmentSize
}

// Count returns how many segments are missing.
func (g Gap) Count() uint64 { return g.Last - g.First + 1 }

// Names returns the names of the first and the last missing segment.
func (g Gap) Names() (first, last string) {
	return postgres.Segment{Timeline: g.Timeline, No: g.First}.Name(g.SegmentSize),
		postgres.Segment{Timeline: g.Timeline, No: g.Last}.Name(g.SegmentSize)
}

func (g Gap) String() string {
	first, last := g.Names()
	if g.Count() == 1 {
		return first
	}
	return first + " to " + last
}

// Name returns the name of a segment of the timeline.
func (l *Log) Name(no uint64) string {
	return postgres.Segment{Timeline: l.Timeline, No: no}.Name(l.SegmentSize)
}

// Gaps returns what is missing between the segments that are there.
func (l *Log) Gaps() []Gap {
	var gaps []Gap
	for i := 1; i < len(l.Runs); i++ {
		gaps = append(gaps, Gap{l.Timeline, l.Runs[i-1].Last + 1, l.Runs[i].First - 1, l.SegmentSize})
	}
	return gaps
}

// Segments returns how many there are.
func (l *Log) Segments() uint64 {
	n := uint64(0)
	for _, r := range l.Runs {
		n += r.Last - r.First + 1
	}
	return n
}

// run returns the run that holds segment no, nil if the archive doesn't.
func (l *Log) run(no uint64) *Run {
	for i := range l.Runs {
		if r := &l.Runs[i]; r.First <= no && no <= r.Last {
			return r
		}
	}
	return nil
}

// Survey lists the WAL files of an archive once and returns what it holds by
// system and timeline, in order. Besides the listing it reads the head of one
// segment per timeline, for its size, and all histories. No more is held than a
// range per gap.
//
// What is stored under wal_006 without being a WAL file is left out.
func Survey(ctx context.Context, b storage.Bucket) ([]*Log, error) {
	var logs []*Log
	for o, err := range b.List(ctx, Prefix, "") {
		if err != nil {
			return nil, fmt.Errorf("wal: list the WAL files in %s: %w", b.URL(), err)
		}
		folder, name, _ := strings.Cut(strings.TrimPrefix(o.Key, Prefix), "/")
		system, err := postgres.ParseSystemID(folder)
		f := postgres.ParseWALFile(name)
		if err != nil || f.Kind == postgres.OtherFile {
			continue
		}
		var l *Log
		if n := len(logs); n > 0 && logs[n-1].System == system && logs[n-1].Timeline == f.Timeline {
			l = logs[n-1]
		} else {
			l = &Log{System: system, Timeline: f.Timeline}
			logs = append(logs, l)
		}
		// What a delete has removed since it was listed isn't held any more.
		if err := l.add(ctx, b, f, name, o); err != nil && !errors.Is(err, storage.ErrNotExist) {
			return nil, err
		}
	}
	return logs, nil
}

// add counts a file.
func (l *Log) add(ctx context.Context, b storage.Bucket, f postgres.WALFile, name string, o storage.Object) error {
	switch f.Kind {
	case postgres.SegmentFile:
		if err := l.addSegment(ctx, b, name, o); err != nil {
			return err
		}
	case postgres.HistoryFile:
		h, err := ReadHistory(ctx, b, l.System, l.Timeline)
		if err != nil {
			return err
		}
		l.History = &h
	case postgres.PartialFile:
		l.Partial = name
	}
	if f.Kind != postgres.SegmentFile {
		l.Files++
	}
	l.Bytes += o.Size
	if o.ModTime.After(l.Newest) {
		l.Newest = o.ModTime
	}
	return nil
}

func (l *Log) addSegment(ctx context.Context, b storage.Bucket, name string, o storage.Object) error {
	if l.SegmentSize == 0 {
		id, err := ReadIdentity(ctx, b, o.Key)
		if err != nil {
			return err
		}
		size := postgres.SegmentSize(id.Length)
		if id.Length > MaxLength || size.Check() != nil {
			return &DamagedError{Object: objectURL(b, o.Key), Err: fmt.Errorf("a segment of %d bytes", id.Length)}
		}
		l.SegmentSize = size
	}
	seg, err := postgres.ParseSegment(name, l.SegmentSize)
	if err != nil {
		return &DamagedError{Object: objectURL(b, o.Key), Err: err}
	}
	if n := len(l.Runs); n > 0 && l.Runs[n-1].Last+1 == seg.No {
		r := &l.Runs[n-1]
		r.Last, r.Newer = seg.No, o.ModTime
		return nil
	}
	l.Runs = append(l.Runs, Run{seg.No, seg.No, o.ModTime, o.ModTime})
	return nil
}

// A Base is a base backup, as far as WAL is concerned.
type Base struct {
	Name        string
	System      postgres.SystemID
	Timeline    postgres.Timeline
	Start, Stop postgres.LSN
	Stopped     time.Time
	// Whole says that the backup has its WAL with it, since it was taken of a stopped
	// cluster: it needs none, and recovers no farther.
	Whole bool
}

// A Window is how far recovery from a base backup comes on the way to a timeline.
type Window struct {
	Base   Base
	Target postgres.Timeline // the way

	// Restorable says that the WAL from start to stop is there, so that the backup
	// can be restored at all. Else Missing is what it lacks.
	Restorable bool
	// Last is the last segment that recovery comes to, by name.
	Last string
	// Until is when Last was archived, by the store's clock: commits up to about
	// then can be recovered.
	Until time.Time
	// Missing is the first segment that isn't there, by name, and Ends says that
	// nothing follows it on the way, so that nothing is missing.
	Missing string
	Ends    bool
	// Gap is what is missing of one timeline from Missing on, where the way goes on
	// behind it; nil where it doesn't. It may stand between two timelines, and so in
	// the Gaps of none.
	Gap *Gap
}

// errNoLog says that a system has no WAL at all.
var errNoLog = fault.WALGap.Errorf("the archive holds no WAL of that system")

// Reach returns how far recovery from base comes, for its own timeline and each
// that branches off it or off one of these behind the backup's stop, in order. Of a
// base that is Whole it is one window, without segments.
func Reach(logs []*Log, base Base) ([]Window, error) {
	if base.Whole {
		return []Window{{Base: base, Target: base.Timeline, Restorable: true, Until: base.Stopped}}, nil
	}
	var own []*Log
	size := postgres.SegmentSize(0)
	for _, l := range logs {
		if l.System == base.System {
			own = append(own, l)
			size = max(size, l.SegmentSize)
		}
	}
	if size == 0 {
		return nil, fmt.Errorf("wal: %s: system %s: %w", base.Name, base.System, errNoLog)
	}
	var windows []Window
	for _, target := range own {
		h := target.History
		if h == nil && target.Timeline == base.Timeline {
			h = &postgres.History{Timeline: base.Timeline}
		}
		if h == nil || !h.ContainsEnd(base.Timeline, base.Stop) {
			continue
		}
		windows = append(windows, reach(own, base, *h, size))
	}
	if !slices.ContainsFunc(windows, func(w Window) bool { return w.Target == base.Timeline }) {
		windows = append(windows, reach(own, base, postgres.History{Timeline: base.Timeline}, size))
	}
	slices.SortFunc(windows, func(a, b Window) int { return int(int64(a.Target) - int64(b.Target)) })
	return windows, nil
}

// reach walks the segments from base on the way h, a run at a time. As
// PostgreSQL does, it takes a segment in which timelines change from the newest
// of these that has it.
func reach(logs []*Log, base Base, h postgres.History, size postgres.SegmentSize) Window {
	w := Window{Base: base, Target: h.Timeline}
	no := postgres.SegmentAt(base.Timeline, base.Start, size).No
	stop := postgres.SegmentBefore(base.Timeline, base.Stop, size).No
	for {
		run, last := next(logs, h, no, size)
		if run == nil {
			break
		}
		l := run.log
		w.Last, w.Until = l.Name(last), l.Newest
		if last == run.Last {
			w.Until = run.Newer
		}
		w.Restorable = w.Restorable || last >= stop
		no = last + 1
	}
	tl := h.TimelineAt(postgres.Segment{No: no}.Start(size))
	w.Missing = postgres.Segment{Timeline: tl, No: no}.Name(size)
	if behind, ok := beyond(logs, h, no, size); ok {
		_, last, _ := span(h, tl, size)
		w.Gap = &Gap{tl, no, min(behind-1, last), size}
	}
	w.Ends = w.Restorable && w.Gap == nil
	return w
}

type foundRun struct {
	*Run
	log *Log
}

// next returns the run that recovery on the way h reads segment no from, and the
// last segment that it reads from that run; nil if no timeline has it.
func next(logs []*Log, h postgres.History, no uint64, size postgres.SegmentSize) (*foundRun, uint64) {
	for i := len(logs) - 1; i >= 0; i-- {
		l := logs[i]
		first, end, ok := span(h, l.Timeline, size)
		if !ok || no < first || no > end {
			continue
		}
		if r := l.run(no); r != nil {
			last := min(r.Last, end)
			// A newer timeline begins within: it is asked first from there on.
			for _, newer := range logs[i+1:] {
				if begin, _, ok := span(h, newer.Timeline, size); ok && begin > no {
					last = min(last, begin-1)
				}
			}
			return &foundRun{r, l}, last
		}
	}
	return nil, 0
}

// span returns the segments of a timeline that recovery on the way h may read.
func span(h postgres.History, tl postgres.Timeline, size postgres.SegmentSize) (first, last uint64, ok bool) {
	begin := postgres.LSN(0)
	for _, a := range h.Ancestors {
		if a.Timeline == tl {
			return uint64(begin) / uint64(size), uint64(a.Switch) / uint64(size), true
		}
		begin = a.Switch
	}
	if tl != h.Timeline {
		return 0, 0, false
	}
	return uint64(begin) / uint64(size), 1<<64 - 1, true
}

// beyond returns the first segment on the way h behind no that is there, if any is.
func beyond(logs []*Log, h postgres.History, no uint64, size postgres.SegmentSize) (first uint64, ok bool) {
	for _, l := range logs {
		begin, end, on := span(h, l.Timeline, size)
		if !on {
			continue
		}
		for _, r := range l.Runs {
			if at := max(r.First, begin, no+1); at <= min(r.Last, end) && (!ok || at < first) {
				first, ok = at, true
			}
		}
	}
	return first, ok
}

package compat

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"wal-e/internal/postgres"
	"wal-e/internal/storage"
)

// A DeleteConfig says what to delete of a classic archive. Bucket is required.
type DeleteConfig struct {
	Bucket  storage.Bucket
	Victims []Name // backups that go
	// Everything deletes all there is in the folders of 005, and Victims, Stays
	// and Garbage count for nothing.
	Everything bool
	// Stays tells whether a segment is needed, whatever its timeline. Nil: all are.
	Stays func(no uint64, stored time.Time) bool
	// Garbage tells whether what a push left without a sentinel may go: it begins
	// in a segment, and the last of its objects was stored then. A push under way
	// looks the same, so what is young or not older than what stays isn't garbage.
	// Nil: none is.
	Garbage     func(no uint64, newest time.Time) bool
	SegmentSize postgres.SegmentSize
	DryRun      bool

	// Deleting is called with each key before it is deleted, or in a dry run
	// instead, but for the sentinels of Victims; Skipping with keys that the
	// original doesn't make and that stay. Both may be nil.
	Deleting func(key string)
	Skipping func(key string)
}

// Deleted says what was deleted, or in a dry run would be.
type Deleted struct {
	Backups int   `json:"backups"`
	Garbage int   `json:"incomplete"` // backups without a sentinel
	Objects int   `json:"objects"`
	WAL     int   `json:"wal_files"`
	Bytes   int64 `json:"bytes"` // of all objects
}

// Delete deletes backups and WAL. Sentinels go first and are gone before
// anything else is, so that what a delete that is interrupted leaves is no
// backup any more; the next delete takes it for garbage. It fails when the store
// refuses a key.
func Delete(ctx context.Context, cfg DeleteConfig) (*Deleted, error) {
	d := &deleter{cfg: cfg, victims: make(map[Name]bool), report: &Deleted{}}
	for _, n := range cfg.Victims {
		d.victims[n] = true
	}
	if err := d.sentinels(ctx); err != nil {
		return d.report, fmt.Errorf("compat: delete backups: %w", err)
	}
	if err := d.backups(ctx); err != nil {
		return d.report, fmt.Errorf("compat: delete backups: %w", err)
	}
	if err := d.wal(ctx); err != nil {
		return d.report, fmt.Errorf("compat: delete WAL: %w", err)
	}
	return d.report, nil
}

type deleter struct {
	cfg     DeleteConfig
	victims map[Name]bool
	queue   []string
	report  *Deleted
}

// deleteBatch is how many keys go in one request, as the original has it.
const deleteBatch = 1000

// remove queues an object.
func (d *deleter) remove(ctx context.Context, o storage.Object, tell bool) error {
	if tell && d.cfg.Deleting != nil {
		d.cfg.Deleting(o.Key)
	}
	d.report.Objects++
	d.report.Bytes += o.Size
	if d.cfg.DryRun {
		return nil
	}
	if d.queue = append(d.queue, o.Key); len(d.queue) < deleteBatch {
		return nil
	}
	return d.flush(ctx)
}

func (d *deleter) flush(ctx context.Context) error {
	if len(d.queue) == 0 {
		return nil
	}
	err := d.cfg.Bucket.Delete(ctx, d.queue...)
	d.queue = d.queue[:0]
	return err
}

func (d *deleter) skip(key string) {
	if d.cfg.Skipping != nil {
		d.cfg.Skipping(key)
	}
}

// sentinels deletes the sentinels of all that goes.
func (d *deleter) sentinels(ctx context.Context) error {
	for o, err := range d.cfg.Bucket.List(ctx, backupsFolder+"base_", "") {
		if err != nil {
			return err
		}
		k := ParseKey(o.Key)
		if k.Kind != Sentinel || !d.cfg.Everything && !d.victims[k.Name] {
			continue
		}
		d.report.Backups++
		if err := d.remove(ctx, o, d.cfg.Everything); err != nil {
			return err
		}
	}
	return d.flush(ctx)
}

// backups deletes what else there is of the victims, and garbage. A backup's
// objects follow each other in the listing, its sentinel last.
func (d *deleter) backups(ctx context.Context) error {
	var group []storage.Object // of one name
	var name Name
	sentinel := false
	end := func() error {
		defer func() { group, sentinel = group[:0], false }()
		if len(group) == 0 || sentinel && !d.victims[name] {
			return nil
		}
		if !d.victims[name] {
			if !d.isGarbage(name, group) {
				return nil
			}
			d.report.Garbage++
		}
		for _, o := range group {
			if err := d.remove(ctx, o, true); err != nil {
				return err
			}
		}
		return nil
	}
	for o, err := range d.cfg.Bucket.List(ctx, backupsFolder, "") {
		if err != nil {
			return err
		}
		k := ParseKey(o.Key)
		switch {
		case d.cfg.Everything:
			if k.Kind == Sentinel && d.cfg.DryRun {
				continue // told already
			}
			if err := d.remove(ctx, o, true); err != nil {
				return err
			}
			continue
		case k.Name == (Name{}):
			d.skip(o.Key)
			continue
		}
		if k.Name != name {
			if err := end(); err != nil {
				return err
			}
			name = k.Name
		}
		switch k.Kind {
		case Sentinel:
			sentinel = true // of a victim in a dry run, or of one that stays
		case Other:
			if !strings.HasPrefix(o.Key, name.partitionFolder()) {
				d.skip(o.Key)
				continue
			}
			fallthrough
		default:
			group = append(group, o)
		}
	}
	if err := end(); err != nil {
		return err
	}
	return d.flush(ctx)
}

func (d *deleter) isGarbage(name Name, group []storage.Object) bool {
	segment, err := postgres.ParseSegment(name.Segment, d.cfg.SegmentSize)
	if err != nil || d.cfg.Garbage == nil {
		return false
	}
	var newest time.Time
	for _, o := range group {
		if o.ModTime.After(newest) {
			newest = o.ModTime
		}
	}
	return d.cfg.Garbage(segment.No, newest)
}

// wal deletes segments that aren't needed, with .partial and .backup files of
// theirs. Histories stay: they are small, and say what timelines there were.
func (d *deleter) wal(ctx context.Context) error {
	for o, err := range d.cfg.Bucket.List(ctx, walFolder, "") {
		if err != nil {
			return err
		}
		if !d.cfg.Everything {
			f := postgres.WALFile{}
			if k := ParseKey(o.Key); k.Kind == WAL {
				f = postgres.ParseWALFile(k.File)
			}
			if f.Kind == postgres.HistoryFile {
				continue
			}
			segment, err := postgres.ParseSegment(f.Segment, d.cfg.SegmentSize)
			if f.Kind == postgres.OtherFile || err != nil {
				d.skip(o.Key)
				continue
			}
			if d.cfg.Stays == nil || d.cfg.Stays(segment.No, o.ModTime) {
				continue
			}
		}
		d.report.WAL++
		if err := d.remove(ctx, o, true); err != nil {
			return err
		}
	}
	return d.flush(ctx)
}

// A Position is where a classic backup begins and ends, as far as it can be
// told without reading it.
type Position struct {
	Timeline    postgres.Timeline
	Start, Stop postgres.LSN
}

// A Placed says where the classic backups of an archive lie in the WAL.
type Placed struct {
	Positions []Position // of the backups, in their order
	// SegmentSize is that by which positions were computed: the given one, or when
	// that is 0 one by which the names of segments sort as they do.
	SegmentSize postgres.SegmentSize
	Archived    time.Time // when the newest WAL file was stored, by the store's clock
}

// Place finds out where backups begin and end. A sentinel that can't be read is
// an error.
//
// The name of a backup that was taken offline may have a wrong segment (see
// Name): of those that it may be, the lowest counts that the archive holds, and
// where the size of segments isn't known the lowest there can be.
func Place(ctx context.Context, b storage.Bucket, list []Backup, size postgres.SegmentSize) (*Placed, error) {
	p := &Placed{SegmentSize: size}
	segments := make(map[string]bool)
	highest := uint64(0)
	for o, err := range b.List(ctx, walFolder, "") {
		if err != nil {
			return nil, fmt.Errorf("compat: list WAL: %w", err)
		}
		if o.ModTime.After(p.Archived) {
			p.Archived = o.ModTime
		}
		if f := postgres.ParseWALFile(ParseKey(o.Key).File); f.Kind == postgres.SegmentFile {
			segments[f.Segment] = true
			highest = max(highest, low(f.Segment))
		}
	}
	sentinels := make([]SentinelFile, len(list))
	for i, backup := range list {
		s, err := ReadSentinel(ctx, b, backup.Name)
		if err != nil {
			return nil, err
		}
		sentinels[i] = s
		highest = max(highest, low(backup.Name.Segment), low(s.StopSegment))
	}
	if p.SegmentSize == 0 {
		for p.SegmentSize = postgres.DefaultSegmentSize; highest >= 1<<32/uint64(p.SegmentSize) && p.SegmentSize > postgres.MinSegmentSize; {
			p.SegmentSize /= 2
		}
		segments = nil // which of them a backup begins in depends on their true size
	}
	for i, backup := range list {
		at, err := position(backup.Name, sentinels[i], p.SegmentSize, segments)
		if err != nil {
			return nil, fmt.Errorf("compat: %s in %s: %w", backup.Name.Sentinel(), b.URL(), err)
		}
		p.Positions = append(p.Positions, at)
	}
	return p, nil
}

// Start returns the least position at which a backup of that name may begin.
func (p *Placed) Start(n Name) postgres.LSN {
	s, err := postgres.ParseSegment(offlineSegment(n, p.SegmentSize, nil), p.SegmentSize)
	if err != nil {
		return 0
	}
	return s.Start(p.SegmentSize)
}

// An Incomplete is what there is of a backup without a sentinel: its push is
// under way, or never ended.
type Incomplete struct {
	Name   Name
	Newest time.Time // when the last object was stored, by the store's clock
}

// ListIncomplete lists backups without a sentinel, in the order of their names.
func ListIncomplete(ctx context.Context, b storage.Bucket) ([]Incomplete, error) {
	var list []Incomplete
	sentinels := make(map[Name]bool)
	for o, err := range b.List(ctx, backupsFolder+"base_", "") {
		if err != nil {
			return nil, fmt.Errorf("compat: list backups: %w", err)
		}
		k := ParseKey(o.Key)
		if k.Kind == Sentinel {
			sentinels[k.Name] = true
		}
		if k.Name == (Name{}) || k.Kind == Sentinel {
			continue
		}
		if n := len(list); n == 0 || list[n-1].Name != k.Name {
			list = append(list, Incomplete{Name: k.Name})
		}
		if last := &list[len(list)-1]; o.ModTime.After(last.Newest) {
			last.Newest = o.ModTime
		}
	}
	return slices.DeleteFunc(list, func(i Incomplete) bool { return sentinels[i.Name] }), nil
}

// low is the lower half of the number in a segment's name.
func low(segment string) uint64 {
	n, err := strconv.ParseUint(segment[16:], 16, 32)
	if err != nil {
		return 0
	}
	return n
}

func position(n Name, s SentinelFile, size postgres.SegmentSize, stored map[string]bool) (Position, error) {
	if s.Offline(n) {
		name := offlineSegment(n, size, stored)
		segment, err := postgres.ParseSegment(name, size)
		if err != nil {
			return Position{}, err
		}
		return Position{Timeline: segment.Timeline, Start: segment.Start(size), Stop: segment.Start(size) + 1}, nil
	}
	start, err := locate(n.Segment, n.Offset, size)
	if err != nil {
		return Position{}, err
	}
	stop, err := locate(s.StopSegment, s.StopOffset, size)
	if err != nil {
		return Position{}, err
	}
	segment, err := postgres.ParseSegment(n.Segment, size)
	return Position{Timeline: segment.Timeline, Start: start, Stop: max(stop, start+1)}, err
}

// locate returns the position at a decimal offset in a segment.
func locate(segment, offset string, size postgres.SegmentSize) (postgres.LSN, error) {
	s, err := postgres.ParseSegment(segment, size)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(offset, 10, 64)
	if err != nil || n >= uint64(size) {
		n = uint64(size) - 1 // it is in there somewhere; what is needed counts in segments
	}
	return s.Start(size) + postgres.LSN(n), nil
}

// offlineSegment returns the segment in which an offline backup begins: the lowest
// that it may be and that is stored.
//
// The original took the first two digits of the lower half of the position, which
// has no leading zeros, for the number of the segment. So the position has from two
// to eight digits that begin with these; and a name of ours, which is right, may look
// the same.
func offlineSegment(n Name, size postgres.SegmentSize, stored map[string]bool) string {
	last := n.Segment[22:]
	if n.Segment[16:22] != "000000" || n.Offset[6:] != last || strings.Trim(n.Offset[:6], "0") != "" {
		return n.Segment // not made like that
	}
	digits := low(n.Segment)
	numbers := []uint64{digits}
	for more := range 7 {
		first, end := digits<<(4*more), (digits+1)<<(4*more)
		for no := first / uint64(size); no <= (end-1)/uint64(size); no++ {
			numbers = append(numbers, no)
		}
	}
	slices.Sort(numbers)
	for _, no := range numbers {
		if name := fmt.Sprintf("%s%08X", n.Segment[:16], no); stored[name] {
			return name
		}
	}
	return n.Segment[:22] + "00" // what it begins with isn't there anyhow
}

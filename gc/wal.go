package gc

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"wal-e/chunkstore"
	"wal-e/internal/postgres"
	"wal-e/internal/storage"
)

// walDir is the folder of WAL files: wal_006/<system>/<file>.
const walDir = "wal_006/"

// A floor is the number of a WAL segment. Numbers count from LSN 0 whatever the
// timeline, so whatever starts at or above a floor needs nothing below it.
type floor struct {
	no   uint64
	size postgres.SegmentSize
}

// lsn is where the segment begins, as marks carry it.
func (f floor) lsn() string { return postgres.Segment{Timeline: 1, No: f.no}.Start(f.size).String() }

// walFiles are the files of one system that may be removed.
type walFiles struct {
	files []walFile
	// all says that everything that is stored of the system is in files: no
	// backup and no push needs any, and the user wants all gone.
	all bool
	// ended says that all segments of the system are in files: it has ended.
	ended bool
	// top is one above the highest segment in files.
	top floor
}

// add adds an object.
func (w *walFiles) add(f walFile) {
	w.files = append(w.files, f)
	if f.inLog {
		w.top.no = max(w.top.no, f.no+1)
	}
}

// A walFile is one object. One that has no place in the log, like a history
// file, goes only with everything else.
type walFile struct {
	key   string
	size  int64 // bytes
	no    uint64
	inLog bool
}

// findFloors returns, per system, the smallest start of what is kept: valid
// backups, open pushes, and backups that may be taken back. A system without
// any has no floor.
func (c *collector) findFloors(ctx context.Context, v *view, young []*outcome) (map[string]floor, error) {
	sizes := c.segmentSizes(append(v.backups(), young...))
	floors := make(map[string]floor)
	lower := func(system string, start postgres.LSN) {
		size := sizes[system]
		if size == 0 {
			return
		}
		no := postgres.SegmentAt(1, start, size).No
		if f, ok := floors[system]; !ok || no < f.no {
			floors[system] = floor{no: no, size: size}
		}
	}
	for _, r := range v.of(valid) {
		if !slices.Contains(c.cfg.Ranges, r.Ref) {
			lower(r.outcome.system, r.outcome.needs.start)
		}
	}
	for _, o := range young {
		lower(o.system, o.needs.start)
	}
	for system, start := range c.cfg.Floors {
		lower(system, start)
	}
	for _, r := range v.of(open) {
		start, err := postgres.ParseLSN(r.intent.Start)
		if err != nil {
			return nil, fmt.Errorf("%s of %s: %w: start: %w", r.IntentKey(), c.b.URL(), chunkstore.ErrDamaged, err)
		}
		lower(r.intent.System, start)
	}
	return floors, nil
}

// segmentSizes returns the segment size of each system that marks or outcomes
// know.
func (c *collector) segmentSizes(outcomes []*outcome) map[string]postgres.SegmentSize {
	sizes := make(map[string]postgres.SegmentSize)
	for _, m := range c.marks {
		for system, size := range m.SegmentSizes {
			if s := postgres.SegmentSize(size); s.Check() == nil {
				sizes[system] = s
			}
		}
	}
	for _, o := range outcomes {
		if o.result == chunkstore.Commit {
			sizes[o.system] = o.needs.size
		}
	}
	return sizes
}

// horizons returns the highest horizon of marks per system, as segment numbers.
func horizons(marks []*chunkstore.StandingMark, sizes map[string]postgres.SegmentSize) (map[string]floor, error) {
	highest := make(map[string]floor)
	for _, m := range marks {
		for system, s := range m.Horizons {
			lsn, err := postgres.ParseLSN(s)
			if err != nil {
				return nil, fmt.Errorf("%s: %w: WAL horizon: %w", m.Keys()[0], chunkstore.ErrDamaged, err)
			}
			size := sizes[system]
			if size == 0 {
				continue
			}
			if no := postgres.SegmentAt(1, lsn, size).No; no >= highest[system].no {
				highest[system] = floor{no: no, size: size}
			}
		}
	}
	return highest, nil
}

// listWAL lists the WAL files that may be removed: those below the floor of
// their system or below what marks promised before, all segments of a system
// that has ended, and all files of one that nothing needs when the user wants
// everything gone.
func (c *collector) listWAL(ctx context.Context, floors map[string]floor) error {
	sizes := c.segmentSizes(c.before.backups())
	for system, f := range floors {
		sizes[system] = f.size
	}
	bounds, err := horizons(c.marks, sizes)
	if err != nil {
		return err
	}
	for system, f := range floors {
		if f.no > bounds[system].no {
			bounds[system] = f
		}
	}
	c.wal = make(map[string]*walFiles)
	needed := systemsInUse(c.before)
	orphans := make(map[string][]storage.Object) // of systems without a floor
	add := func(system string, f walFile, ended bool) {
		all := c.cfg.Everything && !needed[system]
		if !all && (!f.inLog || !ended && f.no >= bounds[system].no) {
			return
		}
		w := c.wal[system]
		if w == nil {
			w = &walFiles{all: all, ended: ended, top: floor{size: sizes[system]}}
			c.wal[system] = w
		}
		w.add(f)
	}
	for o, err := range c.b.List(ctx, walDir, "") {
		if err != nil {
			return err
		}
		system, name, ok := strings.Cut(strings.TrimPrefix(o.Key, walDir), "/")
		if !ok {
			continue
		}
		all := c.cfg.Everything && !needed[system]
		if all && sizes[system] == 0 {
			sizes[system] = postgres.DefaultSegmentSize
		}
		if _, bounded := floors[system]; !all && !bounded {
			orphans[system] = append(orphans[system], o)
			continue
		}
		add(system, newWALFile(o, name, sizes[system]), false)
	}
	ended, err := c.findEnded(ctx, orphans)
	if err != nil {
		return err
	}
	for _, system := range sortedKeys(orphans) {
		if size, ok := ended[system]; ok {
			sizes[system] = size
		}
		for _, o := range orphans[system] {
			_, over := ended[system]
			add(system, newWALFile(o, path.Base(o.Key), sizes[system]), over)
		}
	}
	return nil
}

func newWALFile(o storage.Object, name string, size postgres.SegmentSize) walFile {
	f := walFile{key: o.Key, size: o.Size}
	f.no, f.inLog = walNumber(name, size)
	return f
}

// systemsInUse are the systems that a backup or an open push belongs to.
func systemsInUse(v *view) map[string]bool {
	used := make(map[string]bool)
	for _, r := range v.of(valid) {
		used[r.outcome.system] = true
	}
	for _, r := range v.of(open) {
		used[r.intent.System] = true
	}
	return used
}

// walNumber returns the place in the log of a segment, or of the segment that a
// .partial or .backup file belongs to.
func walNumber(name string, size postgres.SegmentSize) (uint64, bool) {
	if size == 0 || len(name) < 24 {
		return 0, false
	}
	segment, rest := name[:24], name[24:]
	isBackup := len(rest) == len(".00000028.backup") && strings.HasSuffix(rest, ".backup")
	if rest != "" && rest != ".partial" && !isBackup {
		return 0, false
	}
	s, err := postgres.ParseSegment(segment, size)
	return s.No, err == nil
}

// raiseHorizons writes the horizons of a new mark, and tells whether there is
// WAL to remove that no mark covers.
func (c *collector) raiseHorizons(floors map[string]floor, m *chunkstore.Condemnation) bool {
	sizes := c.segmentSizes(c.before.backups())
	standing, err := horizons(c.marks, sizes)
	if err != nil {
		return false // listWAL has parsed them all
	}
	wanted := make(map[string]floor)
	for system, f := range floors {
		wanted[system] = f
	}
	for system, w := range c.wal {
		if w.all || w.ended {
			wanted[system] = w.top
		}
	}
	raised := false
	for system, f := range wanted {
		old := standing[system].no
		for _, file := range c.walOf(system).files {
			raised = raised || file.inLog && file.no >= old && file.no < f.no
		}
	}
	for system, f := range standing {
		if f.no > wanted[system].no {
			wanted[system] = f
		}
	}
	for system, f := range wanted {
		m.Horizons[system] = f.lsn()
		m.SegmentSizes[system] = uint32(f.size)
	}
	return raised
}

func (c *collector) walOf(system string) *walFiles {
	if w := c.wal[system]; w != nil {
		return w
	}
	return &walFiles{}
}

// sweepWAL is the WAL's part of G6: what lies below the horizon of a ripe mark
// and below what the view needs.
func (c *collector) sweepWAL(ctx context.Context, ripe []*chunkstore.StandingMark, after *view) error {
	sizes := c.segmentSizes(after.backups())
	for system, w := range c.wal {
		if sizes[system] == 0 {
			sizes[system] = w.top.size
		}
	}
	promised, err := horizons(ripe, sizes)
	if err != nil {
		return err
	}
	floors, err := c.findFloors(ctx, after, nil)
	if err != nil {
		return err
	}
	used := systemsInUse(after)
	var keys []string
	for _, system := range sortedKeys(c.wal) {
		w := c.wal[system]
		ranges := c.ranges(after, system)
		kept, bounded := floors[system]
		for _, f := range w.files {
			below := f.inLog && (f.no < promised[system].no || c.cfg.skip.horizonMark) &&
				(!bounded || f.no < kept.no || c.cfg.skip.horizonFresh)
			unknown := used[system] && !bounded && len(ranges) == 0 // a push of which the segment size isn't known
			everything := w.all && !used[system] && !f.inLog && len(ripe) == len(c.marks)
			switch {
			case below && !unknown && !within(ranges, f), everything:
				keys = append(keys, f.key)
				c.report.Freed.addWAL(f.size)
			case len(ripe) < len(c.marks) && (!bounded || f.no < kept.no):
				c.report.Pending.addWAL(f.size)
			}
		}
	}
	return c.deleteTold(ctx, keys)
}

// ranges returns the WAL of the backups of a system of which just that is kept.
func (c *collector) ranges(v *view, system string) []walRange {
	var list []walRange
	for _, r := range v.of(valid) {
		if r.outcome.system == system && slices.Contains(c.cfg.Ranges, r.Ref) {
			list = append(list, r.outcome.needs)
		}
	}
	return list
}

// within tells whether a range holds f.
func within(ranges []walRange, f walFile) bool {
	return slices.ContainsFunc(ranges, func(r walRange) bool { return f.inLog && f.no >= r.first() && f.no <= r.last() })
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

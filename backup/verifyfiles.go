package backup

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"wal-e/chunkstore"
	"wal-e/index"
	"wal-e/internal/chunk"
	"wal-e/internal/postgres"
)

// A walker walks the file table of one backup. Its files are looked at side by
// side.
type walker struct {
	v      *verifier
	ref    string
	reader *chunkstore.Reader
	files  *errgroup.Group

	count, bytes int64
	whole        bool // every node of the table was read
}

// walk reads all nodes and lists of backup i.
func (v *verifier) walk(ctx context.Context, i int) error {
	b := &v.backups[i]
	reader, err := v.store.NewReader(ctx, &b.footprint, v.table)
	if err != nil {
		return err
	}
	root, err := chunk.ParseID(b.manifest.Root)
	if err != nil {
		return err
	}
	w := &walker{v: v, ref: b.ref.String(), reader: reader, whole: true}
	var fctx context.Context
	w.files, fctx = errgroup.WithContext(ctx)
	w.files.SetLimit(v.cfg.Workers)
	err = w.node(fctx, root, maxDepth)
	if err == nil {
		w.control(fctx, b)
	}
	// An error of a file ends the context that the walk runs in, so it counts
	// before what the walk then said.
	if ferr := w.files.Wait(); ferr != nil {
		return ferr
	}
	if err != nil {
		return err
	}
	v.report.Backups[i].Files, v.report.Backups[i].Bytes = w.count, w.bytes
	if m := b.manifest; w.whole && (w.count != m.Files || w.bytes != m.Bytes) {
		v.problems.add(b.outcome.Key, fmt.Errorf("%w: manifest says %d files with %d bytes, the table lists %d with %d",
			chunkstore.ErrDamaged, m.Files, m.Bytes, w.count, w.bytes), w.ref, "")
	}
	return nil
}

// control looks at pg_control, whose entry stands in the manifest.
func (w *walker) control(ctx context.Context, b *validBackup) {
	e, rest, err := parseEntry(b.manifest.Control)
	if err == nil && (len(rest) != 0 || e.Type != File) {
		err = fmt.Errorf("%w: manifest has no entry of a file for pg_control", chunkstore.ErrDamaged)
	}
	if err != nil {
		w.whole = false
		w.v.problems.add(b.outcome.Key, err, w.ref, "global/pg_control")
		return
	}
	w.entry(ctx, e)
}

// node walks a subtree of the file table. One that can't be read is noted, and
// the walk goes on beside it.
func (w *walker) node(ctx context.Context, id chunk.ID, depth int) error {
	data, err := w.reader.Node(ctx, id)
	if err == nil && (len(data) == 0 || data[0] > innerNode || depth == 0) {
		err = fmt.Errorf("%w: node %s is none of a file table, or too deep in it", chunkstore.ErrDamaged, id)
	}
	if err != nil {
		return w.noteTable(ctx, err)
	}
	for rest := data[1:]; len(rest) > 0; {
		if data[0] == leafNode {
			var e Entry
			if e, rest, err = parseEntry(rest); err != nil {
				return w.noteTable(ctx, fmt.Errorf("node %s: %w", id, err))
			}
			w.entry(ctx, e)
			continue
		}
		if _, rest, err = parseString(rest); err != nil || len(rest) < chunk.HashSize {
			return w.noteTable(ctx, fmt.Errorf("node %s: %w", id, errShort))
		}
		child := chunk.ID(rest[:chunk.HashSize])
		rest = rest[chunk.HashSize:]
		if err := w.node(ctx, child, depth-1); err != nil {
			return err
		}
	}
	return nil
}

// entry looks at one entry, a file in a goroutine of its own.
func (w *walker) entry(ctx context.Context, e Entry) {
	if e.Type != File {
		return
	}
	w.count++
	w.bytes += e.Content.Size
	w.files.Go(func() error { return w.file(ctx, e) })
}

// file walks the lists of a file. Damage in one extent is noted before the next
// is looked at; other errors are returned.
func (w *walker) file(ctx context.Context, e Entry) error {
	noted := make(map[string]bool) // a file counts once for an object
	add := func(object string, err error) {
		if !noted[object] {
			noted[object] = true
			w.v.problems.add(object, err, w.ref, e.Path)
		}
	}
	lists, err := w.reader.Lists(ctx, e.Content)
	if err != nil {
		return w.note(ctx, err, add)
	}
	for i := range e.Content.Extents() {
		l, err := lists(ctx, i)
		if err == nil {
			err = w.list(l, e.Content, i, func(loc index.Location) {
				if w.v.bad.has(loc) {
					add(chunkstore.PackKey(loc.Pack), errIndex)
				}
			})
		}
		if err == nil {
			continue
		}
		if err := w.note(ctx, err, add); err != nil {
			return err
		}
	}
	return nil
}

// list makes sure that the chunks of a list are in the footprint and long
// enough for the slices that are taken from them.
func (w *walker) list(l chunkstore.List, c chunkstore.Content, extent int, visit func(index.Location)) error {
	left := c.Size
	if c.Extent > 0 {
		left = min(c.Extent, c.Size-int64(extent)*c.Extent)
	}
	var locations []index.Location // of the slices that aren't holes, in order
	if err := w.reader.Locate(l, func(loc index.Location) { locations = append(locations, loc) }); err != nil {
		return err
	}
	for _, s := range l {
		n := min(int64(s.Pages)*chunk.PageSize, left)
		left -= n
		if s.Zero {
			continue
		}
		loc := locations[0]
		locations = locations[1:]
		if int64(s.First)*chunk.PageSize+n > int64(loc.Length) {
			return fmt.Errorf("%w: %d bytes from page %d of chunk %s, which has %d", chunkstore.ErrDamaged, n, s.First, s.ID, loc.Length)
		}
		visit(loc)
	}
	return nil
}

// noteTable notes damage of the file table: which files it hides isn't known.
func (w *walker) noteTable(ctx context.Context, err error) error {
	w.whole = false
	return w.note(ctx, fmt.Errorf("file table: %w", err), func(object string, err error) {
		w.v.problems.add(object, err, w.ref, "")
	})
}

// note gives damage to add, with the object that has it, and returns errors
// that are none.
func (w *walker) note(ctx context.Context, err error, add func(object string, err error)) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if !isDamage(err) {
		return err
	}
	object := "lists of " + w.ref
	if packErr := (*chunkstore.PackError)(nil); errors.As(err, &packErr) {
		object = chunkstore.PackKey(packErr.Pack)
	}
	add(object, err)
	return nil
}

// verifyWAL looks for the segments from the start of each backup to its stop.
// An offline backup carries its own. A segment that several backups need is
// looked for and read once.
func (v *verifier) verifyWAL(ctx context.Context) error {
	if v.cfg.MissingWAL == nil {
		return nil
	}
	users := make(map[walName][]string)
	for _, b := range v.backups {
		if b.manifest.Kind == Offline {
			continue
		}
		start, stop := b.lsns()
		size := postgres.SegmentSize(b.manifest.SegmentSize)
		for seg := range postgres.Segments(b.manifest.Timeline, start, stop, size) {
			n := walName{b.manifest.System, seg.Name(size)}
			users[n] = append(users[n], b.ref.String())
		}
	}
	systems := make(map[string][]string)
	for n := range users {
		systems[n.system] = append(systems[n.system], n.name)
	}
	for _, system := range slices.Sorted(maps.Keys(systems)) {
		names := slices.Sorted(slices.Values(systems[system]))
		v.report.WAL += len(names)
		missing, err := v.cfg.MissingWAL(ctx, system, names)
		if err != nil {
			return fmt.Errorf("look for WAL of system %s: %w", system, err)
		}
		for _, name := range missing {
			for _, ref := range users[walName{system, name}] {
				v.problems.add(walProblem+name+" of system "+system, errMissing, ref, "")
			}
		}
		if err := v.readWAL(ctx, system, names, missing, users); err != nil {
			return err
		}
	}
	return nil
}

type walName struct{ system, name string }

func (v *verifier) readWAL(ctx context.Context, system string, names, missing []string, users map[walName][]string) error {
	if v.cfg.ReadWAL == nil || !v.cfg.ReadData || v.chosen != nil {
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(v.cfg.Workers)
	for _, name := range names {
		if slices.Contains(missing, name) {
			continue
		}
		v.report.ReadWAL++
		g.Go(func() error {
			damage, err := v.cfg.ReadWAL(ctx, system, name)
			if err != nil {
				return fmt.Errorf("read WAL segment %s of system %s: %w", name, system, err)
			}
			if damage != nil {
				for _, ref := range users[walName{system, name}] {
					v.problems.add(walProblem+name+" of system "+system, damage, ref, "")
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// problems collects what is wrong, one Problem per object.
type problems struct {
	mu      sync.Mutex
	objects map[string]*Problem
}

// filesPerProblem is how many files a Problem names.
const filesPerProblem = 10

// errIndex is told of a pack that is whole itself.
var errIndex = fmt.Errorf("%w: the index says other things of it than it does itself", chunkstore.ErrDamaged)

func newProblems() *problems { return &problems{objects: make(map[string]*Problem)} }

// add notes a problem of an object that a backup needs; the first error of an
// object is told. path is the file concerned, "" when that isn't known.
func (p *problems) add(object string, err error, ref, path string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.objects[object] == nil {
		p.objects[object] = &Problem{Object: object, Text: err.Error()}
	}
	p.objects[object].concern(ref, path)
}

func (p *Problem) concern(ref, path string) {
	if ref != "" && !slices.Contains(p.Backups, ref) {
		p.Backups = append(p.Backups, ref)
	}
	if path == "" {
		return
	}
	p.FileCount++
	if len(p.Files) < filesPerProblem && !slices.Contains(p.Files, path) {
		p.Files = append(p.Files, path)
	}
}

// list returns the problems, sorted.
func (p *problems) list() []Problem {
	list := []Problem{}
	for _, o := range p.objects {
		slices.Sort(o.Files)
		slices.Sort(o.Backups)
		list = append(list, *o)
	}
	slices.SortFunc(list, func(a, b Problem) int { return strings.Compare(a.Object, b.Object) })
	return list
}

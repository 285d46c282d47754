package backup

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"strconv"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"wal-e/chunkstore"
	"wal-e/internal/chunk"
	"wal-e/internal/fault"
	"wal-e/internal/progress"
)

// A source is one thing to copy: its entry without content, and for a file
// where to read it and how.
type source struct {
	entry  Entry
	path   string                   // of a File that may go unread; else ""
	open   func() (*os.File, error) // of a File
	verify pageCheck                // nil: not a relation, or no checksums
}

// pageCheck looks at the pages of data, which was read from offset of a file;
// reread reads a page of it again.
type pageCheck func(ctx context.Context, data []byte, offset int64, reread func(b []byte, offset int64) error) error

// A copier reads files and gives them to a push, extent by extent, on several
// cores also within one file. Memory: an extent per worker, and a bounded
// number of files under way.
type copier struct {
	push    *chunkstore.Push
	extent  int
	workers int
	limit   *rate.Limiter // of bytes read; nil: none

	progress *progress.Meter // nil: nobody looks

	notes noteTaker

	// What has been read but not added to the table, because an earlier file
	// isn't done, waits here by number.
	mu      sync.Mutex
	builder *tableBuilder
	next    int
	waiting map[int]arrival
	links   []Entry       // of tablespaces, as they were added
	window  chan struct{} // a place per source under way
}

// maxUnderWay bounds the files that are open or wait for an earlier one.
const maxUnderWay = 512

// copied is what a copier made of its sources.
type copied struct {
	root         chunk.ID
	files, bytes int64
}

// An arrival is what became of a source.
type arrival struct {
	entry *Entry    // nil: the file vanished
	note  *recalled // for the next push; nil: none
}

// An extentTask is one extent of a file to read and store.
type extentTask struct {
	file  *fileCopy
	index int
}

// A fileCopy is a file under way.
type fileCopy struct {
	number int
	source source
	file   *os.File
	size   int64
	before *recalled // what the last push saw; nil: nothing
	note   recalled  // for the next push; without a path: none

	mu    sync.Mutex
	left  int // extents that are not done
	first chunkstore.List
	nodes []chunk.ID // of lists, when there are several extents
	sums  []uint32   // CRC of each extent
}

// copyAll copies sources, which come in the order of their paths.
func (c *copier) copyAll(ctx context.Context, sources iter.Seq2[source, error]) (copied, error) {
	writer, err := c.push.NewWriter()
	if err != nil {
		return copied{}, err
	}
	c.builder = &tableBuilder{writer: writer}
	if err := c.notes.begin(c.push); err != nil {
		return copied{}, err
	}
	c.waiting, c.next, c.links = make(map[int]arrival), 0, nil
	c.window = make(chan struct{}, maxUnderWay)
	tasks := make(chan extentTask)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(tasks)
		return c.produce(ctx, sources, tasks)
	})
	for range c.workers {
		g.Go(func() error { return c.work(ctx, tasks) })
	}
	if err := g.Wait(); err != nil {
		return copied{}, err
	}
	root, err := c.builder.finish()
	return copied{root: root, files: c.builder.files, bytes: c.builder.bytes}, err
}

// produce opens the files and hands out their extents.
func (c *copier) produce(ctx context.Context, sources iter.Seq2[source, error], tasks chan<- extentTask) error {
	number := 0
	for s, err := range sources {
		if err != nil {
			return err
		}
		select {
		case c.window <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := c.begin(ctx, number, s, tasks); err != nil {
			return err
		}
		number++
	}
	return nil
}

func (c *copier) begin(ctx context.Context, number int, s source, tasks chan<- extentTask) error {
	if s.entry.Type != File {
		return c.done(number, arrival{entry: &s.entry})
	}
	before := c.notes.before.find(s.entry.Path)
	if e, note, ok := c.notes.unread(s, before); ok {
		c.progress.Skip(e.Content.Size)
		return c.done(number, arrival{e, note})
	}
	f, info, err := openFile(s)
	if errors.Is(err, fs.ErrNotExist) {
		return c.done(number, arrival{}) // dropped since it was listed; WAL replay knows
	}
	if err != nil {
		return err
	}
	fc := &fileCopy{number: number, source: s, file: f, size: info.Size(), before: before}
	beginReads(f)
	fc.left = int((fc.size + int64(c.extent) - 1) / int64(c.extent))
	fc.note = c.notes.note(s, info, fc.left)
	if fc.left == 0 {
		return c.finishFile(nil, fc)
	}
	fc.nodes, fc.sums = make([]chunk.ID, fc.left), make([]uint32, fc.left)
	for i := range fc.left {
		select {
		case tasks <- extentTask{fc, i}:
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), f.Close())
		}
	}
	return nil
}

func openFile(s source) (*os.File, fs.FileInfo, error) {
	f, err := s.open()
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fault.Unstorable.Errorf("%s is not a regular file any more", f.Name())
	}
	if err == nil && info.Size() > chunkstore.MaxFileSize {
		err = fault.Unstorable.Errorf("%s has %d bytes: at most %d can be stored", f.Name(), info.Size(), int64(chunkstore.MaxFileSize))
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, info, nil
}

// work reads and stores extents until there are none.
func (c *copier) work(ctx context.Context, tasks <-chan extentTask) error {
	writer, err := c.push.NewWriter()
	if err != nil {
		return err
	}
	buf := make([]byte, c.extent)
	for t := range tasks {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := c.copyExtent(ctx, writer, t, buf); err != nil {
			return fmt.Errorf("back up %s: %w", t.file.source.entry.Path, err)
		}
	}
	return nil
}

func (c *copier) copyExtent(ctx context.Context, writer *chunkstore.Writer, t extentTask, buf []byte) error {
	fc := t.file
	offset := int64(t.index) * int64(c.extent)
	buf = buf[:min(int64(c.extent), fc.size-offset)]
	if c.limit != nil {
		if err := c.limit.WaitN(ctx, len(buf)); err != nil {
			return err
		}
	}
	// What the server keeps in the page cache stays there, the rest isn't left
	// in its place.
	drop := uncached(fc.file, offset, int64(len(buf)))
	if err := readPadded(fc.file, buf, offset); err != nil {
		return err
	}
	if drop {
		dropCached(fc.file, offset, int64(len(buf)))
	}
	if fc.source.verify != nil {
		reread := func(b []byte, at int64) error { return readPadded(fc.file, b, at) }
		if err := fc.source.verify(ctx, buf, offset, reread); err != nil {
			return err
		}
	}
	fc.sums[t.index] = crc32.Checksum(buf, crc32.MakeTable(crc32.Castagnoli))
	now, err := writer.ExtentAfter(buf, c.notes.known(fc.before, t.index, writer.Sum))
	if err != nil {
		return err
	}
	if len(fc.nodes) > 1 {
		if fc.nodes[t.index], err = writer.ListNode(now.List); err != nil {
			return err
		}
	}
	c.progress.Add(int64(len(buf)))
	fc.note.extents[t.index] = c.notes.after.addExtent(writer.Sum, now)
	fc.mu.Lock()
	fc.first = now.List
	fc.left--
	last := fc.left == 0
	fc.mu.Unlock()
	if last {
		return c.finishFile(writer, fc)
	}
	return nil
}

// readPadded fills b from offset. A file that was cut short since it was
// opened is padded with zeros, as pg_basebackup does; replay cuts it again.
func readPadded(f *os.File, b []byte, offset int64) error {
	n, err := f.ReadAt(b, offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	clear(b[n:])
	return nil
}

// finishFile makes the entry of a file whose extents are all stored.
func (c *copier) finishFile(writer *chunkstore.Writer, fc *fileCopy) error {
	e := fc.source.entry
	for i, sum := range fc.sums {
		length := min(int64(c.extent), fc.size-int64(i)*int64(c.extent))
		e.CRC = combineCRC(e.CRC, sum, length)
	}
	c.notes.audit(fc, e.CRC)
	if err := fc.file.Close(); err != nil {
		return err
	}
	if fc.size == 0 {
		return c.done(fc.number, arrival{entry: &e})
	}
	nodes := fc.nodes
	if len(nodes) == 1 {
		nodes = nil
	}
	var err error
	if e.Content, err = writer.Content(fc.size, fc.first, nodes); err != nil {
		return err
	}
	return c.done(fc.number, arrival{&e, c.notes.finished(fc, &e)})
}

// done takes what became of a source and adds to the table all that is complete
// up to the first source that isn't.
func (c *copier) done(number int, a arrival) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting[number] = a
	for {
		a, ok := c.waiting[c.next]
		if !ok {
			return nil
		}
		delete(c.waiting, c.next)
		c.next++
		<-c.window
		e := a.entry
		if e == nil {
			continue
		}
		if a.note != nil {
			c.notes.after.addFile(c.builder.writer.Sum, a.note)
		}
		if e.Type == Symlink {
			c.links = append(c.links, *e)
		}
		if err := c.builder.add(*e); err != nil {
			return err
		}
	}
}

// tablespaces tells which tablespaces were copied, by their links.
func (c *copier) tablespaces() []Tablespace {
	spaces := []Tablespace{}
	for _, e := range c.links {
		oid, err := strconv.ParseUint(path.Base(e.Path), 10, 32)
		if err == nil {
			spaces = append(spaces, Tablespace{OID: uint32(oid), Location: e.Link})
		}
	}
	return spaces
}

// copyOne copies a single file outside of the table, and returns its entry.
func (c *copier) copyOne(entry Entry, data []byte) (Entry, error) {
	writer, err := c.push.NewWriter()
	if err != nil {
		return Entry{}, err
	}
	list, err := writer.Extent(data)
	if err != nil {
		return Entry{}, err
	}
	entry.CRC = crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli))
	entry.Content, err = writer.Content(int64(len(data)), list, nil)
	return entry, err
}

package backup

import (
	"bytes"
	"context"
	"fmt"
	"hash/crc32"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"wal-e/chunkstore"
	"wal-e/internal/chunk"
	"wal-e/internal/progress"
)

// A fileWriter writes the files of a cluster. Small ones are read from the archive
// together, for what lies beside each other in a pack is one request then. Of large
// ones, extent by extent, each worker has its own as long as there are files, since
// the kernel lets only one write to a file at a time; then they help each other.
type fileWriter struct {
	f     *fetcher
	whole bits // files that an earlier try wrote

	mu      sync.Mutex
	open    map[*restoredFile]bool
	written int64
}

// maxTogether is how many small files are read together at most.
const maxTogether = 64

// A restoreTask is a large file, or small ones.
type restoreTask struct {
	large *restoredFile
	small []Entry
}

// A restoredFile is a file under way.
type restoredFile struct {
	entry Entry
	site  *site
	rel   string // its path at the site
	file  *os.File
	dense bool // zeros are written too
	old   bool // something is there already: only what differs is written

	listing sync.Once
	lists   func(context.Context, int) (chunkstore.List, error)
	listErr error

	next atomic.Int64 // extent that nobody has begun
	left atomic.Int64 // extents that are not done
	sums []uint32     // CRC of each extent
}

// writeFiles writes all files that aren't whole yet.
func (f *fetcher) writeFiles(ctx context.Context) (err error) {
	w := &fileWriter{f: f, whole: f.survey.whole, open: make(map[*restoredFile]bool)}
	// pg_control comes last, and is no part of this.
	f.cfg.Progress.Begin("restore", progress.Bytes, f.b.Manifest.Bytes-int64(len(f.controlData))-f.survey.resumed, nil)
	tasks := make(chan restoreTask)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(tasks)
		return w.produce(gctx, tasks)
	})
	for range f.cfg.Workers {
		g.Go(func() error { return w.work(gctx, tasks) })
	}
	err = g.Wait()
	for r := range w.open {
		_ = r.file.Close() // it is not complete, and err says why
	}
	f.report.Written += w.written
	return err
}

// produce hands out the files in the order of the table, which is that of most
// packs.
func (w *fileWriter) produce(ctx context.Context, tasks chan<- restoreTask) error {
	hand := func(t restoreTask) error {
		select {
		case tasks <- t:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	var small []Entry
	var bytes int64
	for e, err := range w.f.files(ctx) {
		if err != nil {
			return err
		}
		if w.whole.has(e.number) {
			continue
		}
		if e.Content.Extent > 0 {
			r, err := w.prepare(e.Entry)
			if err == nil {
				err = w.create(r)
			}
			if err != nil {
				return fmt.Errorf("restore %s: %w", e.Path, err)
			}
			if err := hand(restoreTask{large: r}); err != nil {
				return err
			}
			continue
		}
		size := e.Content.Size
		if len(small) == maxTogether || len(small) > 0 && bytes+size > int64(w.f.cfg.Store.ExtentSize()) {
			if err := hand(restoreTask{small: small}); err != nil {
				return err
			}
			small, bytes = nil, 0
		}
		small, bytes = append(small, e.Entry), bytes+size
	}
	return hand(restoreTask{small: small})
}

// prepare opens a file if it is there already and may be written to.
func (w *fileWriter) prepare(e Entry) (*restoredFile, error) {
	r := &restoredFile{entry: e, dense: strings.HasPrefix(e.Path, walDirectory(w.f.version)+"/")}
	r.site, r.rel = w.f.site(e.Path)
	if w.f.again && !r.dense {
		var err error
		if r.file, err = openOld(r.site, r.rel); err != nil {
			return nil, err
		}
	}
	r.sums = make([]uint32, e.Content.Extents())
	r.left.Store(int64(len(r.sums)))
	if e.Content.Extent == 0 {
		r.next.Store(int64(len(r.sums))) // nobody helps with a small one
	}
	if r.old = r.file != nil; r.old {
		w.opened(r)
	}
	return r, nil
}

// create makes a file that isn't there, and gives it its size.
func (w *fileWriter) create(r *restoredFile) error {
	if r.file == nil {
		var err error
		if r.file, err = create(r.site, r.rel); err != nil {
			return err
		}
		w.opened(r)
	}
	// The parts that nobody writes are holes.
	if size := r.entry.Content.Size; r.old || size > 0 {
		return r.file.Truncate(size)
	}
	return nil
}

func (w *fileWriter) opened(r *restoredFile) {
	w.mu.Lock()
	w.open[r] = true
	w.mu.Unlock()
}

// A restoreBuffers is what a worker reads to.
type restoreBuffers struct{ data, old []byte }

// take returns n bytes of a buffer, which is made large enough.
func (w *fileWriter) take(buf *[]byte, n int64) []byte {
	if int64(cap(*buf)) < n {
		*buf = make([]byte, max(n, int64(w.f.cfg.Store.ExtentSize())))
	}
	return (*buf)[:n]
}

// work writes files until there are none.
func (w *fileWriter) work(ctx context.Context, tasks <-chan restoreTask) error {
	var b restoreBuffers
	for t := range tasks {
		var err error
		if t.large != nil {
			err = w.writeLarge(ctx, t.large, &b)
		} else {
			err = w.writeSmall(ctx, t.small, &b)
		}
		if err != nil {
			return err
		}
	}
	for r := w.unbegun(); r != nil; r = w.unbegun() {
		if err := w.writeLarge(ctx, r, &b); err != nil {
			return err
		}
	}
	return nil
}

// unbegun returns a file with an extent that nobody has begun, nil if there is none.
func (w *fileWriter) unbegun() *restoredFile {
	w.mu.Lock()
	defer w.mu.Unlock()
	for r := range w.open {
		if r.next.Load() < int64(len(r.sums)) {
			return r
		}
	}
	return nil
}

// begin returns an extent that nobody has begun, -1 if there is none.
func (r *restoredFile) begin() int {
	if i := r.next.Add(1) - 1; i < int64(len(r.sums)) {
		return int(i)
	}
	return -1
}

// writeLarge writes extents of a file until all are begun.
func (w *fileWriter) writeLarge(ctx context.Context, r *restoredFile, b *restoreBuffers) error {
	for i := r.begin(); i >= 0; i = r.begin() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := w.writeExtent(ctx, r, i, b); err != nil {
			return fmt.Errorf("restore %s: %w", r.entry.Path, err)
		}
	}
	return nil
}

func (w *fileWriter) writeExtent(ctx context.Context, r *restoredFile, i int, b *restoreBuffers) error {
	r.listing.Do(func() { r.lists, r.listErr = w.f.reader.Lists(ctx, r.entry.Content) })
	if r.listErr != nil {
		return r.listErr
	}
	list, err := r.lists(ctx, i)
	if err != nil {
		return err
	}
	n := r.length(i)
	p := chunkstore.Part{List: list, Data: w.take(&b.data, n)}
	if r.old {
		p.Version = r.readOld(w.take(&b.old, n), int64(i)*r.entry.Content.Extent)
	}
	if err := w.f.reader.Extents(ctx, []chunkstore.Part{p}); err != nil {
		return err
	}
	return w.put(r, i, p)
}

// readOld reads what is at an offset of a file; nil is what can't be read, and is
// written anew.
func (r *restoredFile) readOld(buf []byte, offset int64) []byte {
	if _, err := r.file.ReadAt(buf, offset); err != nil {
		return nil
	}
	return buf
}

// writeSmall writes files of one extent each. If they can't be had together, each is
// tried by itself, so that the error names the one that is concerned.
func (w *fileWriter) writeSmall(ctx context.Context, entries []Entry, b *restoreBuffers) error {
	err := w.writeTogether(ctx, entries, b)
	if err == nil || ctx.Err() != nil || len(entries) == 1 {
		if err != nil && len(entries) == 1 {
			err = fmt.Errorf("restore %s: %w", entries[0].Path, err)
		}
		return err
	}
	for i := range entries {
		if err := w.writeSmall(ctx, entries[i:i+1], b); err != nil {
			return err
		}
	}
	return nil
}

func (w *fileWriter) writeTogether(ctx context.Context, entries []Entry, b *restoreBuffers) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var total int64
	for _, e := range entries {
		total += e.Content.Size
	}
	data, old := w.take(&b.data, total), []byte(nil)
	files, parts := make([]*restoredFile, len(entries)), make([]chunkstore.Part, len(entries))
	var at int64
	for i, e := range entries {
		r, err := w.prepare(e)
		if err != nil {
			return err
		}
		end := at + e.Content.Size
		files[i], parts[i] = r, chunkstore.Part{List: e.Content.Inline, Data: data[at:end]}
		if r.old && end > at {
			if old == nil {
				old = w.take(&b.old, total)
			}
			if err := r.file.Truncate(e.Content.Size); err != nil {
				return err
			}
			parts[i].Version = r.readOld(old[at:end], 0)
		}
		at = end
	}
	if err := w.f.reader.Extents(ctx, parts); err != nil {
		return err
	}
	for i, r := range files {
		err := w.create(r)
		if err == nil && r.entry.Content.Size == 0 {
			err = w.finish(r)
		} else if err == nil {
			err = w.put(r, 0, parts[i])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// length returns the bytes of extent i.
func (r *restoredFile) length(i int) int64 {
	c := r.entry.Content
	if c.Extent == 0 {
		return c.Size
	}
	return min(c.Extent, c.Size-int64(i)*c.Extent)
}

// put writes an extent that was read.
func (w *fileWriter) put(r *restoredFile, i int, p chunkstore.Part) error {
	offset := int64(i) * r.entry.Content.Extent
	r.sums[i] = crc32.Checksum(p.Data, crc32.MakeTable(crc32.Castagnoli))
	var n int64
	var err error
	if r.old {
		n, err = r.writeDifference(p.Data, p.Version, offset)
	} else {
		n, err = r.writeAt(p.Data, p.List, offset)
	}
	if r.site.volume != nil && n > 0 {
		beginSync(r.file, offset, int64(len(p.Data)))
	}
	w.mu.Lock()
	w.written += n
	w.mu.Unlock()
	w.f.cfg.Progress.Add(int64(len(p.Data)))
	if err != nil {
		return err
	}
	if r.left.Add(-1) == 0 {
		return w.finish(r)
	}
	return nil
}

// writeAt writes an extent, but not its holes: the file is as long already, and
// a hole reads as zeros. WAL is written in full, since PostgreSQL counts on
// segments having their room.
func (r *restoredFile) writeAt(buf []byte, list chunkstore.List, offset int64) (written int64, err error) {
	if r.dense {
		n, err := r.file.WriteAt(buf, offset)
		return int64(n), err
	}
	at, from := 0, 0 // buf[from:at] is to be written
	flush := func() error {
		if from == at {
			return nil
		}
		n, err := r.file.WriteAt(buf[from:at], offset+int64(from))
		written += int64(n)
		return err
	}
	for _, s := range list {
		end := min(at+int(s.Pages)*chunk.PageSize, len(buf))
		if s.Zero {
			if err := flush(); err != nil {
				return written, err
			}
			from = end
		}
		at = end
	}
	return written, flush()
}

// writeDifference writes the pages of an extent in which it differs from what is
// there, all when old is nil.
func (r *restoredFile) writeDifference(buf, old []byte, offset int64) (written int64, err error) {
	if old == nil {
		n, err := r.file.WriteAt(buf, offset)
		return int64(n), err
	}
	for at := 0; at < len(buf); {
		end := min(at+chunk.PageSize, len(buf))
		if bytes.Equal(buf[at:end], old[at:end]) {
			at = end
			continue
		}
		for end < len(buf) {
			next := min(end+chunk.PageSize, len(buf))
			if bytes.Equal(buf[end:next], old[end:next]) {
				break
			}
			end = next
		}
		n, err := r.file.WriteAt(buf[at:end], offset+int64(at))
		written += int64(n)
		if err != nil {
			return written, err
		}
		at = end
	}
	return written, nil
}

// finish checks a file whose extents are all written, and makes it durable.
func (w *fileWriter) finish(r *restoredFile) error {
	var sum uint32
	for i, s := range r.sums {
		sum = combineCRC(sum, s, r.length(i))
	}
	if sum != r.entry.CRC {
		return fmt.Errorf("%w: its checksum is %08x, the backup says %08x", chunkstore.ErrDamaged, sum, r.entry.CRC)
	}
	if err := w.f.settle(r.file, r.entry); err != nil {
		return err
	}
	if err := r.site.sync(r.file); err != nil {
		return err
	}
	w.mu.Lock()
	delete(w.open, r)
	w.mu.Unlock()
	return r.file.Close()
}

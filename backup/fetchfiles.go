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
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"wal-e/chunkstore"
	"wal-e/internal/chunk"
	"wal-e/internal/progress"
)

// entries walks the file table.
func (f *fetcher) entries(ctx context.Context) iter.Seq2[Entry, error] {
	root, err := chunk.ParseID(f.b.Manifest.Root)
	if err != nil {
		return func(yield func(Entry, error) bool) { yield(Entry{}, err) }
	}
	return Entries(ctx, f.reader, root)
}

// files walks over the files that are to be written, with their numbers.
func (f *fetcher) files(ctx context.Context) iter.Seq2[numbered, error] {
	return func(yield func(numbered, error) bool) {
		number := 0
		for e, err := range f.entries(ctx) {
			if err != nil {
				yield(numbered{}, err)
				return
			}
			if e.Type != File {
				continue
			}
			number++
			if f.left(e) || f.isKept(e.Path, false) {
				continue
			}
			if !yield(numbered{e, number}, nil) {
				return
			}
		}
	}
}

type numbered struct {
	Entry
	number int
}

// A fileWriter writes files extent by extent, on several cores also within one
// file.
type fileWriter struct {
	f     *fetcher
	whole bits // files that an earlier try wrote

	mu      sync.Mutex
	open    map[*restoredFile]bool
	written int64
}

// A restoredFile is a file under way.
type restoredFile struct {
	entry Entry
	file  *os.File
	dense bool // zeros are written too

	listing sync.Once
	lists   func(context.Context, int) (chunkstore.List, error)
	listErr error

	mu   sync.Mutex
	left int      // extents that are not done
	sums []uint32 // CRC of each extent
}

// A restoreTask is one extent of a file to read and write.
type restoreTask struct {
	file  *restoredFile
	index int
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

// produce makes the files and hands out their extents.
func (w *fileWriter) produce(ctx context.Context, tasks chan<- restoreTask) error {
	for e, err := range w.f.files(ctx) {
		if err != nil {
			return err
		}
		if w.whole.has(e.number) {
			continue
		}
		if err := w.begin(ctx, e.Entry, tasks); err != nil {
			return fmt.Errorf("restore %s: %w", e.Path, err)
		}
	}
	return nil
}

func (w *fileWriter) begin(ctx context.Context, e Entry, tasks chan<- restoreTask) error {
	r := &restoredFile{entry: e, dense: strings.HasPrefix(e.Path, walDirectory(w.f.version)+"/")}
	var err error
	if r.file, err = w.f.create(e.Path); err != nil {
		return err
	}
	w.mu.Lock()
	w.open[r] = true
	w.mu.Unlock()
	if e.Content.Size == 0 {
		return w.finish(r)
	}
	// The parts that nobody writes are holes.
	if err := r.file.Truncate(e.Content.Size); err != nil {
		return err
	}
	r.left = e.Content.Extents()
	r.sums = make([]uint32, r.left)
	for i := range r.sums {
		select {
		case tasks <- restoreTask{r, i}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// create opens a file of the cluster, empty. Whatever an earlier try left there
// is replaced; so is a link that stands in for a configuration file.
func (f *fetcher) create(p string) (*os.File, error) {
	s, rel := f.site(p)
	if info, err := s.root.Lstat(rel); err == nil && !info.Mode().IsRegular() {
		if err := s.root.Remove(rel); err != nil {
			return nil, err
		}
	}
	const flags = os.O_RDWR | os.O_CREATE | os.O_TRUNC
	file, err := s.root.OpenFile(rel, flags, 0o600)
	if !errors.Is(err, fs.ErrNotExist) {
		return file, err
	}
	if i := strings.LastIndexByte(rel, '/'); i > 0 {
		if err := s.root.MkdirAll(rel[:i], 0o700); err != nil {
			return nil, err
		}
	}
	return s.root.OpenFile(rel, flags, 0o600)
}

// work reads and writes extents until there are none.
func (w *fileWriter) work(ctx context.Context, tasks <-chan restoreTask) error {
	var buf []byte
	for t := range tasks {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if n := t.file.length(t.index); int64(cap(buf)) < n {
			buf = make([]byte, max(n, int64(w.f.cfg.Store.ExtentSize())))
		}
		if err := w.write(ctx, t, buf[:t.file.length(t.index)]); err != nil {
			return fmt.Errorf("restore %s: %w", t.file.entry.Path, err)
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

func (w *fileWriter) write(ctx context.Context, t restoreTask, buf []byte) error {
	r := t.file
	r.listing.Do(func() { r.lists, r.listErr = w.f.reader.Lists(ctx, r.entry.Content) })
	if r.listErr != nil {
		return r.listErr
	}
	list, err := r.lists(ctx, t.index)
	if err != nil {
		return err
	}
	if err := w.f.reader.Extent(ctx, list, buf); err != nil {
		return err
	}
	r.sums[t.index] = crc32.Checksum(buf, crc32.MakeTable(crc32.Castagnoli))
	n, err := r.writeAt(buf, list, int64(t.index)*r.entry.Content.Extent)
	w.mu.Lock()
	w.written += n
	w.mu.Unlock()
	w.f.cfg.Progress.Add(int64(len(buf)))
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.left--
	last := r.left == 0
	r.mu.Unlock()
	if last {
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
	if err := r.file.Sync(); err != nil {
		return err
	}
	w.mu.Lock()
	delete(w.open, r)
	w.mu.Unlock()
	return r.file.Close()
}

// A bits is a set of small numbers.
type bits []uint64

func (b bits) has(n int) bool { return n/64 < len(b) && b[n/64]&(1<<(n%64)) != 0 }

func (b *bits) add(n int) {
	if need := n/64 + 1; len(*b) < need {
		*b = append(*b, make([]uint64, need-len(*b))...)
	}
	(*b)[n/64] |= 1 << (n % 64)
}

// verifyWritten finds the files that an earlier try wrote in full: those with the
// size and the CRC that the backup says. They are made durable, which that
// try may not have come to.
func (f *fetcher) verifyWritten(ctx context.Context) error {
	f.cfg.Progress.Begin("look at what is there", progress.Bytes, f.b.Manifest.Bytes, nil)
	g, gctx := errgroup.WithContext(ctx)
	queue := make(chan numbered)
	var mu sync.Mutex
	var whole bits
	count := int64(0)
	g.Go(func() error {
		defer close(queue)
		for e, err := range f.files(gctx) {
			if err != nil {
				return err
			}
			select {
			case queue <- e:
			case <-gctx.Done():
				return context.Cause(gctx)
			}
		}
		return nil
	})
	for range f.cfg.Workers {
		g.Go(func() error {
			for e := range queue {
				ok, err := f.isWritten(gctx, e.Entry)
				if err != nil {
					return fmt.Errorf("look at %s: %w", e.Path, err)
				}
				f.cfg.Progress.Add(e.Content.Size)
				if ok {
					mu.Lock()
					whole.add(e.number)
					count++
					f.survey.resumed += e.Content.Size
					mu.Unlock()
				}
			}
			return nil
		})
	}
	err := g.Wait()
	f.survey.whole, f.report.Resumed = whole, count
	return err
}

func (f *fetcher) isWritten(ctx context.Context, e Entry) (ok bool, err error) {
	s, rel := f.site(e.Path)
	file, err := s.root.OpenFile(rel, os.O_RDWR, 0)
	if err != nil {
		return false, nil // absent, or another thing: it is made anew
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() != e.Content.Size {
		return false, err
	}
	sum, err := sumFile(ctx, file)
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	if err != nil || sum != e.CRC {
		return false, nil // what can't be read is written anew
	}
	return true, errors.Join(f.settle(file, e), file.Sync())
}

// sumFile returns the CRC-32C of what is left of a file.
func sumFile(ctx context.Context, r io.Reader) (uint32, error) {
	buf := make([]byte, 1<<20)
	for sum := uint32(0); ; {
		n, err := r.Read(buf)
		sum = crc32.Update(sum, crc32.MakeTable(crc32.Castagnoli), buf[:n])
		if errors.Is(err, io.EOF) {
			return sum, nil
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return 0, err
		}
	}
}

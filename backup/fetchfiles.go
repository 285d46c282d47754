package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

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

// A fileWriter writes files extent by extent. Each worker has a file of its own as
// long as there are files, since the kernel lets only one write to a file at a time;
// then they help each other.
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
	site  *site
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
	files := make(chan *restoredFile)
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(files)
		return w.produce(gctx, files)
	})
	for range f.cfg.Workers {
		g.Go(func() error { return w.work(gctx, files) })
	}
	err = g.Wait()
	for r := range w.open {
		_ = r.file.Close() // it is not complete, and err says why
	}
	f.report.Written += w.written
	return err
}

// produce makes the files and hands them out.
func (w *fileWriter) produce(ctx context.Context, files chan<- *restoredFile) error {
	for e, err := range w.f.files(ctx) {
		if err != nil {
			return err
		}
		if w.whole.has(e.number) {
			continue
		}
		if err := w.begin(ctx, e.Entry, files); err != nil {
			return fmt.Errorf("restore %s: %w", e.Path, err)
		}
	}
	return nil
}

func (w *fileWriter) begin(ctx context.Context, e Entry, files chan<- *restoredFile) error {
	r := &restoredFile{entry: e, dense: strings.HasPrefix(e.Path, walDirectory(w.f.version)+"/")}
	var rel string
	r.site, rel = w.f.site(e.Path)
	var err error
	if w.f.again && !r.dense {
		if r.file, err = openOld(r.site, rel); err != nil {
			return err
		}
	}
	if r.old = r.file != nil; !r.old {
		if r.file, err = create(r.site, rel); err != nil {
			return err
		}
	}
	w.mu.Lock()
	w.open[r] = true
	w.mu.Unlock()
	// The parts that nobody writes are holes.
	if r.old || e.Content.Size > 0 {
		if err := r.file.Truncate(e.Content.Size); err != nil {
			return err
		}
	}
	if e.Content.Size == 0 {
		return w.finish(r)
	}
	r.sums = make([]uint32, e.Content.Extents())
	r.left.Store(int64(len(r.sums)))
	select {
	case files <- r:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// openOld opens a file of the cluster that is there already, nil if there is
// none that may be written to: other names of the same file would change with it.
func openOld(s *site, rel string) (*os.File, error) {
	info, err := s.root.Lstat(rel)
	if err != nil || !info.Mode().IsRegular() {
		return nil, nil // absent, or another thing: it is made anew
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || st.Nlink > 1 {
		return nil, nil
	}
	file, err := s.root.OpenFile(rel, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrPermission) {
		return nil, nil // its owner can still replace it
	}
	return file, err
}

// create makes a file of the cluster. Whatever is there goes: a link that stands
// in for a configuration file, or a file with other names.
func create(s *site, rel string) (*os.File, error) {
	const flags = os.O_RDWR | os.O_CREATE | os.O_EXCL
	file, err := s.root.OpenFile(rel, flags, 0o600)
	switch {
	case errors.Is(err, fs.ErrExist):
		err = s.root.RemoveAll(rel)
	case errors.Is(err, fs.ErrNotExist):
		err = s.root.MkdirAll(filepath.Dir(rel), 0o700)
	default:
		return file, err
	}
	if err != nil {
		return nil, err
	}
	return s.root.OpenFile(rel, flags, 0o600)
}

// work reads and writes extents until there are none.
func (w *fileWriter) work(ctx context.Context, files <-chan *restoredFile) error {
	var buf, old []byte
	for r := range w.turns(files) {
		for i := r.begin(); i >= 0; i = r.begin() {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			n := r.length(i)
			w.fit(&buf, n)
			have := []byte(nil)
			if r.old {
				w.fit(&old, n)
				have = old[:n]
			}
			if err := w.write(ctx, r, i, buf[:n], have); err != nil {
				return fmt.Errorf("restore %s: %w", r.entry.Path, err)
			}
		}
	}
	return nil
}

// turns yields the files that a worker takes up: new ones, and then those of others
// that aren't all begun.
func (w *fileWriter) turns(files <-chan *restoredFile) iter.Seq[*restoredFile] {
	return func(yield func(*restoredFile) bool) {
		for r := range files {
			if !yield(r) {
				return
			}
		}
		for r := w.unbegun(); r != nil; r = w.unbegun() {
			if !yield(r) {
				return
			}
		}
	}
}

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

// fit makes a worker's buffer large enough for an extent of n bytes.
func (w *fileWriter) fit(buf *[]byte, n int64) {
	if int64(cap(*buf)) < n {
		*buf = make([]byte, max(n, int64(w.f.cfg.Store.ExtentSize())))
	}
}

// length returns the bytes of extent i.
func (r *restoredFile) length(i int) int64 {
	c := r.entry.Content
	if c.Extent == 0 {
		return c.Size
	}
	return min(c.Extent, c.Size-int64(i)*c.Extent)
}

// write restores extent i by way of buf; old, nil for a new file, takes what is
// there.
func (w *fileWriter) write(ctx context.Context, r *restoredFile, i int, buf, old []byte) error {
	offset := int64(i) * r.entry.Content.Extent
	r.listing.Do(func() { r.lists, r.listErr = w.f.reader.Lists(ctx, r.entry.Content) })
	if r.listErr != nil {
		return r.listErr
	}
	list, err := r.lists(ctx, i)
	if err != nil {
		return err
	}
	if old != nil {
		if _, err := r.file.ReadAt(old, offset); err != nil {
			old = nil // what can't be read is written anew
		}
	}
	if err := w.f.reader.ExtentLike(ctx, list, buf, old); err != nil {
		return err
	}
	r.sums[i] = crc32.Checksum(buf, crc32.MakeTable(crc32.Castagnoli))
	var n int64
	if r.old {
		n, err = r.writeDifference(buf, old, offset)
	} else {
		n, err = r.writeAt(buf, list, offset)
	}
	if r.site.volume != nil && n > 0 {
		beginSync(r.file, offset, int64(len(buf)))
	}
	w.mu.Lock()
	w.written += n
	w.mu.Unlock()
	w.f.cfg.Progress.Add(int64(len(buf)))
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
	f.survey.whole = whole
	if f.marker != nil || !f.delta {
		f.report.Resumed = count
	}
	if f.delta {
		f.report.Delta.Files, f.report.Delta.Bytes = count, f.survey.resumed
	}
	return err
}

func (f *fetcher) isWritten(ctx context.Context, e Entry) (ok bool, err error) {
	s, rel := f.site(e.Path)
	file, err := openOld(s, rel)
	if file == nil || err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	info, err := file.Stat()
	if err != nil || info.Size() != e.Content.Size {
		return false, err
	}
	sum, err := sumFile(ctx, file)
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	if err != nil || sum != e.CRC {
		return false, nil // what can't be read is written anew
	}
	return true, errors.Join(f.settle(file, e), s.sync(file))
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

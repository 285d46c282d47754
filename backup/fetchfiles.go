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
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sync/errgroup"

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
//
// What that try, or a server, couldn't make durable may still be in the page cache,
// where it looks whole, and no later sync tells of it: the kernel reports that once.
// So all that waits is written, and the files are read from the device.
func (f *fetcher) verifyWritten(ctx context.Context) error {
	if err := f.syncVolumes(); err != nil {
		return err
	}
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
	if s.volume == nil {
		_ = file.Sync() // what it couldn't write differs below
	}
	dropCached(file, 0, 0)
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

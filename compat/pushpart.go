package compat

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/time/rate"

	"wal-e/compat/lzop"
	"wal-e/internal/fault"
	"wal-e/internal/progress"
	"wal-e/internal/storage"
)

// readStep is how much of a file is read at once, and the burst of a rate limit.
const readStep = 256 << 10

// store stores a partition that fill writes. fill is called again when the store
// asks for the partition again.
func (p *pusher) store(ctx context.Context, number int, fill func(*partitionWriter) error, cores int) (err error) {
	key := p.name.Partition(number)
	log := p.cfg.Log
	log.InfoContext(ctx, "begin uploading a base backup volume",
		"detail", fmt.Sprintf("Uploading to %q.", p.cfg.Bucket.URL()+"/"+key))
	var files, bytes int64 // of the last time
	whole := false
	write := func(w io.Writer) error {
		z := lzop.NewWriter(w, lzop.Header{ModTime: p.began}, cores)
		part := &partitionWriter{tar: tar.NewWriter(z), limit: p.limit, progress: p.cfg.Progress, still: p.cfg.Offline}
		if err := fill(part); err != nil {
			return err
		}
		if err := part.tar.Close(); err != nil {
			return err
		}
		files, bytes, whole = part.files, part.bytes, true
		return z.Close()
	}
	body := &stream{write: func(w io.Writer) error { return p.cfg.Encrypt.sealed(w, write) }}
	err = p.cfg.Bucket.Create(ctx, key, body, -1, nil)
	sent := body.pos
	err = errors.Join(err, body.Close())
	if errors.Is(err, storage.ErrExist) && whole {
		// Nobody else stores partitions beside our version file: the answer to
		// an earlier try was lost.
		var a storage.Attributes
		a, err = p.cfg.Bucket.Stat(ctx, key)
		sent = a.Size
	}
	if err != nil {
		return err
	}
	p.files.Add(files)
	p.bytes.Add(bytes)
	p.stored.Add(sent)
	log.InfoContext(ctx, "finish uploading a base backup volume",
		"detail", fmt.Sprintf("Uploading to %q complete.", p.cfg.Bucket.URL()+"/"+key))
	return nil
}

// A partitionWriter writes members.
type partitionWriter struct {
	tar   *tar.Writer
	limit *rate.Limiter
	still bool // the cluster is stopped: nothing changes, and no WAL would repair it
	buf   []byte

	progress *progress.Meter

	files, bytes int64
}

// file adds a file, a directory or a link. One that has vanished is left out: if
// it belonged to the cluster, WAL says so, unless that is stopped.
func (w *partitionWriter) file(ctx context.Context, f found) error {
	h, err := header005(f.info, f.link)
	if err != nil {
		return err
	}
	h.Name = filepath.ToSlash(f.name)
	switch {
	case f.name == ".":
		h.Name = "/" // the original's empty name, as it stands in the archive
	case f.info.IsDir():
		h.Name += "/"
	}
	if h.Typeflag != tar.TypeReg {
		return w.tar.WriteHeader(h)
	}
	in, err := os.Open(f.abs)
	if errors.Is(err, fs.ErrNotExist) && !w.still {
		return nil
	}
	if err != nil {
		return err
	}
	defer in.Close() // only read
	if w.still {
		now, err := in.Stat()
		if err != nil {
			return err
		}
		if now.Size() != h.Size {
			return errChanged
		}
	}
	if err := w.tar.WriteHeader(h); err != nil {
		return err
	}
	w.files++
	w.bytes += h.Size
	return w.content(ctx, in, h.Size)
}

// errChanged is what there is to say when a stopped cluster didn't stand still.
var errChanged = fault.Changed.Errorf("its size changed while the stopped cluster was backed up: see that nothing works on the cluster, and run the backup again")

// header005 is the header of a member as the original has it: pax, whose times
// have fractions.
func header005(info fs.FileInfo, link string) (*tar.Header, error) {
	h, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return nil, err
	}
	h.Format = tar.FormatPAX
	h.AccessTime, h.ChangeTime = time.Time{}, time.Time{}
	h.PAXRecords = nil
	return h, nil
}

// content copies exactly size bytes: a file that grew is cut, one that shrank is
// filled up with zeros, as the header has the size of before. WAL repairs both.
func (w *partitionWriter) content(ctx context.Context, in io.Reader, size int64) error {
	if w.buf == nil {
		w.buf = make([]byte, readStep)
	}
	ended := false
	for left := size; left > 0; {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		b := w.buf[:min(left, readStep)]
		if ended {
			clear(b)
		} else {
			if w.limit != nil {
				if err := w.limit.WaitN(ctx, len(b)); err != nil {
					return err
				}
			}
			n, err := io.ReadFull(in, b)
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				ended, err = true, nil
				clear(b[n:])
			}
			if ended && w.still {
				err = errChanged
			}
			if err != nil {
				return err
			}
		}
		if _, err := w.tar.Write(b); err != nil {
			return err
		}
		w.progress.Add(int64(len(b)))
		left -= int64(len(b))
	}
	return nil
}

// made adds a file that isn't on disk. It belongs to whom owner does.
func (w *partitionWriter) made(f made, owner fs.FileInfo, now time.Time) error {
	h, err := header005(owner, "")
	if err != nil {
		return err
	}
	h.Name, h.Size, h.Mode, h.ModTime = f.name, int64(len(f.data)), 0o600, now
	if err := w.tar.WriteHeader(h); err != nil {
		return err
	}
	w.files++
	w.bytes += h.Size
	_, err = w.tar.Write(f.data)
	return err
}

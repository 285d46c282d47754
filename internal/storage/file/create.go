package file

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"wal-e/internal/storage"
)

const (
	fileMode = 0o640 // less the umask
	dirMode  = 0o750

	blockSize = 256 << 10 // written between two looks at the context

	// lostRaces bounds how often a directory may be removed, by those who
	// trim empty ones, between making it and making a file in it.
	lostRaces = 100
)

// errContent marks errors of the reader that Create was given: they say nothing
// about the bucket.
var errContent = errors.New("read content")

// Create implements storage.Bucket.
func (b *Bucket) Create(ctx context.Context, key string, r io.Reader, size int64, meta storage.Meta) error {
	err := checkKey(key)
	if err == nil {
		err = storage.CheckMeta(meta)
	}
	if err == nil {
		err = b.create(ctx, b.path(key), r, size, meta)
	}
	if err != nil {
		return b.fail("create", key, err)
	}
	return nil
}

func (b *Bucket) create(ctx context.Context, path string, r io.Reader, size int64, meta storage.Meta) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, err := os.Lstat(path); err == nil {
		return b.taken(path) // before its content is written for nothing
	}
	dir := filepath.Dir(path)
	tmp, err := b.writeTemp(ctx, dir, r, size, meta)
	if err == nil {
		if err = b.publish(ctx, tmp, path); errors.Is(err, fs.ErrExist) {
			return b.taken(path)
		}
	}
	if err != nil {
		// What could not be trimmed is empty directories; err tells more.
		_ = b.trim(dir)
		return err
	}
	return b.settle(dir)
}

// taken says why path cannot be created: ErrExist when an object is there. The
// winner of a race may not have made its name durable yet, and whoever gets
// ErrExist relies on the object, so that is done first.
func (b *Bucket) taken(path string) error {
	info, err := os.Stat(path)
	if err == nil && info.IsDir() {
		return fmt.Errorf("%w: %s is a folder of objects", storage.ErrInvalid, path)
	}
	if err == nil {
		err = b.settle(filepath.Dir(path))
	}
	if err != nil && !absent(err) {
		return err
	}
	return storage.ErrExist
}

// writeTemp returns the path of a new hidden file in dir that holds all of r
// and is durable, but for its name. On an error there is none.
func (b *Bucket) writeTemp(ctx context.Context, dir string, r io.Reader, size int64, meta storage.Meta) (string, error) {
	f, err := b.openTemp(ctx, dir)
	if err != nil {
		return "", err
	}
	err = b.fill(ctx, f, r, size, meta)
	if err != nil {
		_ = f.Close() // err came first
	} else {
		err = b.call("close", f.Name(), f.Close)
	}
	if err != nil {
		return "", errors.Join(err, b.unlink(f.Name()))
	}
	return f.Name(), nil
}

// fill writes metadata and content to a new file and makes them durable.
func (b *Bucket) fill(ctx context.Context, f *os.File, r io.Reader, size int64, meta storage.Meta) error {
	if len(meta) > 0 {
		if err := b.call("setxattr", f.Name(), func() error { return setMeta(f, meta) }); err != nil {
			return err
		}
	}
	block := int64(blockSize)
	if size >= 0 && size < block {
		block = size + 1
	}
	w := &blockWriter{b: b, f: f}
	written, err := io.CopyBuffer(w, storage.ExactReader(ctx, storage.Paced(ctx, r), size), make([]byte, block))
	switch {
	case w.err != nil:
		return w.err
	case err != nil:
		return fmt.Errorf("%w: %w", errContent, err)
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() != written {
		return fmt.Errorf("%s has %d bytes after %d were written", f.Name(), info.Size(), written)
	}
	return b.call("fsync", f.Name(), f.Sync)
}

// blockWriter has Write alone, so that io.CopyBuffer goes block by block.
type blockWriter struct {
	b   *Bucket
	f   *os.File
	err error // of the file
}

func (w *blockWriter) Write(p []byte) (n int, err error) {
	w.err = w.b.call("write", w.f.Name(), func() (err error) {
		n, err = w.f.Write(p)
		return err
	})
	return n, w.err
}

// openTemp makes a hidden file in dir, and dir when it is missing. The file
// keeps those who trim empty directories from removing dir.
func (b *Bucket) openTemp(ctx context.Context, dir string) (f *os.File, err error) {
	for range lostRaces {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		path := filepath.Join(dir, tmpPrefix+rand.Text())
		err = b.call("open", path, func() (err error) {
			f, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
			return err
		})
		switch {
		case err == nil:
			return f, nil
		case errors.Is(err, fs.ErrExist):
		case absent(err):
			if err := b.makeDirs(dir); err != nil {
				return nil, err
			}
		default:
			return nil, err
		}
	}
	return nil, err
}

// publish gives the file tmp the name path as well, unless that is taken
// (fs.ErrExist), and removes the name tmp.
func (b *Bucket) publish(ctx context.Context, tmp, path string) error {
	err := ctx.Err()
	if err == nil {
		err = b.link(tmp, path)
	}
	// Once linked, a name that stays behind is litter like that of a killed
	// process: hidden, and swept by a later Delete.
	if uerr := b.unlink(tmp); err != nil {
		err = errors.Join(err, uerr)
	}
	return err
}

func (b *Bucket) link(tmp, path string) error {
	err := b.call("link", path, func() error { return os.Link(tmp, path) })
	switch {
	case errors.Is(err, fs.ErrExist) && sameFile(tmp, path):
		return nil // a network file system lost the first answer and asked twice
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.ENOSYS), errors.Is(err, errors.ErrUnsupported):
		rerr := b.call("rename", path, func() error { return renameNoReplace(tmp, path) })
		if errors.Is(rerr, syscall.EINVAL) || errors.Is(rerr, errors.ErrUnsupported) {
			return &kindError{kind: errors.ErrUnsupported, err: fmt.Errorf(
				"this file system can neither link a file (%w) nor rename one without replacing (%w): choose another for the archive",
				err, rerr)}
		}
		return rerr
	}
	return err
}

func sameFile(a, b string) bool {
	x, err := os.Lstat(a)
	if err != nil {
		return false
	}
	y, err := os.Lstat(b)
	return err == nil && os.SameFile(x, y)
}

// unlink removes a file; that it is not there is success.
func (b *Bucket) unlink(path string) error {
	err := b.call("unlink", path, func() error { return unlink(path) })
	if absent(err) {
		return nil
	}
	return err
}

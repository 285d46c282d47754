package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"wal-e/internal/storage"
)

// Get implements storage.Bucket.
func (b *Bucket) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	err := checkKey(key)
	if err == nil && offset < 0 {
		err = fmt.Errorf("%w: offset %d", storage.ErrInvalid, offset)
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, b.fail("get", key, err)
	}
	f, size, err := openObject(b.path(key))
	if err != nil {
		return nil, b.fail("get", key, err)
	}
	left := max(size-offset, 0)
	if length >= 0 {
		left = min(left, length)
	}
	if _, err := f.Seek(min(offset, size), io.SeekStart); err != nil {
		_ = f.Close() // nothing was read
		return nil, b.fail("get", key, err)
	}
	return storage.PacedBody(ctx, &body{ctx: ctx, b: b, key: key, f: f, left: left}), nil
}

// openObject opens the regular file at path and returns its size.
func openObject(path string) (*os.File, int64, error) {
	// Without O_NONBLOCK the open of a named pipe waits for a writer.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, notThere(err)
	}
	info, err := f.Stat()
	if err == nil {
		err = checkRegular(path, info)
	}
	if err != nil {
		_ = f.Close() // nothing was read
		return nil, 0, err
	}
	return f, info.Size(), nil
}

// notThere turns the ways in which a path can lead nowhere into ErrNotExist.
func notThere(err error) error {
	if absent(err) {
		return storage.ErrNotExist
	}
	return err
}

// checkRegular tells objects from what else a path may name. A folder is no
// object of that name.
func checkRegular(path string, info os.FileInfo) error {
	switch {
	case info.IsDir():
		return storage.ErrNotExist
	case !info.Mode().IsRegular():
		return fmt.Errorf("%w: %s is not a regular file (%s)", storage.ErrInvalid, path, info.Mode())
	}
	return nil
}

// body is the part of a file that a Get asked for.
type body struct {
	ctx  context.Context // of the Get: a read that nobody waits for ends
	b    *Bucket
	key  string
	f    *os.File
	left int64 // bytes
}

func (o *body) Read(p []byte) (int, error) {
	if err := o.ctx.Err(); err != nil {
		return 0, o.b.fail("read", o.key, err)
	}
	if o.left == 0 {
		return 0, io.EOF
	}
	n, err := o.f.Read(p[:min(int64(len(p)), o.left)])
	o.left -= int64(n)
	switch {
	case err == io.EOF && o.left > 0:
		err = o.b.fail("read", o.key, fmt.Errorf("%s lost its last %d bytes while it was read: %w",
			o.f.Name(), o.left, io.ErrUnexpectedEOF))
	case err != nil && err != io.EOF:
		err = o.b.fail("read", o.key, err)
	}
	return n, err
}

func (o *body) Close() error {
	if err := o.f.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return o.b.fail("close", o.key, err)
	}
	return nil
}

// Stat implements storage.Bucket.
func (b *Bucket) Stat(ctx context.Context, key string) (storage.Attributes, error) {
	a, err := b.stat(ctx, key)
	if err != nil {
		return storage.Attributes{}, b.fail("stat", key, err)
	}
	return a, nil
}

func (b *Bucket) stat(ctx context.Context, key string) (a storage.Attributes, err error) {
	if err := checkKey(key); err != nil {
		return a, err
	}
	if err := ctx.Err(); err != nil {
		return a, err
	}
	path := b.path(key)
	info, err := os.Stat(path)
	if err != nil {
		return a, notThere(err)
	}
	if err := checkRegular(path, info); err != nil {
		return a, err
	}
	a.Object = storage.Object{Key: key, Size: info.Size(), ModTime: info.ModTime()}
	a.Meta, err = getMeta(path)
	return a, notThere(err)
}

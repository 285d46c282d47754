package compat

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"wal-e/compat/lzop"
	"wal-e/internal/fault"
	"wal-e/internal/postgres"
	"wal-e/internal/storage"
)

// A PushedWAL says what PushWAL did.
type PushedWAL struct {
	Key    string
	Stored int64 // bytes sent; 0 if the archive held the file already
}

// ErrConflict is wrapped when the archive holds other bytes under the name of a
// WAL file.
var ErrConflict = errors.New("the archive holds another file of that name")

// PushWAL archives the file at path in the classic layout. When it returns nil, the
// bytes of the file are durable in the archive: stored now, or before. Unlike the original
// it never replaces what is there: two servers that archive to one prefix would
// destroy each other's archive.
func PushWAL(ctx context.Context, cfg WALConfig, path string) (PushedWAL, error) {
	p := PushedWAL{Key: WALKey(filepath.Base(path))}
	f, err := os.Open(path)
	if err != nil {
		return PushedWAL{}, fmt.Errorf("compat: push: %w", err)
	}
	defer f.Close() // only read
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fault.BadSegment.Errorf("%s is not a regular file", path)
	}
	if err == nil {
		err = checkLocal(f, info.Size())
	}
	if err != nil {
		return PushedWAL{}, fmt.Errorf("compat: push: %w", err)
	}
	body := &stream{write: func(w io.Writer) error {
		return cfg.Encrypt.sealed(w, func(w io.Writer) error { return packWAL(ctx, w, f, info, cfg.Workers) })
	}}
	err = cfg.Bucket.Create(ctx, p.Key, body, -1, nil)
	p.Stored = body.pos
	err = errors.Join(err, body.Close())
	if errors.Is(err, storage.ErrExist) {
		p.Stored = 0
		return p, compareWAL(ctx, cfg, p.Key, f, info)
	}
	if err != nil {
		return PushedWAL{}, fmt.Errorf("compat: push %s: %w", path, err)
	}
	return p, nil
}

// checkLocal refuses a file that no fetch would take: in a recovery it would be where
// it ends.
func checkLocal(f *os.File, size int64) error {
	name := filepath.Base(f.Name())
	if size == 0 && postgres.ParseWALFile(name).Kind != postgres.OtherFile {
		return fault.BadSegment.Errorf("%s is empty: it was never written, or lost with a crash", f.Name())
	}
	head := &header{}
	if _, err := io.Copy(head, io.NewSectionReader(f, 0, postgres.WALHeaderSize)); err != nil {
		return err
	}
	if err := head.check(name, size, 0); err != nil {
		return fault.BadSegment.Errorf("%s: %v", f.Name(), err)
	}
	return nil
}

// PushWALContent is PushWAL of a file that is at hand in memory.
func PushWALContent(ctx context.Context, cfg WALConfig, name string, content []byte, modTime time.Time) (PushedWAL, error) {
	p := PushedWAL{Key: WALKey(name)}
	body := &stream{write: func(w io.Writer) error {
		return cfg.Encrypt.sealed(w, func(w io.Writer) error {
			z := lzop.NewWriter(w, lzop.Header{ModTime: modTime, Mode: syscall.S_IFREG | 0o600}, cfg.Workers)
			if _, err := z.Write(content); err != nil {
				return err
			}
			return z.Close()
		})
	}}
	err := cfg.Bucket.Create(ctx, p.Key, body, -1, nil)
	p.Stored = body.pos
	err = errors.Join(err, body.Close())
	if errors.Is(err, storage.ErrExist) {
		p.Stored = 0
		return p, compareContent(ctx, cfg, p.Key, name, bytes.NewReader(content), int64(len(content)))
	}
	if err != nil {
		return PushedWAL{}, fmt.Errorf("compat: push %s: %w", name, err)
	}
	return p, nil
}

// packWAL writes what the original would have stored of a file, and fails if the
// file changes meanwhile.
func packWAL(ctx context.Context, w io.Writer, f *os.File, info fs.FileInfo, workers int) error {
	header := lzop.Header{ModTime: info.ModTime()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		header.Mode = st.Mode
	}
	z := lzop.NewWriter(w, header, workers)
	n, err := io.Copy(z, contextReader{ctx, io.NewSectionReader(f, 0, info.Size()+1)})
	if err != nil {
		return err
	}
	if err := unchanged(f, info, n); err != nil {
		return err
	}
	return z.Close()
}

func unchanged(f *os.File, info fs.FileInfo, n int64) error {
	now, err := f.Stat()
	if err != nil {
		return err
	}
	if n != info.Size() || now.Size() != info.Size() || !now.ModTime().Equal(info.ModTime()) {
		return fault.BadSegment.Errorf("%s changed while it was read", f.Name())
	}
	return nil
}

// compareWAL returns nil if the archive holds the bytes of f.
func compareWAL(ctx context.Context, cfg WALConfig, key string, f *os.File, info fs.FileInfo) error {
	if err := compareContent(ctx, cfg, key, f.Name(), io.NewSectionReader(f, 0, info.Size()), info.Size()); err != nil {
		return err
	}
	return unchanged(f, info, info.Size())
}

// compareContent returns nil if the archive holds the size bytes of content, which
// have a name for people.
func compareContent(ctx context.Context, cfg WALConfig, key, name string, content io.Reader, size int64) (err error) {
	r, err := openObject(ctx, cfg.Bucket, key, cfg.Decrypt, cfg.Workers)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	c := &comparer{with: content}
	n, err := io.Copy(c, contextReader{ctx, r})
	if errors.Is(err, errDiffers) || err == nil && n != size {
		return fmt.Errorf("compat: push %s: %w: %s in %s has other content. Nothing was replaced. "+
			"See whether another server archives to this prefix; if the stored one is not needed, remove it", name, ErrConflict, key, cfg.Bucket.URL())
	}
	return err
}

var errDiffers = errors.New("compat: internal: content differs")

// A comparer takes bytes that are to be those of a reader.
type comparer struct {
	with io.Reader
	buf  []byte
}

func (c *comparer) Write(p []byte) (int, error) {
	if cap(c.buf) < len(p) {
		c.buf = make([]byte, len(p))
	}
	b := c.buf[:len(p)]
	switch _, err := io.ReadFull(c.with, b); {
	case err == io.EOF, err == io.ErrUnexpectedEOF:
		return 0, errDiffers
	case err != nil:
		return 0, err
	}
	if !bytes.Equal(b, p) {
		return 0, errDiffers
	}
	return len(p), nil
}

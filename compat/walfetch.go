package compat

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"wal-e/internal/fault"
	"wal-e/internal/postgres"
	"wal-e/internal/storage"
)

// WALConfig says how WAL is read. Bucket is required.
type WALConfig struct {
	Bucket  storage.Bucket
	Decrypt Decrypt // nil: encrypted files can't be read
	Encrypt Encrypt // of pushes; nil: they are stored in the clear
	// System is the cluster that asks; a segment of another one is refused. Zero
	// takes any.
	System  postgres.SystemID
	Workers int // blocks at once; 0 means 1
}

// FetchWAL puts the WAL file name at the path dest. When it returns nil, dest is
// complete, verified and durable; otherwise dest is as it was before. A file that
// isn't there gives an error that wraps storage.ErrNotExist.
func FetchWAL(ctx context.Context, cfg WALConfig, name, dest string) (err error) {
	if name == "" || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("compat: fetch %q: it is no name of a WAL file", name)
	}
	if info, err := os.Lstat(dest); err == nil && !info.Mode().IsRegular() {
		return fault.LocalFile.Errorf("compat: fetch %s: destination %s exists and is not a regular file", name, dest)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("compat: fetch %s: %w", name, err)
	}
	r, err := openObject(ctx, cfg.Bucket, WALKey(name), cfg.Decrypt, cfg.Workers)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	dir := filepath.Dir(dest)
	// The prefix is that under which later fetches look for what a killed one left.
	w, err := os.CreateTemp(dir, ".wal-e-fetch-"+name+"-*")
	if err != nil {
		return fmt.Errorf("compat: fetch %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			// err says what went wrong; what can't be removed is swept later.
			_ = w.Close()
			_ = os.Remove(w.Name())
		}
	}()
	if err := copyWAL(ctx, cfg, name, w, r); err != nil {
		return err
	}
	if info, serr := os.Stat(dir); serr == nil && info.Mode().Perm()&0o040 != 0 {
		err = w.Chmod(0o640) // a cluster whose folders the group may read has such files
	}
	for _, step := range []func() error{w.Sync, w.Close, func() error { return os.Rename(w.Name(), dest) }, func() error { return syncDirectory(dir) }} {
		if err == nil {
			err = step()
		}
	}
	if err != nil {
		return fmt.Errorf("compat: fetch %s to %s: %w", name, dest, err)
	}
	return nil
}

// copyWAL copies a WAL file and looks whether it is what its name says.
func copyWAL(ctx context.Context, cfg WALConfig, name string, w io.Writer, r io.Reader) error {
	head := &header{}
	n, err := io.Copy(io.MultiWriter(head, w), contextReader{ctx, r})
	if err != nil {
		return about(cfg.Bucket, WALKey(name), err)
	}
	if err := head.check(name, n, cfg.System); err != nil {
		return about(cfg.Bucket, WALKey(name), err)
	}
	return nil
}

// A header keeps the first bytes written to it.
type header struct{ b []byte }

func (h *header) Write(p []byte) (int, error) {
	h.b = append(h.b, p[:min(len(p), postgres.WALHeaderSize-len(h.b))]...)
	return len(p), nil
}

// ErrBadWAL is wrapped when a WAL file is not what its name says.
var ErrBadWAL = errors.New("wrong WAL file")

// check compares a segment's header with its name, its length, and the cluster
// that asks. The original looked at nothing; two servers that archived to one
// prefix have overwritten each other's segments.
func (h *header) check(name string, length int64, system postgres.SystemID) error {
	f := postgres.ParseWALFile(name)
	if f.Kind != postgres.SegmentFile {
		return nil
	}
	w, err := postgres.ParseWALHeader(h.b)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBadWAL, err)
	}
	seg, err := postgres.ParseSegment(f.Segment, w.SegmentSize)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrBadWAL, err)
	case length != int64(w.SegmentSize):
		return fmt.Errorf("%w: it has %d bytes, and segments of its cluster have %d", ErrBadWAL, length, w.SegmentSize)
	case seg.Start(w.SegmentSize) != w.PageAddr:
		return fmt.Errorf("%w: it holds the WAL from %s on, not that from %s on", ErrBadWAL, w.PageAddr, seg.Start(w.SegmentSize))
	case system != 0 && system != w.SystemID:
		return fmt.Errorf("%w: it is of the cluster with the system identifier %s, not of %s", ErrBadWAL, w.SystemID, system)
	}
	return nil
}

type contextReader struct {
	ctx context.Context // of the call that reads
	r   io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// Package file is the bucket in a directory: one file per object, at the path
// that is its key.
//
// It promises what storage.Bucket asks for, also to several processes and to
// several hosts that share a file system with working link(2): an object is
// written under a hidden name, synced, and linked to its own, so that it
// appears complete or not at all and one of several writers wins. What Create
// has reported, also as ErrExist, survives a power cut, with the directories
// that lead to it.
//
// On NFS and the like that holds between processes of one host. Listings that other
// hosts make may lag, which Weakness says.
//
// Metadata is kept in extended attributes; a file system without them gives
// storage.ErrNoMeta. As keys are paths, no key may continue another one after
// a slash. Symbolic links are followed, so that a part of the tree can be
// moved to another disk; links that form a loop are an error of List.
package file

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"wal-e/internal/storage"
)

// tmpPrefix begins the names of files that are still being written. No key
// holds such an element, and no listing shows one.
const tmpPrefix = ".wal-e-tmp-"

// lostFound is made by file systems in their root, for root alone to read. It
// is no part of a bucket that is the root of one.
const lostFound = "lost+found"

// A Bucket keeps objects as files below a directory. It is made by Open and
// safe for concurrent use.
type Bucket struct {
	dir  string // absolute and clean
	now  func() time.Time
	hook func(op, path string) error // seen before each change by tests; may be nil
	kind func(dir string) (string, error)

	mu      sync.Mutex
	settled map[string]bool // directories whose own names are known to be durable
	swept   map[string]bool // directories searched for what killed processes left
}

// Open returns the bucket in dir, which must be an absolute path. A directory
// that is not there is an empty bucket and made by the first Create.
func Open(dir string) (*Bucket, error) {
	if !filepath.IsAbs(dir) || strings.ContainsRune(dir, 0) {
		return nil, fmt.Errorf("%w: storage directory %q is not an absolute path", storage.ErrInvalid, dir)
	}
	dir = filepath.Clean(dir)
	info, err := os.Stat(dir)
	switch {
	case err == nil && !info.IsDir():
		return nil, fmt.Errorf("%w: storage directory %s is not a directory", storage.ErrInvalid, dir)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("open storage directory: %w", translate(err))
	}
	return &Bucket{
		dir:     dir,
		now:     time.Now,
		kind:    networkKind,
		settled: make(map[string]bool),
		swept:   make(map[string]bool),
	}, nil
}

// URL implements storage.Bucket.
func (b *Bucket) URL() string {
	return "file://localhost" + strings.TrimSuffix(b.dir, "/")
}

// path returns where the object named key is.
func (b *Bucket) path(key string) string {
	return filepath.Join(b.dir, filepath.FromSlash(key))
}

// checkKey refuses what storage.CheckKey does, and the names that the bucket
// or the file system keeps for itself.
func checkKey(key string) error {
	if err := storage.CheckKey(key); err != nil {
		return err
	}
	if strings.HasPrefix(key, lostFound+"/") {
		return fmt.Errorf("%w: key %q is in %s", storage.ErrInvalid, key, lostFound)
	}
	for element := range strings.SplitSeq(key, "/") {
		if strings.HasPrefix(element, tmpPrefix) {
			return fmt.Errorf("%w: key %q holds an element that begins with %s", storage.ErrInvalid, key, tmpPrefix)
		}
	}
	return nil
}

// call makes one change to the file system.
func (b *Bucket) call(op, path string, change func() error) error {
	if b.hook != nil {
		if err := b.hook(op, path); err != nil {
			return &fs.PathError{Op: op, Path: path, Err: err}
		}
	}
	return change()
}

// fail adds to err what was asked for.
func (b *Bucket) fail(op, key string, err error) error {
	if key == "" {
		return fmt.Errorf("%s %s: %w", op, b.URL(), translate(err))
	}
	return fmt.Errorf("%s %q in %s: %w", op, key, b.URL(), translate(err))
}

// translate makes of an operating system's error the one that callers of a
// bucket look for. The text stays: it names the path.
func translate(err error) error {
	switch {
	case errors.Is(err, errContent):
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return &kindError{kind: storage.ErrPermission, err: err}
	case errors.Is(err, syscall.ENAMETOOLONG), errors.Is(err, syscall.ELOOP), errors.Is(err, syscall.ENOTDIR):
		return &kindError{kind: storage.ErrInvalid, err: err}
	}
	return err
}

type kindError struct{ kind, err error }

func (e *kindError) Error() string   { return e.err.Error() }
func (e *kindError) Unwrap() []error { return []error{e.kind, e.err} }

// absent reports whether err says that nothing is at a path.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"syscall"
	"time"

	"wal-e/internal/storage"
	"wal-e/internal/storage/file"
)

// A use says how a subcommand means to use the archive.
type use struct {
	requests int           // sent at once; 0 means 16
	patience time.Duration // how long storage that can't be reached is tried; 0 means 5 minutes, negative once
	reads    bool          // the archive must be there: an absent directory is not an empty archive
}

// idle is how long a server may be silent; 0 means as long as ever. Who waits for a
// few seconds only must not spend more on one request.
func (u use) idle() time.Duration {
	if u.patience <= 0 || u.patience >= 30*time.Second {
		return 0
	}
	return max(u.patience, 2*time.Second)
}

// openBucket opens the archive. Requests that fail for a reason that may pass
// are sent again.
func (s *session) openBucket(u use) (storage.Bucket, error) {
	b, err := s.openStore(u)
	if err != nil {
		return nil, err
	}
	if u.requests == 0 {
		u.requests = 16
	}
	return storage.Retry(storage.Limit(b, u.requests), s.retryPolicy(u)), nil
}

// openStore is where stores are made of prefixes.
func (s *session) openStore(u use) (storage.Bucket, error) {
	switch p := s.prefix; p.scheme {
	case "file":
		b, err := file.Open(p.dir())
		switch {
		case err != nil:
			return nil, fmt.Errorf("%s: %w", p.source, err)
		case u.reads:
			return mounted{Bucket: b, dir: p.dir(), wait: u.patience > 0}, nil
		}
		return b, nil
	case "s3":
		return s.openS3(u)
	case "swift":
		return s.openSwift(u)
	case "gs":
		return s.openGS(u)
	case "wabs":
		return s.openWABS(u)
	}
	panic("wal-e: a prefix has the scheme " + s.prefix.scheme) // parsePrefix lets no other pass
}

func (s *session) retryPolicy(u use) storage.Policy {
	p := storage.Policy{Attempts: s.attempts, Total: u.patience, Log: s.log}
	switch {
	case u.patience < 0:
		p.Attempts = 1
	case p.Attempts == 0 && u.patience > 0:
		p.Attempts = -1 // time alone decides
		p.Longest = 5 * time.Second
	case p.Attempts != 0 && u.patience == 0:
		p.Total = -1 // their number alone decides
	}
	return p
}

// mounted is file storage for readers. The directory may be on a file system
// that isn't mounted; an archive that isn't there holds nothing, but that
// proves nothing.
type mounted struct {
	storage.Bucket
	dir  string
	wait bool // it may be mounted any moment, so it is asked again
}

// An unmountedError says that the directory of file storage isn't there.
type unmountedError struct {
	dir  string
	wait bool
}

func (e *unmountedError) Error() string {
	return fmt.Sprintf("storage directory %s does not exist: is its file system mounted?", e.dir)
}

// Is tells storage.Retry whether it is worth while to ask again.
func (e *unmountedError) Is(target error) bool { return target == syscall.ENOENT && !e.wait }

// Unwrap lets storage.Weakness look behind it.
func (m mounted) Unwrap() storage.Bucket { return m.Bucket }

// present returns err, unless it says that an object is absent and the whole
// archive is.
func (m mounted) present(err error) error {
	if err != nil && !errors.Is(err, storage.ErrNotExist) {
		return err
	}
	if _, serr := os.Stat(m.dir); errors.Is(serr, fs.ErrNotExist) {
		return &unmountedError{m.dir, m.wait}
	}
	return err
}

func (m mounted) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	body, err := m.Bucket.Get(ctx, key, offset, length)
	if err != nil {
		return nil, m.present(err)
	}
	return body, nil
}

func (m mounted) Stat(ctx context.Context, key string) (storage.Attributes, error) {
	a, err := m.Bucket.Stat(ctx, key)
	if err != nil {
		err = m.present(err)
	}
	return a, err
}

func (m mounted) List(ctx context.Context, prefix, startAfter string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		if err := m.present(nil); err != nil {
			yield(storage.Object{}, err)
			return
		}
		m.Bucket.List(ctx, prefix, startAfter)(yield)
	}
}

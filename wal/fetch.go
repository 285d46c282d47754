package wal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"wal-e/internal/fault"
	"wal-e/internal/storage"
)

// A Fetched says what Fetch did.
type Fetched struct {
	Identity
	Key string
}

// Fetch puts the archived file name at the path dest. When it returns nil, dest
// is complete, proven to be what was pushed, and durable; otherwise dest is as it
// was before (or complete, if only the fsync of its folder failed). A file that the archive is proven not to hold gives ErrNotFound,
// one that was altered in the archive a *DamagedError.
//
// The system identifier is that of global/pg_control in Config.WorkDir; without
// one it is the only one that the archive holds files of. With Config.System no
// more than one request is made for a file that is there.
func Fetch(ctx context.Context, cfg Config, name, dest string) (Fetched, error) {
	return fetch(ctx, cfg, name, dest, nil)
}

// fetch also takes the CRC-32C of the content when sum isn't nil.
func fetch(ctx context.Context, cfg Config, name, dest string, sum *uint32) (Fetched, error) {
	began := time.Now()
	if err := checkName(name); err != nil {
		return Fetched{}, err
	}
	if err := checkDest(dest); err != nil {
		return Fetched{}, fmt.Errorf("wal: fetch %s: %w", name, err)
	}
	system, err := cfg.archiveSystem(ctx, name)
	if err != nil {
		return Fetched{}, err
	}
	fetched := Fetched{Key: Key(system, name)}
	t := &tempFile{cfg: cfg, name: name, dest: dest, sum: sum}
	defer t.discard()
	fetched.Identity, err = readObject(ctx, cfg, fetched.Key, expectation{system: system, name: name}, t.write)
	if errors.Is(err, storage.ErrNotExist) {
		return Fetched{}, absent(cfg.Bucket, system, name)
	}
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		err = t.commit()
	}
	if err != nil {
		return Fetched{}, err
	}
	cfg.log().DebugContext(ctx, "wal file fetched",
		"file", name, "key", fetched.Key, "bytes", fetched.Length, "took", time.Since(began))
	return fetched, nil
}

// checkDest refuses a destination that is more than a plain file's place:
// renaming a file over a device or a link would destroy that.
func checkDest(dest string) error {
	info, err := os.Lstat(dest)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fault.LocalFile.Errorf("destination %s exists and is not a regular file", dest)
	}
	return nil
}

// A tempFile is what becomes the destination once it is complete. It appears
// with its first bytes, and holds a lock that its process gives up only by
// ending.
type tempFile struct {
	cfg  Config
	name string // of the WAL file
	dest string

	f    *os.File // nil before the first bytes
	size int64    // bytes written
	sent int64    // of these, on their way to the disk
	sum  *uint32  // CRC-32C of what was written, if it is wanted
	done bool     // it is the destination now
}

// tempPrefix begins the names of temporary files in the destination's folder.
const tempPrefix = ".wal-e-fetch-"

func (t *tempFile) dir() string { return filepath.Dir(t.dest) }

func (t *tempFile) before(op, path string) error {
	if t.cfg.hook == nil {
		return nil
	}
	return t.cfg.hook(op, path)
}

func (t *tempFile) create() error {
	info, err := os.Stat(t.dir())
	if err != nil {
		return err
	}
	removeStale(t.cfg, t.dir())
	if err := t.before("create", t.dir()); err != nil {
		return err
	}
	if t.f, err = os.CreateTemp(t.dir(), tempPrefix+t.name+"-*"); err != nil {
		return err
	}
	_ = tryLock(t.f) // without locks, age alone tells what is stale
	if info.Mode().Perm()&0o040 != 0 {
		// A cluster whose folders the group may read has such files too.
		return t.f.Chmod(0o640)
	}
	return nil
}

// write adds a piece.
func (t *tempFile) write(piece []byte) error {
	if t.f == nil {
		if err := t.create(); err != nil {
			return t.wrap(err)
		}
		if t.cfg.Found != nil {
			t.cfg.Found()
		}
	}
	if err := t.before("write", t.f.Name()); err != nil {
		return t.wrap(err)
	}
	if t.sum != nil {
		*t.sum = checksum(*t.sum, piece)
	}
	n, err := t.f.Write(piece)
	t.size += int64(n)
	if t.size-t.sent >= ahead {
		// The disk works meanwhile, and the fsync has less to wait for. Where this
		// isn't known, nothing is lost.
		_ = unix.SyncFileRange(int(t.f.Fd()), t.sent, t.size-t.sent, unix.SYNC_FILE_RANGE_WRITE)
		t.sent = t.size
	}
	return t.wrap(err)
}

// ahead is how much is sent to the disk at once before the file is complete.
const ahead = 2 << 20 // bytes

func (t *tempFile) wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("wal: fetch %s to %s: %w", t.name, t.dest, err)
}

// commit makes the file durable and then the destination.
func (t *tempFile) commit() error {
	if t.f == nil { // a file of no bytes
		if err := t.create(); err != nil {
			return t.wrap(err)
		}
	}
	for _, step := range []struct {
		op string
		do func() error
	}{
		{"sync", t.f.Sync},
		{"close", t.f.Close},
		{"rename", t.rename},
		{"syncdir", func() error { return syncDir(t.dir()) }},
	} {
		err := t.before(step.op, t.f.Name())
		if err == nil {
			err = step.do()
		}
		if err != nil {
			return t.wrap(err)
		}
	}
	return nil
}

func (t *tempFile) rename() error {
	if err := os.Rename(t.f.Name(), t.dest); err != nil {
		return err
	}
	t.done = true
	return nil
}

// discard removes what did not become the destination.
func (t *tempFile) discard() {
	if t.f == nil || t.done {
		return
	}
	_ = t.f.Close() // its content is not wanted, or it is closed already
	if err := os.Remove(t.f.Name()); err != nil {
		t.cfg.log().Warn("temporary file could not be removed", "error", err)
	}
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}

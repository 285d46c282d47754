package file

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"wal-e/internal/storage"
)

// staleAfter is the age from which a hidden file is taken for the litter of a
// killed process. Its time is renewed with every write.
const staleAfter = 24 * time.Hour

// makeDirs makes dir and the directories above it, each durable in its parent.
// Those who trim may have removed dir when it returns.
func (b *Bucket) makeDirs(dir string) error {
	err := b.mkdir(dir)
	if absent(err) && dir != filepath.Dir(dir) {
		if err := b.makeDirs(filepath.Dir(dir)); err != nil {
			return err
		}
		err = b.mkdir(dir)
	}
	switch {
	case absent(err):
		return nil
	case errors.Is(err, fs.ErrExist):
		info, err := os.Stat(dir)
		if err != nil && !absent(err) {
			return err
		}
		if err == nil && !info.IsDir() {
			return fmt.Errorf("%w: %s is an object, so there can be none below it", storage.ErrInvalid, dir)
		}
	case err != nil:
		return err
	}
	return b.syncDir(filepath.Dir(dir))
}

func (b *Bucket) mkdir(dir string) error {
	return b.call("mkdir", dir, func() error { return os.Mkdir(dir, dirMode) })
}

// syncDir makes the names in dir durable. A directory that is gone has none.
func (b *Bucket) syncDir(dir string) error {
	err := b.call("fsync", dir, func() error {
		d, err := os.Open(dir)
		if err != nil {
			return err
		}
		defer d.Close()
		return d.Sync()
	})
	// Some file systems have no fsync of directories and do without.
	if absent(err) || errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	return err
}

// settle makes the names in dir durable, and once in the life of the bucket
// those that lead there from its root: another process may have made them and
// not have come as far as syncing.
func (b *Bucket) settle(dir string) error {
	if err := b.syncDir(dir); err != nil {
		return err
	}
	var above []string
	for d := dir; d != b.dir && !b.isSettled(d); d = filepath.Dir(d) {
		if err := b.syncDir(filepath.Dir(d)); err != nil {
			return err
		}
		above = append(above, d)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, d := range above {
		b.settled[d] = true
	}
	return nil
}

func (b *Bucket) isSettled(dir string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.settled[dir]
}

// trim removes dir and the directories above it as far as they are empty, but
// never the bucket's own.
func (b *Bucket) trim(dir string) error {
	synced := ""
	for ; dir != b.dir; dir = filepath.Dir(dir) {
		b.mu.Lock()
		delete(b.settled, dir)
		b.mu.Unlock()
		err := b.call("rmdir", dir, func() error { return rmdir(dir) })
		if err == nil {
			synced = filepath.Dir(dir)
			continue
		}
		if !absent(err) {
			// Not empty, a mount point, a symbolic link, not ours to remove:
			// an empty directory that stays does no harm.
			break
		}
	}
	if synced == "" {
		return nil
	}
	return b.syncDir(synced)
}

// sweep removes what processes that were killed in the midst of a Create have
// left in dir, once in the life of the bucket.
func (b *Bucket) sweep(dir string) error {
	b.mu.Lock()
	done := b.swept[dir]
	b.swept[dir] = true
	b.mu.Unlock()
	if done {
		return nil
	}
	return eachEntry(dir, func(e fs.DirEntry) error {
		if !strings.HasPrefix(e.Name(), tmpPrefix) {
			return nil
		}
		info, err := e.Info()
		if absent(err) {
			return nil
		}
		if err != nil || !info.Mode().IsRegular() || b.now().Sub(info.ModTime()) < staleAfter {
			return err
		}
		return b.unlink(filepath.Join(dir, e.Name()))
	})
}

// eachEntry calls visit with the entries of dir, in no order. A directory that
// is not there, or goes away meanwhile, has no more of them.
func eachEntry(dir string, visit func(fs.DirEntry) error) error {
	d, err := os.Open(dir)
	if absent(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	for {
		entries, err := d.ReadDir(1024)
		for _, e := range entries {
			if err := visit(e); err != nil {
				return err
			}
		}
		if err == io.EOF || absent(err) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

package drill

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	folderPrefix = "wal-e-drill-"
	lockName     = "lock" // held by the process whose folder it is
	keptName     = "kept" // stands instead in a folder that is to stay
	// removalTime is how long something may still be written while a folder is
	// removed: by a server that is just ending, or by its restore_command.
	removalTime = 10 * time.Second
)

// A Folder is a temporary folder of a drill. This process holds a lock in it as long
// as it lives, so that RemoveStale knows the folders of processes that were killed.
type Folder struct {
	Path string // absolute
	lock *os.File
}

// MakeFolder makes a folder in parent that only this user may enter.
func MakeFolder(parent string) (*Folder, error) {
	parent, err := filepath.Abs(parent)
	if err != nil {
		return nil, err
	}
	// Another drill may take a folder for stale as long as its lock isn't held.
	const attempts = 10
	for range attempts {
		path, err := os.MkdirTemp(parent, folderPrefix)
		if err != nil {
			return nil, err
		}
		lock, err := os.OpenFile(filepath.Join(path, lockName), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, errors.Join(err, os.Remove(path))
		}
		f := &Folder{Path: path, lock: lock}
		switch held, err := f.hold(); {
		case err != nil:
			return nil, errors.Join(err, lock.Close(), os.RemoveAll(path))
		case held:
			return f, nil
		}
		_ = lock.Close() // who took it removes it
	}
	return nil, fmt.Errorf("folder for the drill in %s: others removed %d of them at once", parent, attempts)
}

// hold takes the lock, and tells whether this process has it and the folder stands.
func (f *Folder) hold() (bool, error) {
	err := syscall.Flock(int(f.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("lock %s: %w", f.lock.Name(), err)
	}
	ours, err := f.lock.Stat()
	if err != nil {
		return false, err
	}
	there, err := os.Lstat(f.lock.Name())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(ours, there), err
}

// Keep leaves the folder to people; RemoveStale doesn't touch it.
func (f *Folder) Keep() error {
	return errors.Join(os.Rename(f.lock.Name(), filepath.Join(f.Path, keptName)), f.lock.Close())
}

// Remove removes the folder with all that is in it.
func (f *Folder) Remove() error {
	return errors.Join(removeFolder(f.Path), f.lock.Close())
}

// removeFolder removes the lock last: a folder that is half removed is still known.
func removeFolder(path string) error {
	for end := time.Now().Add(removalTime); ; time.Sleep(100 * time.Millisecond) {
		err := removeOnce(path)
		if !errors.Is(err, syscall.ENOTEMPTY) && !errors.Is(err, syscall.EEXIST) || time.Now().After(end) {
			return err
		}
	}
}

func removeOnce(path string) error {
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == lockName {
			continue
		}
		if err := os.RemoveAll(filepath.Join(path, e.Name())); err != nil {
			return err
		}
	}
	return os.RemoveAll(path)
}

// RemoveStale removes the folders in parent that drills of this user left when they
// were killed. It returns their paths, and those of folders of which it can't tell
// whose they are: programs before there was a lock made them.
func RemoveStale(parent string) (removed, unknown []string, err error) {
	if parent, err = filepath.Abs(parent); err != nil {
		return nil, nil, err
	}
	entries, err := os.ReadDir(parent)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		path := filepath.Join(parent, e.Name())
		if !strings.HasPrefix(e.Name(), folderPrefix) || !ownFolder(path) {
			continue
		}
		stale, known, err := removeIfStale(path)
		switch {
		case err != nil:
			return removed, unknown, fmt.Errorf("remove what a drill left: %w", err)
		case stale:
			removed = append(removed, path)
		case !known:
			unknown = append(unknown, path)
		}
	}
	return removed, unknown, nil
}

// ownFolder tells whether path is a folder of this user: others may write to the
// folder that it is in, too.
func ownFolder(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || !info.IsDir() {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Getuid()
}

// removeIfStale removes a folder whose process is dead. Known tells whether it can
// be told whether that is so.
func removeIfStale(path string) (stale, known bool, err error) {
	lock, err := os.OpenFile(filepath.Join(path, lockName), os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		if os.Remove(path) == nil {
			return true, true, nil // it was empty; MakeFolder notices
		}
		// By now it may have a lock, or be gone.
		entries, err := os.ReadDir(path)
		known := len(entries) == 0 || slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == lockName || e.Name() == keptName })
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return false, known, err
	}
	if err != nil {
		return false, true, err
	}
	f := &Folder{Path: path, lock: lock}
	held, err := f.hold()
	if err != nil || !held {
		return false, true, errors.Join(err, lock.Close())
	}
	return true, true, f.Remove()
}

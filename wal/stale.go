package wal

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	// newborn is how long a temporary file may exist before its process has
	// locked it.
	newborn = time.Minute
	// abandoned is when a temporary file is stale whatever its lock says: some
	// file systems have none.
	abandoned = 24 * time.Hour
)

// removeStale removes from dir what fetches left that were killed. Nothing
// depends on its success.
func removeStale(cfg Config, dir string) {
	d, err := os.Open(dir)
	if err != nil {
		return
	}
	names, _ := d.Readdirnames(-1) // those read before an error are good
	_ = d.Close()
	for _, name := range names {
		if !strings.HasPrefix(name, tempPrefix) {
			continue
		}
		path := filepath.Join(dir, name)
		if !isStale(path) {
			continue
		}
		if err := os.Remove(path); err == nil {
			cfg.log().Info("removed what a killed fetch left", "file", path)
		}
	}
}

func isStale(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() {
		return false
	}
	age := time.Since(info.ModTime())
	if age > abandoned {
		return true
	}
	if age < newborn {
		return false
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	return tryLock(f) == nil
}

// tryLock locks f for this process until f is closed, or fails at once.
func tryLock(f *os.File) error {
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
}

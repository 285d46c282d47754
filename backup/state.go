package backup

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// A state is the local folder of one cluster under one prefix. It holds what a
// push may lose at the cost of bytes or time: the index table, a lock, and an
// id by which later pushes know runs that were begun here.
type state struct {
	dir    string
	hostID string
	lock   *os.File
}

// ErrBusy is wrapped when another push of the cluster runs on this host.
var ErrBusy = errors.New("another backup-push of this cluster is running on this host")

// openState takes the lock of a state folder, which is made if need be.
func openState(dir string) (*state, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder := make([]byte, 32)
		n, _ := f.ReadAt(holder, 0) // only for the message
		_ = f.Close()               // nothing was written
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w (pid %s): wait for it to end", ErrBusy, strings.TrimSpace(string(holder[:n])))
		}
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	s := &state{dir: dir, lock: f}
	// The pid in the lock file is for people; without it the lock still holds.
	_ = f.Truncate(0)
	_, _ = f.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	if s.hostID, err = readHostID(filepath.Join(dir, "host-id")); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// readHostID reads the id, or makes it.
func readHostID(path string) (string, error) {
	b, err := os.ReadFile(path)
	if id := strings.TrimSpace(string(b)); err == nil && len(id) == 32 {
		return id, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	var random [16]byte
	if _, err := rand.Read(random[:]); err != nil {
		return "", err
	}
	id := hex.EncodeToString(random[:])
	return id, os.WriteFile(path, []byte(id+"\n"), 0o600)
}

// tablePath is where the index table is.
func (s *state) tablePath() string { return filepath.Join(s.dir, "index.db") }

// close gives the lock back.
func (s *state) close() error {
	if s == nil {
		return nil
	}
	// A child that is just being forked shares the file, so closing it isn't enough.
	return errors.Join(syscall.Flock(int(s.lock.Fd()), syscall.LOCK_UN), s.lock.Close())
}

package pgtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// An account is who servers run as.
type account struct {
	uid, gid int
	home     string
	switched bool // the test process itself is root
}

// unprivileged is the user postgres for root, else the current user.
var unprivileged = sync.OnceValues(func() (account, error) {
	lookup := user.Current
	root := os.Getuid() == 0
	if root {
		lookup = func() (*user.User, error) { return user.Lookup("postgres") }
	}
	u, err := lookup()
	if err != nil {
		return account{}, fmt.Errorf("a user to run PostgreSQL as: %w; run: %s", err, install)
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return account{}, err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return account{}, err
	}
	return account{uid: uid, gid: gid, home: u.HomeDir, switched: root}, nil
})

func requireAccount(t testing.TB) account {
	t.Helper()
	a, err := unprivileged()
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// RunAs makes cmd run as the user that servers run as. A command without Dir
// gets "/", since that user may not search the current folder; one without Env
// gets ours, with that user's HOME.
func RunAs(t testing.TB, cmd *exec.Cmd) *exec.Cmd {
	t.Helper()
	a := requireAccount(t)
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	if !a.switched {
		return cmd
	}
	if cmd.Env == nil {
		cmd.Env = append(os.Environ(), "HOME="+a.home) // the last of a name counts
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}
	return cmd
}

// TempDir returns a new folder that belongs to the user that servers run as,
// with a path short enough for a socket. It is removed when the test ends.
// [testing.T.TempDir] will not do: under root nobody else may search it.
func TempDir(t testing.TB) string {
	t.Helper()
	a := requireAccount(t)
	parent, err := scratch()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(parent, "t")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// A server that was ended at once leaves its archive_command behind, which
		// may write here for a moment.
		err := os.RemoveAll(dir)
		for range 100 {
			if !errors.Is(err, syscall.ENOTEMPTY) {
				break
			}
			time.Sleep(100 * time.Millisecond)
			err = os.RemoveAll(dir)
		}
		if err != nil {
			t.Errorf("remove test folder: %v", err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Lchown(dir, a.uid, a.gid); err != nil {
		t.Fatal(err)
	}
	return dir
}

const scratchPrefix = "/tmp/wal-e-test-" // not os.TempDir: a socket's path has at most 107 bytes

// scratch is this process's folder for everything that is made here. A process
// can't tell which of its tests is the last, and one that is killed removes
// nothing: each holds a lock while it lives, and the next one sweeps.
var scratch = sync.OnceValues(func() (string, error) {
	sweep()
	// A folder gets the name that sweep looks for once its lock is held.
	hidden, err := os.MkdirTemp("/tmp", ".wal-e-test-")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(hidden, 0o755); err != nil {
		return "", err
	}
	if _, err := lockFolder(hidden, os.O_CREATE); err != nil {
		return "", fmt.Errorf("lock %s: %w", hidden, err)
	}
	dir := scratchPrefix + strings.TrimPrefix(hidden, "/tmp/.wal-e-test-")
	if err := os.Rename(hidden, dir); err != nil {
		return "", err
	}
	return dir, nil
})

// sweep removes the folders of processes that are gone. What it can't remove
// belongs to another user and is left to them.
func sweep() {
	dirs, err := filepath.Glob(scratchPrefix + "*")
	if err != nil {
		panic("pgtest: " + err.Error()) // the pattern is constant
	}
	for _, dir := range dirs {
		if unlock, err := lockFolder(dir, 0); err == nil {
			os.RemoveAll(dir)
			unlock()
		}
	}
}

// lockFolder takes the lock of a scratch folder, until unlock or the end of the
// process. It is an error when another process holds it.
func lockFolder(dir string, flag int) (unlock func(), err error) {
	fd, err := syscall.Open(filepath.Join(dir, "lock"), syscall.O_RDWR|syscall.O_CLOEXEC|flag, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		syscall.Close(fd)
		return nil, err
	}
	return func() { syscall.Close(fd) }, nil
}

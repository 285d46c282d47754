package file

import (
	"errors"
	"os"
	"syscall"
)

// unlink removes the file at path. Unlike os.Remove it leaves directories
// alone: a folder is not an object, so there is nothing to remove.
func unlink(path string) error {
	err := retrySignal(func() error { return syscall.Unlink(path) })
	if err == nil {
		return nil
	}
	if errors.Is(err, syscall.EISDIR) || errors.Is(err, syscall.EPERM) {
		if info, serr := os.Lstat(path); serr == nil && info.IsDir() {
			return nil
		}
	}
	return &os.PathError{Op: "unlink", Path: path, Err: err}
}

// rmdir removes an empty directory and never a file that has its name.
func rmdir(path string) error {
	if err := retrySignal(func() error { return syscall.Rmdir(path) }); err != nil {
		return &os.PathError{Op: "rmdir", Path: path, Err: err}
	}
	return nil
}

// retrySignal repeats a call that a signal has interrupted.
func retrySignal(call func() error) error {
	for {
		if err := call(); err != syscall.EINTR {
			return err
		}
	}
}

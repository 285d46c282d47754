package file_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"wal-e/internal/storage"
)

// trace makes changes return the changes to the file system that a bucket in
// dir makes, with paths relative to dir.
func trace(dir string, changes *[]string) func(op, path string) error {
	hidden := regexp.MustCompile(`\.wal-e-tmp-[A-Z0-9]+$`)
	return func(op, path string) error {
		path, _ = filepath.Rel(dir, path)
		*changes = append(*changes, op+" "+hidden.ReplaceAllString(path, "TMP"))
		return nil
	}
}

func TestOrderOfChanges(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	dir := filepath.Join(parent, "root")
	b := open(t, dir)
	var changes []string
	b.SetHook(trace(dir, &changes))
	expect := func(what string, want ...string) {
		t.Helper()
		if !slices.Equal(changes, want) {
			t.Errorf("%s:\n%s\nwant\n%s", what, strings.Join(changes, "\n"), strings.Join(want, "\n"))
		}
		changes = nil
	}

	create(t, b, "a/b/x", "data")
	expect("first object",
		"open a/b/TMP", "mkdir a/b", "mkdir a", "mkdir .", "fsync ..", "mkdir a", "fsync .", "mkdir a/b", "fsync a",
		"open a/b/TMP", "write a/b/TMP", "fsync a/b/TMP", "close a/b/TMP",
		"link a/b/x", "unlink a/b/TMP", "fsync a/b", "fsync a", "fsync .")

	create(t, b, "a/b/y", "data")
	expect("another object there",
		"open a/b/TMP", "write a/b/TMP", "fsync a/b/TMP", "close a/b/TMP",
		"link a/b/y", "unlink a/b/TMP", "fsync a/b")

	if err := storage.CreateBytes(t.Context(), b, "a/b/y", nil, nil); !errors.Is(err, storage.ErrExist) {
		t.Errorf("Create of an existing key = %v, want %v", err, storage.ErrExist)
	}
	expect("an object that is there", "fsync a/b")

	if err := b.Delete(t.Context(), "a/b/x", "a/b/y"); err != nil {
		t.Errorf("Delete = %v, want nil", err)
	}
	expect("deletion", "unlink a/b/x", "unlink a/b/y", "fsync a/b", "rmdir a/b", "rmdir a", "fsync .")
}

// TestForeignDirectories makes durable what another process has made and may
// not have synced yet.
func TestForeignDirectories(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "a/b"), 0o700); err != nil {
		t.Fatal(err)
	}
	b := open(t, dir)
	var changes []string
	b.SetHook(trace(dir, &changes))
	create(t, b, "a/b/x", "data")
	want := []string{"fsync a/b", "fsync a", "fsync ."}
	if got := changes[max(0, len(changes)-3):]; !slices.Equal(got, want) {
		t.Errorf("last changes = %q, want %q", got, want)
	}
}

// TestEveryChangeFails fails the n-th change of a Create, for every n: what can
// be seen is nothing or all of the object.
func TestEveryChangeFails(t *testing.T) {
	t.Parallel()
	const data = "some content"
	for _, errno := range []syscall.Errno{syscall.ENOSPC, syscall.EIO} {
		for n := 1; ; n++ {
			dir := filepath.Join(t.TempDir(), "root")
			b := open(t, dir)
			count, op := 0, ""
			b.SetHook(func(o, _ string) error {
				if count++; count == n {
					op = o
					return errno
				}
				return nil
			})
			err := storage.CreateBytes(t.Context(), b, "a/b/x", []byte(data), nil)
			b.SetHook(nil)
			if op == "" {
				if err != nil {
					t.Errorf("Create = %v, want nil", err)
				}
				break
			}
			linked := slices.Contains(tree(t, dir), "a/b/x")
			if !errors.Is(err, errno) && !(op == "unlink" && err == nil) {
				t.Errorf("Create with change %d (%s) failing = %v, want %v", n, op, err, errno)
			}
			if got, err := storage.ReadAll(t.Context(), b, "a/b/x", 100); linked && string(got) != data {
				t.Errorf("after change %d (%s) failed: ReadAll = %q, %v, want all or nothing", n, op, got, err)
			}
			if !linked && len(tree(t, dir)) > 0 {
				t.Errorf("after change %d (%s) failed: files = %q, want none", n, op, tree(t, dir))
			}
			err = storage.CreateBytes(t.Context(), b, "a/b/x", []byte(data), nil)
			if linked != errors.Is(err, storage.ErrExist) || !linked && err != nil {
				t.Errorf("Create again after change %d (%s) failed = %v; it was there: %v", n, op, err, linked)
			}
		}
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, test := range []struct {
		op   string
		err  error
		want error
		text string
	}{
		{"open", syscall.EACCES, storage.ErrPermission, "permission denied"},
		{"open", syscall.EROFS, storage.ErrPermission, "read-only file system"},
		{"mkdir", syscall.EACCES, storage.ErrPermission, filepath.Join(dir, "new")},
		{"write", syscall.ENOSPC, syscall.ENOSPC, "no space left on device"},
		{"write", syscall.EDQUOT, syscall.EDQUOT, "quota"},
		{"fsync", syscall.EIO, syscall.EIO, "input/output error"},
		{"close", syscall.EIO, syscall.EIO, "input/output error"},
		{"setxattr", storage.ErrNoMeta, storage.ErrNoMeta, "metadata"},
	} {
		b := open(t, dir)
		b.SetHook(func(op, _ string) error {
			if op == test.op {
				return test.err
			}
			return nil
		})
		err := storage.CreateBytes(t.Context(), b, "new/x", []byte("data"), storage.Meta{"k": "v"})
		if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.text) || !strings.Contains(err.Error(), dir) {
			t.Errorf("Create with %s failing = %v, want %v, %q and the path %s", test.op, err, test.want, test.text, dir)
		}
		checkTree(t, dir)
	}
}

func TestNoHardLinks(t *testing.T) {
	t.Parallel()
	for _, errno := range []syscall.Errno{syscall.EPERM, syscall.EOPNOTSUPP, syscall.ENOSYS} {
		dir := t.TempDir()
		b := open(t, dir)
		b.SetHook(func(op, _ string) error {
			if op == "link" {
				return errno
			}
			return nil
		})
		create(t, b, "a/x", "first")
		b.SetHook(func(op, path string) error {
			if op == "link" { // lost a race
				return errors.Join(errno, os.WriteFile(filepath.Join(dir, "a/y"), []byte("theirs"), 0o600))
			}
			return nil
		})
		err := storage.CreateBytes(t.Context(), b, "a/y", []byte("ours"), nil)
		if !errors.Is(err, storage.ErrExist) {
			t.Errorf("Create without links (%v) = %v, want %v", errno, err, storage.ErrExist)
		}
		checkTree(t, dir, "a/", "a/x", "a/y")
		if got, err := os.ReadFile(filepath.Join(dir, "a/y")); string(got) != "theirs" {
			t.Errorf("content = %q, %v, want that of the winner", got, err)
		}

		b.SetHook(func(op, _ string) error {
			switch op {
			case "link":
				return errno
			case "rename":
				return syscall.EINVAL
			}
			return nil
		})
		if err := storage.CreateBytes(t.Context(), b, "a/z", nil, nil); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("Create without links and renames = %v, want %v", err, errors.ErrUnsupported)
		}
		checkTree(t, dir, "a/", "a/x", "a/y")
	}
}

// TestLinkAnsweredTwice is a network file system that made the link, lost the
// answer and was asked again.
func TestLinkAnsweredTwice(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := open(t, dir)
	tmp := ""
	b.SetHook(func(op, path string) error {
		switch op {
		case "open":
			tmp = path
		case "link":
			return errors.Join(os.Link(tmp, path), syscall.EEXIST)
		}
		return nil
	})
	create(t, b, "x", "data")
	checkTree(t, dir, "x")
}

// TestTrimmedAway removes the directories of an object just before each change
// that needs them.
func TestTrimmedAway(t *testing.T) {
	t.Parallel()
	for times := range 6 {
		dir := t.TempDir()
		b := open(t, dir)
		var left atomic.Int64
		left.Store(int64(times))
		b.SetHook(func(op, path string) error {
			if (op == "open" || op == "mkdir") && left.Add(-1) >= 0 {
				for _, d := range []string{"a/b", "a"} {
					_ = os.Remove(filepath.Join(dir, d))
				}
			}
			return nil
		})
		if err := storage.CreateBytes(t.Context(), b, "a/b/x", nil, nil); err != nil {
			t.Errorf("Create, its directories removed %d times, = %v, want nil", times, err)
		}
		checkTree(t, dir, "a/", "a/b/", "a/b/x")
	}
	dir := t.TempDir()
	b := open(t, dir)
	b.SetHook(func(op, path string) error {
		if op == "open" {
			return fmt.Errorf("always: %w", syscall.ENOENT)
		}
		return nil
	})
	if err := storage.CreateBytes(t.Context(), b, "a/x", nil, nil); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("Create in a directory that never stays = %v, want %v", err, syscall.ENOENT)
	}
}

package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"slices"
	"strings"
	"syscall"

	"wal-e/internal/storage"
)

// List implements storage.Bucket. It holds the names in one directory and in
// those above it at a time. Directories that vanish during the walk are empty,
// files that vanish are left out.
func (b *Bucket) List(ctx context.Context, prefix, startAfter string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		folder, ok := folderOf(prefix)
		if !ok {
			return
		}
		w := &walk{b: b, ctx: ctx, prefix: prefix, after: startAfter, yield: yield}
		if err := w.folder(folder, nil); err != nil && !errors.Is(err, errStop) {
			yield(storage.Object{}, b.fail("list", prefix, err))
		}
	}
}

// folderOf returns the part of prefix up to its last slash, and false when no
// key can begin with it. What it returns leads to nothing outside the bucket.
func folderOf(prefix string) (string, bool) {
	folder := prefix[:strings.LastIndex(prefix, "/")+1]
	if folder == "" {
		return "", true
	}
	return folder, checkKey(strings.TrimSuffix(folder, "/")) == nil && folder != lostFound+"/"
}

// errStop ends a walk when the caller has seen enough.
var errStop = errors.New("stop")

type walk struct {
	b      *Bucket
	ctx    context.Context // of the List
	prefix string
	after  string
	yield  func(storage.Object, error) bool
}

// folder yields what is below a folder, which is "" or ends with a slash.
// above are the directories it is in.
func (w *walk) folder(folder string, above []os.FileInfo) error {
	path := w.b.path(folder)
	info, err := os.Stat(path)
	if absent(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, dir := range above {
		if os.SameFile(dir, info) {
			return fmt.Errorf("%w: the symbolic link %s leads back to a directory above it", storage.ErrInvalid, path)
		}
	}
	keys, err := w.read(folder)
	if err != nil {
		return err
	}
	above = append(above, info)
	for _, key := range keys {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		if strings.HasSuffix(key, "/") {
			err = w.folder(key, above)
		} else {
			err = w.object(key)
		}
		if err != nil {
			return err
		}
	}
	return w.ctx.Err()
}

// read returns the keys of the objects and folders in a folder that may have
// to do with the listing. Folders end with a slash, which is also what puts
// them in their place: "a.b" < "a/b" < "a0".
func (w *walk) read(folder string) ([]string, error) {
	var keys []string
	err := eachEntry(w.b.path(folder), func(e fs.DirEntry) error {
		key := folder + e.Name()
		if strings.HasPrefix(e.Name(), tmpPrefix) || key == lostFound {
			return nil
		}
		mode := e.Type()
		if mode&fs.ModeSymlink != 0 && w.wants(key) {
			info, err := os.Stat(w.b.path(key))
			if absent(err) || errors.Is(err, syscall.ELOOP) {
				return nil
			}
			if err != nil {
				return err
			}
			mode = info.Mode()
		}
		switch {
		case mode.IsDir():
			if key += "/"; w.wants(key) {
				keys = append(keys, key)
			}
		case mode.IsRegular() && strings.HasPrefix(key, w.prefix) && key > w.after:
			keys = append(keys, key)
		}
		return nil
	})
	slices.Sort(keys)
	return keys, err
}

// wants reports whether the listing may hold a key that begins with start.
func (w *walk) wants(start string) bool {
	return (strings.HasPrefix(start, w.prefix) || strings.HasPrefix(w.prefix, start)) &&
		(start > w.after || strings.HasPrefix(w.after, start))
}

func (w *walk) object(key string) error {
	info, err := os.Stat(w.b.path(key))
	if absent(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return nil // replaced since its directory was read
	}
	if !w.yield(storage.Object{Key: key, Size: info.Size(), ModTime: info.ModTime()}, nil) {
		return errStop
	}
	return nil
}

package file

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"wal-e/internal/storage"
)

// xattrPrefix begins the names of the extended attributes that hold metadata.
const xattrPrefix = "user.wal-e."

// setMeta keeps meta beside the content of f.
func setMeta(f *os.File, meta storage.Meta) error {
	for k, v := range meta {
		err := unix.Fsetxattr(int(f.Fd()), xattrPrefix+k, []byte(v), 0)
		if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOSYS) {
			return storage.ErrNoMeta
		}
		if err != nil {
			return fmt.Errorf("set extended attribute %s%s of %s: %w", xattrPrefix, k, f.Name(), err)
		}
	}
	return nil
}

// getMeta returns the metadata of the file at path, or nil.
func getMeta(path string) (storage.Meta, error) {
	names, err := grow(func(buf []byte) (int, error) { return unix.Listxattr(path, buf) })
	if err != nil {
		return nil, &os.PathError{Op: "listxattr", Path: path, Err: err}
	}
	var meta storage.Meta
	for name := range strings.SplitSeq(string(names), "\x00") {
		k, ours := strings.CutPrefix(name, xattrPrefix)
		if !ours {
			continue
		}
		v, err := grow(func(buf []byte) (int, error) { return unix.Getxattr(path, name, buf) })
		if err != nil {
			return nil, &os.PathError{Op: "getxattr", Path: path, Err: err}
		}
		if meta == nil {
			meta = make(storage.Meta)
		}
		meta[k] = string(v)
	}
	return meta, nil
}

// grow calls read with a buffer that is large enough. A file system without
// extended attributes has none to read.
func grow(read func([]byte) (int, error)) ([]byte, error) {
	// The kernel's own bound for a value or a list of names is 64 KiB.
	for size := 1 << 10; ; size *= 4 {
		buf := make([]byte, size)
		n, err := read(buf)
		switch {
		case err == nil:
			return buf[:n], nil
		case errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.ENOSYS):
			return nil, nil
		case !errors.Is(err, unix.ERANGE) || size > 64<<10:
			return nil, err
		}
	}
}

// renameNoReplace renames a file unless the new name is taken.
func renameNoReplace(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if err != nil {
		return &os.LinkError{Op: "renameat2", Old: from, New: to, Err: err}
	}
	return nil
}

// networkKind returns the kind of network file system that dir is on, or "".
func networkKind(dir string) (string, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return "", &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	switch uint32(fs.Type) { // the type differs between architectures
	case unix.NFS_SUPER_MAGIC:
		return "NFS", nil
	case unix.CIFS_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.SMB_SUPER_MAGIC:
		return "SMB", nil
	case unix.FUSE_SUPER_MAGIC:
		return "FUSE", nil
	case unix.CEPH_SUPER_MAGIC, unix.AFS_SUPER_MAGIC:
		return "a network file system", nil
	}
	return "", nil
}

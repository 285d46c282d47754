package backup

import (
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// openVolume opens a directory for syncVolume, before anything is written below
// it. It returns nil where a file system or a kernel doesn't promise to report what
// it couldn't write: Linux does since 5.8, and overlays or network file systems may
// not pass it on. There every file is synced by itself.
func openVolume(dir string) *os.File {
	var name unix.Utsname
	var major, minor int
	if unix.Uname(&name) != nil {
		return nil
	}
	if _, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor); err != nil || major < 5 || major == 5 && minor < 8 {
		return nil
	}
	var st unix.Statfs_t
	known := []int64{unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.TMPFS_MAGIC}
	if err := unix.Statfs(dir, &st); err != nil || !slices.Contains(known, int64(st.Type)) {
		return nil
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil // whoever writes there will say it
	}
	return f
}

// syncVolume makes all that was written to a directory's file system durable. It
// fails when anything since openVolume couldn't be.
func syncVolume(f *os.File) error {
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return &os.PathError{Op: "syncfs", Path: f.Name(), Err: err}
	}
	return nil
}

// beginSync has the kernel begin to write a range of f to the device.
func beginSync(f *os.File, offset, length int64) {
	_ = unix.SyncFileRange(int(f.Fd()), offset, length, unix.SYNC_FILE_RANGE_WRITE) // only advice
}

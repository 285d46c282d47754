package backup

import (
	"os"

	"golang.org/x/sys/unix"
)

// beginReads readies a file to be read extent by extent by several workers: what
// the kernel would read ahead comes when a worker asks for it anyway, and could
// not be told from what the server keeps in the page cache.
func beginReads(f *os.File) {
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM) // only advice
}

// uncached tells whether nothing of a range of f is in the page cache. Kernels
// before 6.5 can't say, so there it is false.
func uncached(f *os.File, offset, length int64) bool {
	var s unix.Cachestat_t
	err := unix.Cachestat(uint(f.Fd()), &unix.CachestatRange{Off: uint64(offset), Len: uint64(length)}, &s, 0)
	return err == nil && s.Cache == 0
}

// dropCached gives back the page cache that reading a range of f took.
func dropCached(f *os.File, offset, length int64) {
	_ = unix.Fadvise(int(f.Fd()), offset, length, unix.FADV_DONTNEED) // only advice
}

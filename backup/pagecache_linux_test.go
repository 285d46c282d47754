package backup_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"wal-e/internal/storage/mem"
)

// cached tells how many pages of a file are in the page cache.
func cached(t *testing.T, name string) uint64 {
	t.Helper()
	f, err := os.Open(name)
	check(t, err)
	defer f.Close() // it was only looked at
	var s unix.Cachestat_t
	if err := unix.Cachestat(uint(f.Fd()), &unix.CachestatRange{}, &s, 0); err != nil {
		t.Fatalf("cachestat = %v: this test needs Linux 6.5 or later", err)
	}
	return s.Cache
}

// evict writes a file back and takes it out of the page cache.
func evict(t *testing.T, name string) {
	t.Helper()
	f, err := os.Open(name)
	check(t, err)
	check(t, f.Sync())
	check(t, unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
	check(t, f.Close())
}

// A push leaves the page cache as it was: what was in it stays, what wasn't
// doesn't stay.
func TestPageCacheIsLeftAlone(t *testing.T) {
	t.Parallel()
	dir := copyOf(t, stoppedCluster(t, false).Dir)
	addNoise(t, dir, "70000", 1, 9<<20)
	addNoise(t, dir, "70001", 2, 9<<20)
	cold, warm := filepath.Join(dir, "base/5/70000"), filepath.Join(dir, "base/5/70001")
	evict(t, cold)
	if n := cached(t, cold); n != 0 {
		t.Fatalf("%d pages are cached of a file that was evicted", n)
	}
	before := cached(t, warm)
	mustPush(t, mem.New(nil), dir, "")
	if n := cached(t, cold); n != 0 {
		t.Errorf("a push left %d pages in the cache of a file that wasn't there", n)
	}
	if n := cached(t, warm); n < before/2 { // the kernel may want memory meanwhile
		t.Errorf("a push left %d pages in the cache of a file of which %d were there", n, before)
	}
}

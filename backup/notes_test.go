package backup_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"wal-e/backup"
	"wal-e/internal/pgtest"
	"wal-e/internal/storage/mem"
)

// A night is a stopped cluster that is pushed again and again.
type night struct {
	bucket     *mem.Bucket
	dir, state string
	log        bytes.Buffer
}

func newNight(t *testing.T, dir string) *night {
	t.Helper()
	n := &night{bucket: mem.New(nil), dir: dir, state: filepath.Join(t.TempDir(), "state")}
	for i, size := range []int{8192, 5 << 20, 1 << 20, 100 << 10} {
		addNoise(t, dir, fmt.Sprint(70000+i), uint64(i), size)
	}
	return n
}

// push pushes the cluster, with files that may go unread as soon as their times
// are in the past.
func (n *night) push(t *testing.T, change func(*backup.PushConfig)) *backup.PushResult {
	t.Helper()
	n.log.Reset()
	r, err := offlinePush(t, n.bucket, n.dir, n.state, func(c *backup.PushConfig) {
		c.Settle = time.Nanosecond
		c.Reread = 1 << 30
		c.Log = slog.New(slog.NewTextHandler(&n.log, nil))
		if change != nil {
			change(c)
		}
	})
	if err != nil {
		t.Fatalf("Push = %v", err)
	}
	return r
}

// restores checks that a backup gives what the cluster holds.
func (n *night) restores(t *testing.T, r *backup.PushResult) {
	t.Helper()
	to := filepath.Join(pgtest.TempDir(t), "restored")
	if err := fetchFrom(t, n.bucket, find(t, n.bucket, r.Ref.String()), to); err != nil {
		t.Fatalf("Fetch = %v", err)
	}
	sameTree(t, n.dir, to)
}

// read tells how many bytes of files a push read. Its WAL and pg_control, a
// little more than 1 MiB, are always read.
func read(r *backup.PushResult) int64 { return r.Manifest.Bytes - r.Manifest.Push.Unread }

// Files to which nothing was written aren't read, and what is written is,
// however it is disguised.
func TestUnchangedFilesGoUnread(t *testing.T) {
	t.Parallel()
	base := stoppedCluster(t, false).Dir
	const file = "base/5/70001" // of 5 MiB
	rewrite := func(t *testing.T, name string, seed uint64) {
		t.Helper()
		b, err := os.ReadFile(name)
		check(t, err)
		for i := range b[:100] {
			b[i] ^= byte(seed)
		}
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		check(t, err)
		_, err = f.WriteAt(b, 0)
		check(t, err)
		check(t, f.Close())
	}
	size := func(t *testing.T, name string) int64 {
		info, err := os.Stat(name)
		check(t, err)
		return info.Size()
	}
	for _, c := range []struct {
		name   string
		change func(t *testing.T, n *night) (least int64) // bytes that must be read
	}{
		{"nothing", func(*testing.T, *night) int64 { return 0 }},
		{"same size and modification time", func(t *testing.T, n *night) int64 {
			name := filepath.Join(n.dir, file)
			info, err := os.Stat(name)
			check(t, err)
			rewrite(t, name, 1)
			check(t, os.Chtimes(name, info.ModTime(), info.ModTime()))
			return size(t, name)
		}},
		{"replaced by a copy with all times", func(t *testing.T, n *night) int64 {
			name := filepath.Join(n.dir, file)
			info, err := os.Stat(name)
			check(t, err)
			b, err := os.ReadFile(name)
			check(t, err)
			b[17] ^= 1
			check(t, os.Rename(name, filepath.Join(t.TempDir(), "old")))
			putFile(t, n.dir, file, b)
			check(t, os.Chtimes(name, info.ModTime(), info.ModTime()))
			return size(t, name)
		}},
		{"name used by another relation", func(t *testing.T, n *night) int64 {
			check(t, os.Remove(filepath.Join(n.dir, file)))
			addNoise(t, n.dir, "70001", 99, 5<<20)
			return 5 << 20
		}},
		{"restored data directory", func(t *testing.T, n *night) int64 {
			to := copyOf(t, n.dir)
			check(t, os.RemoveAll(n.dir))
			pgtest.CopyDir(t, to, n.dir)
			return 5 << 20
		}},
		{"grown", func(t *testing.T, n *night) int64 {
			addNoise(t, n.dir, "70001", 1, 6<<20)
			return 6 << 20
		}},
		{"cut short", func(t *testing.T, n *night) int64 {
			check(t, os.Truncate(filepath.Join(n.dir, file), 4<<20+8192))
			return 4 << 20
		}},
		{"notes lost", func(t *testing.T, n *night) int64 {
			check(t, os.Remove(filepath.Join(n.state, "files")))
			return 5 << 20
		}},
		{"notes cut short", func(t *testing.T, n *night) int64 {
			name := filepath.Join(n.state, "files")
			check(t, os.Truncate(name, size(t, name)*9/10))
			return 8192
		}},
		{"notes damaged", func(t *testing.T, n *night) int64 {
			flipEvery(t, filepath.Join(n.state, "files"), 400)
			return 5 << 20
		}},
		{"page hashes damaged", func(t *testing.T, n *night) int64 {
			names, err := filepath.Glob(filepath.Join(n.state, "pages-*"))
			if err != nil || len(names) != 1 {
				t.Fatalf("files of pages: %v, %v", names, err)
			}
			flipEvery(t, names[0], 1000)
			return 5 << 20
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := newNight(t, copyOf(t, base))
			first := n.push(t, nil)
			if first.Manifest.Push.Unread != 0 {
				t.Errorf("the first push left %d bytes unread", first.Manifest.Push.Unread)
			}
			least := c.change(t, n)
			second := n.push(t, nil)
			if got := read(second); got < least || least == 0 && got > 2<<20 {
				t.Errorf("the second push read %d of %d bytes, want at least %d and not much more", got, second.Manifest.Bytes, least)
			}
			n.restores(t, second)
			third := n.push(t, nil)
			if got := read(third); got > 2<<20 {
				t.Errorf("the third push, after no change, read %d bytes\n%s", got, n.log.Bytes())
			}
			n.restores(t, third)
			verifyAll(t, n.bucket)
		})
	}
}

// flipEvery flips a bit in one byte of so many.
func flipEvery(t *testing.T, name string, every int) {
	t.Helper()
	b, err := os.ReadFile(name)
	check(t, err)
	for i := every / 2; i < len(b); i += every {
		b[i] ^= 4
	}
	check(t, os.WriteFile(name, b, 0o600))
}

// What was written shortly before it was read is read again: a write sets the
// times before it copies the bytes.
func TestFreshFilesAreReadAgain(t *testing.T) {
	t.Parallel()
	n := newNight(t, copyOf(t, stoppedCluster(t, false).Dir))
	defaults := func(c *backup.PushConfig) { c.Settle = 0 }
	n.push(t, defaults)
	r := n.push(t, defaults)
	if r.Manifest.Push.Unread != 0 {
		t.Errorf("Push left %d bytes unread that were a few seconds old when they were read", r.Manifest.Push.Unread)
	}
}

// A file with bad pages is read each time, so that each backup tells of them.
func TestBadPagesAreReadAgain(t *testing.T) {
	t.Parallel()
	n := newNight(t, copyOf(t, stoppedCluster(t, true).Dir)) // noise has no checksums
	first := n.push(t, nil)
	second := n.push(t, nil)
	if a, b := first.Manifest.Pages.Failed, second.Manifest.Pages.Failed; a == 0 || a != b {
		t.Errorf("the first push found %d bad pages, the second %d", a, b)
	}
	if second.Manifest.Push.Unread == 0 {
		t.Error("the second push read the files with good pages too")
	}
}

// Each file is read once in so many pushes, and with Rescan always.
func TestEachFileIsReadNowAndThen(t *testing.T) {
	t.Parallel()
	n := newNight(t, copyOf(t, stoppedCluster(t, false).Dir))
	every := func(c *backup.PushConfig) { c.Reread = 5 }
	n.push(t, every)
	var total, bytes int64
	for range 5 {
		r := n.push(t, every)
		total += read(r)
		bytes = r.Manifest.Bytes
		if r.Manifest.Push.Unread == 0 {
			t.Error("a push read everything")
		}
	}
	if total < bytes {
		t.Errorf("five pushes read %d bytes, the cluster has %d", total, bytes)
	}
	if r := n.push(t, func(c *backup.PushConfig) { c.Rescan = true }); r.Manifest.Push.Unread != 0 {
		t.Errorf("Push with Rescan left %d bytes unread", r.Manifest.Push.Unread)
	}
}

// A change that the file system doesn't tell of is found when the file's turn
// comes. Then it is said loudly, and all is read.
func TestUnnoticedChange(t *testing.T) {
	t.Parallel()
	dir := memoryDir(t)
	pgtest.CopyDir(t, stoppedCluster(t, false).Dir, dir)
	n := newNight(t, dir)
	n.push(t, nil)
	writeUnseen(t, filepath.Join(dir, "base/5/70002"), 12345)
	if r := n.push(t, nil); len(r.Manifest.Push.Changed) != 0 || r.Manifest.Push.Unread < 6<<20 {
		t.Fatalf("the change was seen without reading the file: %+v", r.Manifest.Push)
	}
	for range 7 {
		r := n.push(t, func(c *backup.PushConfig) { c.Reread = 7 })
		if r.Manifest.Push.Changed == nil {
			continue
		}
		if got := r.Manifest.Push.Changed; len(got) != 1 || got[0] != "base/5/70002" {
			t.Errorf("changed unnoticed: %q, want base/5/70002", got)
		}
		if r.Manifest.Push.Unread != 0 {
			t.Errorf("%d bytes went unread although times can't be believed", r.Manifest.Push.Unread)
		}
		if s := n.log.String(); !strings.Contains(s, "ERROR") || !strings.Contains(s, "base/5/70002") {
			t.Errorf("log doesn't tell of the change:\n%s", s)
		}
		n.restores(t, r)
		if r := n.push(t, func(c *backup.PushConfig) { c.Rescan = true }); r.Manifest.Push.Changed != nil {
			t.Errorf("the next push finds the change again: %q", r.Manifest.Push.Changed)
		}
		return
	}
	t.Error("no push of seven read the file")
}

// memoryDir returns a path in a file system in memory.
func memoryDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "wal-e-test-")
	check(t, err)
	t.Cleanup(func() { check(t, os.RemoveAll(dir)) })
	return filepath.Join(dir, "data")
}

// writeUnseen changes a byte of a file in memory through a mapping, of which the
// file's times say nothing.
func writeUnseen(t *testing.T, name string, at int) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	check(t, err)
	before, err := f.Stat()
	check(t, err)
	b, err := unix.Mmap(int(f.Fd()), 0, int(before.Size()), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	check(t, err)
	b[at] ^= 1
	check(t, unix.Munmap(b))
	after, err := f.Stat()
	check(t, err)
	if !after.ModTime().Equal(before.ModTime()) {
		t.Fatal("the file system noticed the write")
	}
	check(t, f.Close())
}

// A changed page costs about itself, not the chunk that it is in.
func TestChangedPageCostsAPage(t *testing.T) {
	t.Parallel()
	n := newNight(t, copyOf(t, stoppedCluster(t, false).Dir))
	n.push(t, nil)
	name := filepath.Join(n.dir, "base/5/70001")
	b, err := os.ReadFile(name)
	check(t, err)
	pages := []int{3, 100, 101, 300, 500}
	for _, p := range pages {
		b[p*8192+77] ^= 1
	}
	check(t, os.WriteFile(name, b, 0o600))
	r := n.push(t, nil)
	// What changes each time beside the pages: pg_control, lists and tables.
	if most := int64(len(pages)*8192 + 8192 + 24<<10); r.Stats.New > most {
		t.Errorf("%d changed pages cost %d bytes of new chunks, want at most %d", len(pages), r.Stats.New, most)
	}
	n.restores(t, r)
	verifyAll(t, n.bucket)
}

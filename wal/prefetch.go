package wal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"wal-e/internal/postgres"
)

// An Ahead is where segments are put before PostgreSQL asks for them: the folder
// .wal-e/prefetch of the folder that it wants its files in. A file there is
// complete, durable and proven against its fingerprint, and has a receipt beside
// it; what has none is not used. Files are fetched by at most one process at a
// time, which holds a lock, and delivered by rename.
//
// Nothing there is needed: whatever is wrong with it costs time only.
type Ahead struct {
	Base        string               // the folder that files are wanted in
	Archive     string               // names the archive: what came from another one isn't used
	SegmentSize postgres.SegmentSize // of the cluster
	Segments    int                  // kept ahead of the one asked for; below 1 none
	Bytes       int64                // that these may have together

	free func(dir string) (available, total int64, err error) // set by tests; nil asks the system
}

const (
	receiptSuffix = ".receipt"
	lockFile      = "lock"
	positionFile  = "position"

	// atOnce is how many files are fetched side by side.
	atOnce = 4

	// How long a file that is being fetched is waited for without it growing, and
	// how often it is looked at.
	stalled   = 2 * time.Second
	lookEvery = 3 * time.Millisecond
)

func (a Ahead) dir() string             { return filepath.Join(a.Base, ".wal-e", "prefetch") }
func (a Ahead) file(name string) string { return filepath.Join(a.dir(), name) }
func (a Ahead) receipt(n string) string { return a.file(n) + receiptSuffix }

// window returns the names of the segments that belong ahead of name.
func (a Ahead) window(name string) []string {
	seg, err := postgres.ParseSegment(name, a.SegmentSize)
	if err != nil {
		return nil
	}
	n := min(int64(a.Segments), a.Bytes/int64(a.SegmentSize))
	var names []string
	for range n {
		seg = seg.Next()
		names = append(names, seg.Name(a.SegmentSize))
	}
	return names
}

// Deliver moves the file name from the area to dest if it is there, or comes
// while Deliver waits for a fetch of it that goes on. It reports whether dest has
// the file now, as Fetch would have put it there.
func (a Ahead) Deliver(ctx context.Context, cfg Config, name, dest string) (f Fetched, ok bool) {
	if a.Segments < 1 || checkDest(dest) != nil {
		return Fetched{}, false
	}
	if _, err := os.Lstat(a.dir()); err != nil {
		return Fetched{}, false
	}
	if !a.await(ctx, name) {
		return Fetched{}, false
	}
	f, err := a.deliver(cfg, name, dest)
	if err == nil && ctx.Err() != nil {
		return f, false // a signal came first
	}
	if err != nil {
		cfg.log().WarnContext(ctx, "prefetched file is not used", "file", a.file(name), "detail", err.Error())
		a.remove(name)
		return Fetched{}, false
	}
	return f, true
}

// await reports whether name is in the area, once nobody fetches it any more.
func (a Ahead) await(ctx context.Context, name string) bool {
	size, since := int64(-1), time.Now()
	for ctx.Err() == nil {
		if _, err := os.Lstat(a.receipt(name)); err == nil {
			return true
		}
		now, ok := a.growing(name)
		if !ok {
			// It may have been completed between the two looks.
			_, err := os.Lstat(a.receipt(name))
			return err == nil
		}
		if now != size {
			size, since = now, time.Now()
		} else if time.Since(since) > stalled {
			return false
		}
		time.Sleep(lookEvery)
	}
	return false
}

// growing returns how much there is of a file that is being fetched.
func (a Ahead) growing(name string) (size int64, ok bool) {
	entries, err := os.ReadDir(a.dir())
	if err != nil || !a.busy() {
		return 0, false
	}
	for _, e := range entries {
		if e.Name() != name && !strings.HasPrefix(e.Name(), tempPrefix+name+"-") {
			continue
		}
		if info, err := e.Info(); err == nil {
			return info.Size(), true
		}
	}
	return 0, false
}

// busy reports whether a process fetches ahead.
func (a Ahead) busy() bool {
	f, err := os.OpenFile(a.file(lockFile), os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return false
	}
	defer f.Close() // and the lock with it
	return tryLock(f) != nil
}

// deliver proves once more what lies in the area, since it may have lain there
// for long, and moves it.
func (a Ahead) deliver(cfg Config, name, dest string) (Fetched, error) {
	b, err := os.ReadFile(a.receipt(name))
	if err != nil {
		return Fetched{}, err
	}
	var r receipt
	if err := r.UnmarshalBinary(b); err != nil {
		return Fetched{}, err
	}
	switch {
	case r.archive != archiveDigest(a.Archive):
		return Fetched{}, errors.New("it is of another archive")
	case cfg.System != 0 && r.id.System != cfg.System:
		return Fetched{}, fmt.Errorf("it is of the system %s", r.id.System)
	}
	if err := r.prove(name, a.file(name)); err != nil {
		return Fetched{}, err
	}
	if info, err := os.Stat(filepath.Dir(dest)); err == nil && info.Mode().Perm()&0o040 != 0 {
		if err := os.Chmod(a.file(name), 0o640); err != nil {
			return Fetched{}, err
		}
	}
	if err := os.Rename(a.file(name), dest); err != nil {
		return Fetched{}, err
	}
	_ = os.Remove(a.receipt(name)) // of no use now, and removed with leftovers
	if err := syncDir(filepath.Dir(dest)); err != nil {
		return Fetched{}, err
	}
	return Fetched{Identity: r.id, Key: Key(r.id.System, name)}, nil
}

// prove returns an error unless the file at path is what the receipt says.
func (r receipt) prove(name, path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close() // only read
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() || info.Size() != r.id.Length {
		return fmt.Errorf("it has %d bytes, not %d", info.Size(), r.id.Length)
	}
	sum := uint32(0)
	buf := make([]byte, min(256<<10, max(info.Size(), 1)))
	for first := true; ; first = false {
		n, err := f.Read(buf)
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if first {
			if err := (expectation{system: r.id.System, name: name}).check(r.id, buf[:n]); err != nil {
				return err
			}
		}
		sum = checksum(sum, buf[:n])
	}
	if sum != r.sum {
		return errors.New("its content was changed")
	}
	return nil
}

// Wanted notes that name was asked for, removes what it leaves behind, and
// reports whether it is time to fetch ahead of it: when less than half of what
// belongs there is there. Going back, as pg_rewind does, is no reason to.
//
// Names that are no segments change nothing: PostgreSQL asks for a history
// between two segments.
func (a Ahead) Wanted(cfg Config, name string) bool {
	if _, err := postgres.ParseSegment(name, a.SegmentSize); err != nil {
		return false
	}
	before := a.position()
	window := a.window(name)
	a.tidy(cfg, append(window, name))
	if len(window) == 0 {
		return false
	}
	if err := a.prepare(name); err != nil {
		cfg.log().Warn("cannot fetch ahead", "detail", err.Error())
		return false
	}
	if before > name && before[:timelineDigits] == name[:timelineDigits] {
		return false
	}
	there := 0
	for _, next := range window {
		if _, err := os.Lstat(a.receipt(next)); err == nil {
			there++
		}
	}
	return there < (len(window)+1)/2 && !a.busy()
}

// prepare makes the area and writes the position.
func (a Ahead) prepare(name string) error {
	if err := a.makeDir(); err != nil {
		return err
	}
	return replaceFile(a.file(positionFile), []byte(name))
}

// makeDir makes the area in its folder. That must be there: whoever has removed a
// data directory doesn't want to find it again.
func (a Ahead) makeDir() error {
	for _, dir := range []string{filepath.Dir(a.dir()), a.dir()} {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// replaceFile writes a small file whose loss does no harm.
func replaceFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), tempPrefix+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // else it is removed when it is old
	}
	return err
}

// position returns the name that was asked for last, "" if that is not known.
func (a Ahead) position() string {
	b, err := os.ReadFile(a.file(positionFile))
	if err != nil || postgres.ParseWALFile(string(b)).Kind != postgres.SegmentFile {
		return ""
	}
	return string(b)
}

// tidy removes prefetched segments but for those named, and what killed
// processes left.
func (a Ahead) tidy(cfg Config, keep []string) {
	entries, err := os.ReadDir(a.dir())
	if err != nil {
		return
	}
	temps := false
	for _, e := range entries {
		name := strings.TrimSuffix(e.Name(), receiptSuffix)
		temps = temps || strings.HasPrefix(name, tempPrefix)
		switch {
		case name == "running": // of classic WAL-E
			if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > newborn {
				_ = os.RemoveAll(a.file(name)) // tried again by the next
			}
		case postgres.ParseWALFile(name).Kind == postgres.SegmentFile && !slices.Contains(keep, name):
			a.remove(name)
		}
	}
	if temps {
		removeStale(cfg, a.dir())
	}
}

// remove removes a prefetched file, its receipt first: without one the file is
// not used.
func (a Ahead) remove(name string) {
	_ = os.Remove(a.receipt(name)) // what stays is not used, or removed by the next
	_ = os.Remove(a.file(name))
}

// abandonedArea is how long nobody has asked for a file when RemoveAbandoned
// takes an area for left.
const abandonedArea = 10 * time.Minute

// RemoveAbandoned removes the area of base, and what is in it, when no file was
// asked for in a while: recovery is over.
func RemoveAbandoned(base string) {
	a := Ahead{Base: base}
	info, err := os.Lstat(a.file(positionFile))
	if err != nil || time.Since(info.ModTime()) < abandonedArea || a.busy() {
		return
	}
	_ = os.RemoveAll(a.dir())                    // tried again by the next
	_ = os.Remove(filepath.Join(base, ".wal-e")) // if nothing else is there
}

// FetchAhead fetches the segments that belong ahead of the last one that was
// asked for, or of name when none was, as long as there are any, and the archive
// has them. When another process does so already, or the volume has no room, it
// does nothing. It ends at the first error, with it; that the archive doesn't hold a
// file is none.
func (a Ahead) FetchAhead(ctx context.Context, cfg Config, name string) error {
	if err := a.makeDir(); err != nil {
		return fmt.Errorf("wal: fetch ahead: %w", err)
	}
	lock, err := os.OpenFile(a.file(lockFile), os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("wal: fetch ahead: %w", err)
	}
	defer lock.Close() // ends the lock
	if tryLock(lock) != nil {
		return nil
	}
	end := "" // the first segment that the archive doesn't hold
	for {
		if p := a.position(); p != "" {
			name = p
		}
		var wanted []string
		for _, next := range a.window(name) {
			if next == end {
				break
			}
			if _, err := os.Lstat(a.receipt(next)); err != nil {
				wanted = append(wanted, next)
			}
		}
		if len(wanted) == 0 {
			return nil
		}
		absent, err := a.fetchAll(ctx, cfg, wanted)
		if err != nil {
			return err
		}
		if absent != "" {
			end = absent
		}
	}
}

// fetchAll fetches segments side by side and returns the first that the archive
// doesn't hold, "" if it has all.
func (a Ahead) fetchAll(ctx context.Context, cfg Config, names []string) (absent string, err error) {
	absents := make([]bool, len(names))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for i, name := range names {
		g.Go(func() error {
			if p := a.position(); p >= name && p[:timelineDigits] == name[:timelineDigits] {
				return nil // PostgreSQL was faster
			}
			err := a.FetchOne(ctx, cfg, name)
			if errors.Is(err, ErrNotFound) && ctx.Err() == nil {
				absents[i] = true
				return nil
			}
			return err
		})
	}
	err = g.Wait()
	if i := slices.Index(absents, true); i >= 0 {
		absent = names[i]
	}
	return absent, err
}

// FetchOne puts one file into the area, unless it is there. An absent one gives
// ErrNotFound.
func (a Ahead) FetchOne(ctx context.Context, cfg Config, name string) error {
	if err := a.makeDir(); err != nil {
		return fmt.Errorf("wal: prefetch %s: %w", name, err)
	}
	if _, err := os.Lstat(a.receipt(name)); err == nil {
		return nil
	}
	if err := a.checkRoom(); err != nil {
		return fmt.Errorf("wal: prefetch %s: %w", name, err)
	}
	var sum uint32
	fetched, err := fetch(ctx, cfg, name, a.file(name), &sum)
	if err != nil {
		return err
	}
	b, err := receipt{fetched.Identity, archiveDigest(a.Archive), sum}.MarshalBinary()
	if err == nil {
		err = replaceFile(a.receipt(name), b)
	}
	if err != nil {
		return fmt.Errorf("wal: prefetch %s: %w", name, err)
	}
	return nil
}

// ErrNoRoom is wrapped when a volume is too full to fetch ahead.
var ErrNoRoom = errors.New("too little room on the volume")

// checkRoom makes sure that another segment leaves PostgreSQL what it may need:
// as much as may lie ahead, and a twentieth of the volume.
func (a Ahead) checkRoom() error {
	free := a.free
	if free == nil {
		free = freeSpace
	}
	available, total, err := free(a.dir())
	if err != nil {
		return err
	}
	if need := int64(a.SegmentSize) + max(a.Bytes, total/20); available < need {
		return fmt.Errorf("%w of %s: %d bytes are free, and %d are to be", ErrNoRoom, a.dir(), available, need)
	}
	return nil
}

func freeSpace(dir string) (available, total int64, err error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, 0, &fs.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return int64(s.Bavail) * int64(s.Bsize), int64(s.Blocks) * int64(s.Bsize), nil
}

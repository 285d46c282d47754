package wal_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"wal-e/internal/storage/file"
	"wal-e/internal/storage/mem"
	"wal-e/wal"
)

// ready makes files of pg_wal with their status.
func (c cluster) ready(t testing.TB, names ...string) {
	t.Helper()
	status := filepath.Join(c.dir, "pg_wal/archive_status")
	if err := os.MkdirAll(status, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		content := []byte("1\t0/3000000\tno recovery target specified\n")
		if !strings.HasSuffix(name, ".history") {
			content = c.segment(numberOf(c, name), 100)
		}
		c.write(t, name, content)
		writeFile(t, filepath.Join(status, name+".ready"), nil)
	}
}

// numberOf is the segment number in the name of a file of timeline 1.
func numberOf(c cluster, name string) uint64 {
	for no := uint64(0); ; no++ {
		if c.name(1, no) == name[:24] {
			return no
		}
	}
}

// status returns the names of archive_status.
func (c cluster) status(t testing.TB) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(c.dir, "pg_wal/archive_status"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func (c cluster) path(name string) string { return filepath.Join(c.dir, "pg_wal", name) }

// recorder notes in which order files are pushed.
type recorder struct {
	push func(ctx context.Context, path string) error

	mu    sync.Mutex
	names []string
}

func (r *recorder) Push(ctx context.Context, path string) error {
	r.mu.Lock()
	r.names = append(r.names, filepath.Base(path))
	r.mu.Unlock()
	if r.push == nil {
		return nil
	}
	return r.push(ctx, path)
}

func limited(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// Files that are ready are archived and marked, the named one isn't marked, and
// what is no WAL file is left alone.
func TestPool(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	var names, want []string
	for no := range uint64(12) {
		names = append(names, c.name(1, no))
	}
	names = append(names, c.name(1, 4)+".00000028.backup", c.name(1, 11)+".partial", "00000002.history")
	c.ready(t, names...)
	for _, name := range names[1:] {
		want = append(want, name+".done")
	}
	for _, odd := range []string{"x.ready", c.name(1, 3) + ".done.ready", c.name(1, 9) + ".tmp", "000000010000000000000002.READY"} {
		writeFile(t, filepath.Join(c.dir, "pg_wal/archive_status", odd), nil)
		want = append(want, odd)
	}
	want = append(want, names[0]+".ready")
	slices.Sort(want)
	b := mem.New(nil)
	p := wal.Pool{Size: 32, Push: func(ctx context.Context, path string) error {
		_, err := wal.Push(ctx, c.config(b), path)
		return err
	}}
	if err := p.Run(limited(t, time.Hour), c.path(names[0])); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		mustFetch(t, c.config(b), name, readFile(t, c.path(name)))
	}
	if got := c.status(t); !slices.Equal(got, want) {
		t.Errorf("archive_status holds %v, want %v", got, want)
	}
}

// Histories go before all others, then the oldest; no more than the size.
func TestPoolOrder(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	for no := range uint64(9) {
		c.ready(t, c.name(1, 8-no))
	}
	c.ready(t, "00000002.history", "00000003.history")
	for _, test := range []struct {
		size int
		want []string
	}{
		{-1, nil}, {0, nil}, {1, nil},
		{2, []string{"00000002.history"}},
		{4, []string{"00000002.history", "00000003.history", c.name(1, 0)}},
		{6, []string{"00000002.history", "00000003.history", c.name(1, 0), c.name(1, 1), c.name(1, 2)}},
	} {
		names := readyNames(t, c, test.size)
		if !slices.Equal(names, test.want) {
			t.Errorf("size %d: %v beside the named file, want %v", test.size, names, test.want)
		}
	}
}

// readyNames returns what a pool of a size pushes beside segment 5.
func readyNames(t *testing.T, c cluster, size int) []string {
	t.Helper()
	r := recorder{}
	// The names are taken, and then put back for the next size.
	if err := (wal.Pool{Size: size, Push: r.Push}).Run(limited(t, time.Hour), c.path(c.name(1, 5))); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, name := range r.names {
		if name == c.name(1, 5) {
			continue
		}
		names = append(names, name)
		done := filepath.Join(c.dir, "pg_wal/archive_status", name+".done")
		if err := os.Rename(done, strings.TrimSuffix(done, ".done")+".ready"); err != nil {
			t.Error(err)
		}
	}
	histories := 0
	for histories < len(names) && strings.HasSuffix(names[histories], ".history") {
		histories++
	}
	slices.Sort(names[:histories]) // they go side by side
	slices.Sort(names[histories:])
	return names
}

// What is archived out of order is marked in order, and after the named file.
func TestPoolMarksInOrder(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	names := c.names(1, 6)
	c.ready(t, names...)
	archived := make(map[string]chan struct{})
	for _, name := range names {
		archived[name] = make(chan struct{})
	}
	done := func() (n int) {
		for _, name := range c.status(t) {
			if strings.HasSuffix(name, ".done") {
				n++
			}
		}
		return n
	}
	p := wal.Pool{Size: 32, Push: func(ctx context.Context, path string) error {
		i := slices.Index(names, filepath.Base(path))
		if i+1 < len(names) { // each waits for its successor
			select {
			case <-archived[names[i+1]]:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if n := done(); n > 0 {
			t.Errorf("%d files are done before %s is", n, names[i])
		}
		close(archived[names[i]])
		return nil
	}}
	if err := p.Run(limited(t, time.Hour), c.path(names[0])); err != nil {
		t.Fatal(err)
	}
	if n := done(); n != 5 {
		t.Errorf("%d files are done, want 5", n)
	}
}

// A further file that fails, vanishes or changes stays ready with those behind it, which
// are archived all the same, and fails nothing.
func TestPoolLeaves(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	names := []string{c.name(1, 1), c.name(1, 2), c.name(1, 3), c.name(1, 4), c.name(1, 5), c.name(1, 6)}
	c.ready(t, names...)
	if err := os.Remove(c.path(names[1])); err != nil { // before
		t.Fatal(err)
	}
	p := wal.Pool{Size: 32, Push: func(_ context.Context, path string) error {
		switch filepath.Base(path) {
		case names[2]: // meanwhile
			return os.Remove(path)
		case names[3]: // recycled: another file of the same name and size
			writeFile(t, path+".new", readFile(t, path))
			return os.Rename(path+".new", path)
		case names[4]:
			return errors.New("storage is full")
		}
		return nil
	}}
	if err := p.Run(limited(t, time.Hour), c.path(names[0])); err != nil {
		t.Errorf("Run = %v, want nil: the named file is archived", err)
	}
	var want []string
	for _, name := range names {
		want = append(want, name+".ready")
	}
	if got := c.status(t); !slices.Equal(got, want) {
		t.Errorf("archive_status holds %v, want %v", got, want)
	}
}

// What comes before a file that failed is marked, and nothing behind it, the named
// file's failure included: PostgreSQL and its backups take the archive to be
// complete up to each file that is done.
func TestPoolMarksNoGap(t *testing.T) {
	t.Parallel()
	for failing := range 5 {
		c := newCluster(t)
		names := c.names(1, 5)
		c.ready(t, names...)
		var mu sync.Mutex
		tried := 0
		others := make(chan struct{}) // closed when all but the named one were tried
		p := wal.Pool{Size: 32, Push: func(_ context.Context, path string) error {
			i := slices.Index(names, filepath.Base(path))
			if i == 0 {
				<-others
			} else {
				mu.Lock()
				if tried++; tried == 4 {
					close(others)
				}
				mu.Unlock()
			}
			if i == failing {
				return errors.New("refused")
			}
			return nil
		}}
		if err := p.Run(limited(t, time.Hour), c.path(names[0])); (err != nil) != (failing == 0) {
			t.Errorf("file %d fails: Run = %v", failing, err)
		}
		want := []string{names[0] + ".ready"} // PostgreSQL's own
		for i := 1; i < 5; i++ {
			want = append(want, names[i]+map[bool]string{true: ".done", false: ".ready"}[i < failing])
		}
		if got := c.status(t); !slices.Equal(got, want) {
			t.Errorf("file %d fails: archive_status holds %v, want %v", failing, got, want)
		}
	}
}

// When a history can't be archived, nor are segments beside the named file.
func TestPoolHistoryFails(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.ready(t, c.name(1, 1), c.name(1, 2), "00000002.history")
	r := recorder{push: func(_ context.Context, path string) error {
		if strings.HasSuffix(path, ".history") {
			return errors.New("conflict")
		}
		return nil
	}}
	if err := (wal.Pool{Size: 32, Push: r.Push}).Run(limited(t, time.Hour), c.path(c.name(1, 1))); err != nil {
		t.Fatal(err)
	}
	if slices.Contains(r.names, c.name(1, 2)) {
		t.Errorf("pushed %v: a segment after a history that failed", r.names)
	}
}

// The error of a run is that of the named file, and ends the others.
func TestPoolNamedFails(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.ready(t, c.name(1, 1), c.name(1, 2))
	refused := errors.New("refused")
	under := make(chan struct{})
	p := wal.Pool{Size: 32, Push: func(ctx context.Context, path string) error {
		if filepath.Base(path) == c.name(1, 1) {
			<-under
			return refused
		}
		close(under)
		<-ctx.Done() // for ever, if nobody ends it
		return ctx.Err()
	}}
	if err := p.Run(limited(t, time.Hour), c.path(c.name(1, 1))); !errors.Is(err, refused) {
		t.Errorf("Run = %v, want %v", err, refused)
	}
	want := []string{c.name(1, 1) + ".ready", c.name(1, 2) + ".ready"}
	if got := c.status(t); !slices.Equal(got, want) {
		t.Errorf("archive_status holds %v, want %v", got, want)
	}
}

// Others that stall, even in the operating system, hold nobody up once the named
// file is archived; and when that itself is slow, they make room for it.
func TestPoolStalls(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.ready(t, c.name(1, 1), c.name(1, 2), c.name(1, 3))
	hang := make(chan struct{})
	defer close(hang)
	p := wal.Pool{Size: 32, Push: func(_ context.Context, path string) error {
		if filepath.Base(path) != c.name(1, 1) {
			<-hang
			return errors.New("it came back too late")
		}
		return nil
	}}
	if err := p.Run(limited(t, time.Hour), c.path(c.name(1, 1))); err != nil {
		t.Errorf("Run = %v", err)
	}

	given := make(chan struct{}) // closed when the other file was given up
	p.Push = func(ctx context.Context, path string) error {
		switch filepath.Base(path) {
		case c.name(1, 1):
			<-given
			return ctx.Err()
		case c.name(1, 2):
			<-ctx.Done()
			close(given)
		}
		return ctx.Err()
	}
	p.Size = 2
	if err := p.Run(limited(t, 4*time.Second), c.path(c.name(1, 1))); err != nil {
		t.Errorf("Run = %v, want nil: the other file takes a quarter of the time at most", err)
	}
}

// Without a folder archive_status, or with one that can't be read, it is the
// named file alone.
func TestPoolWithoutStatus(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	path := c.write(t, c.name(1, 1), c.segment(1, 100))
	for _, prepare := range []func(){
		func() {},
		func() { writeFile(t, filepath.Join(c.dir, "pg_wal/archive_status"), nil) },
	} {
		prepare()
		var r recorder
		if err := (wal.Pool{Size: 32, Push: r.Push}).Run(limited(t, time.Hour), path); err != nil || len(r.names) != 1 {
			t.Errorf("Run = %v, pushed %v", err, r.names)
		}
	}
}

// Runs side by side, on an archive_status with thousands of entries, archive and
// mark each file.
func TestPoolsAtOnce(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	b, err := file.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	const files = 40
	for no := range uint64(files) {
		c.ready(t, c.name(1, no))
	}
	for no := range 4_000 { // that wait, of a later timeline; nobody comes as far
		writeFile(t, filepath.Join(c.dir, "pg_wal/archive_status", fmt.Sprintf("00000009%016X.ready", no)), nil)
	}
	push := func(ctx context.Context, path string) error {
		_, err := wal.Push(ctx, c.config(b), path)
		return err
	}
	status := func(no uint64) string { return filepath.Join(c.dir, "pg_wal/archive_status", c.name(1, no)) }
	runs := 0
	for no := range uint64(files) {
		if _, err := os.Stat(status(no) + ".done"); err == nil {
			continue // beside another one
		}
		runs++
		var pools sync.WaitGroup
		for range 3 {
			pools.Go(func() {
				if err := (wal.Pool{Size: 20, Push: push}).Run(limited(t, time.Hour), c.path(c.name(1, no))); err != nil {
					t.Errorf("Run = %v", err)
				}
			})
		}
		pools.Wait()
		if err := os.Rename(status(no)+".ready", status(no)+".done"); err != nil {
			t.Error(err)
		}
	}
	if runs == files {
		t.Error("nothing was archived beside a named file")
	}
	for no := range uint64(files) {
		if _, err := wal.Verify(t.Context(), b, c.system, c.name(1, no)); err != nil {
			t.Error(err)
		}
	}
}

// A pool holds no more than it may, but always one file.
func TestPoolMemory(t *testing.T) {
	t.Parallel()
	for memory, want := range map[int64]int{1: 1, int64(3 * mb): 3} {
		c := newCluster(t)
		for no := uint64(1); no <= 8; no++ {
			c.ready(t, c.name(1, no))
		}
		var mu sync.Mutex
		now, most := 0, 0
		named := c.path(c.name(1, 1))
		p := wal.Pool{Size: 32, Memory: memory, Push: func(_ context.Context, path string) error {
			if path == named {
				return nil
			}
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			time.Sleep(5 * time.Millisecond)
			mu.Lock()
			now--
			mu.Unlock()
			return nil
		}}
		if err := p.Run(limited(t, time.Hour), named); err != nil {
			t.Fatal(err)
		}
		if most < 1 || most > want {
			t.Errorf("%d files at once with memory for %d", most, want)
		}
	}
}

// What others do to archive_status meanwhile is theirs: a file that they have marked
// or forgotten is not marked again, and nothing fails.
func TestPoolStatusChanges(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	names := []string{c.name(1, 1), c.name(1, 2), c.name(1, 3), c.name(1, 4)}
	c.ready(t, names...)
	status := filepath.Join(c.dir, "pg_wal/archive_status")
	change := func(err error) {
		if err != nil {
			t.Error(err)
		}
	}
	p := wal.Pool{Size: 32, Push: func(_ context.Context, path string) error {
		switch ready := filepath.Join(status, filepath.Base(path)+".ready"); filepath.Base(path) {
		case names[1]: // by another push
			change(os.Rename(ready, strings.TrimSuffix(ready, "ready")+"done"))
		case names[2]: // by hand
			change(os.Remove(ready))
		case names[3]: // both are there after a crash
			change(os.WriteFile(strings.TrimSuffix(ready, "ready")+"done", nil, 0o600))
		}
		return nil
	}}
	if err := p.Run(limited(t, time.Hour), c.path(names[0])); err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
	if got, want := c.status(t), []string{names[0] + ".ready", names[1] + ".done", names[3] + ".done"}; !slices.Equal(got, want) {
		t.Errorf("archive_status holds %v, want %v", got, want)
	}

	// The whole folder goes.
	c.ready(t, names...)
	p.Push = func(context.Context, string) error {
		err := os.RemoveAll(status)
		if err != nil && !errors.Is(err, syscall.ENOTEMPTY) {
			t.Error(err)
		}
		return nil
	}
	if err := p.Run(limited(t, time.Hour), c.path(names[0])); err != nil {
		t.Errorf("Run = %v without archive_status, want nil", err)
	}
}

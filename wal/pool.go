package wal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"wal-e/internal/postgres"
)

const (
	// leastGrace is how long files that are on their way may at least go on when
	// the named one is done.
	leastGrace = time.Second
	// abandonment is how long cancelled pushes are waited for: one that hangs in
	// the operating system must not delay PostgreSQL's archiver.
	abandonment = 200 * time.Millisecond
)

// A Pool pushes a file that PostgreSQL names, and beside it others that wait to
// be archived, so that the next calls of archive_command find less to do.
type Pool struct {
	// Size is how many files are pushed in a run at most, the named one included.
	// Below 2 it is that one alone.
	Size int
	// Memory bounds the bytes of the files that are pushed beside the named one at
	// once: what is stored of each is held until it is. One is always pushed. 0 means
	// 256 MiB.
	Memory int64
	// Push archives the file at a path. It returns nil only when that is durable.
	// It is called for several files at once.
	Push func(ctx context.Context, path string) error
	// Log gets a warning for each file that failed and isn't the named one. Nil
	// discards.
	Log *slog.Logger
}

// Run pushes the file at path. Its error is about that file alone.
//
// Beside it Run pushes those that archive_status says are ready, timeline
// histories first, then in the order of their names, and renames NAME.ready to
// NAME.done once the archive has the file and the local one is what it was before,
// one after the other: when one is done, so are all before it, as PostgreSQL and
// its backups take it to be. Whatever fails there leaves that file and those behind
// it ready: PostgreSQL names them later, and what is archived by then costs little.
// The named file's own status belongs to PostgreSQL.
//
// The others never cost the named file its chance: with a deadline in ctx they are
// given up when that isn't archived within a quarter of the time, so that it has
// the whole network where that is slow. When it is done, those under way have as
// long again as it took, but at least a second.
func (p Pool) Run(ctx context.Context, path string) error {
	began := time.Now()
	others, stop := context.WithCancel(ctx)
	defer stop()
	var slow *time.Timer
	if deadline, ok := ctx.Deadline(); ok {
		slow = time.AfterFunc(time.Until(deadline)/4, stop)
		defer slow.Stop()
	}
	named, noMore, done := &pushed{ended: make(chan struct{})}, make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		p.pushOthers(others, path, named, noMore)
	}()
	err := p.Push(ctx, path)
	named.end(err == nil)
	if err != nil {
		stop()
	}
	if slow != nil {
		slow.Stop()
	}
	grace := max(leastGrace, time.Since(began))
	defer time.AfterFunc(leastGrace/2, func() { close(noMore) }).Stop()
	defer time.AfterFunc(grace, stop).Stop()
	select {
	case <-done:
		return err
	case <-others.Done():
	}
	select {
	case <-done:
	case <-time.After(abandonment):
		p.log().WarnContext(ctx, "further files are still on their way, and stay ready")
	}
	return err
}

func (p Pool) log() *slog.Logger {
	if p.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return p.Log
}

// A pushed file is one that is on its way, or was.
type pushed struct {
	ended    chan struct{} // closed when it isn't under way any more
	archived bool          // with all before it, once ended is closed
}

func (p *pushed) end(archived bool) {
	p.archived = archived
	close(p.ended)
}

// pushOthers pushes what is ready beside path. None is marked before named has
// ended, and none begins once noMore is closed.
func (p Pool) pushOthers(ctx context.Context, path string, named *pushed, noMore <-chan struct{}) {
	status := filepath.Join(filepath.Dir(path), "archive_status")
	ready, err := readyFiles(status, filepath.Base(path), p.Size-1)
	if err != nil {
		p.log().WarnContext(ctx, "only the named file is archived", "detail", err.Error())
		return
	}
	if len(ready) == 0 {
		return
	}
	histories := 0
	for histories < len(ready) && strings.HasSuffix(ready[histories], ".history") {
		histories++
	}
	b := batch{pool: p, dir: filepath.Dir(path), status: status, before: named, noMore: noMore, most: cmp.Or(p.Memory, 256<<20)}
	b.room = semaphore.NewWeighted(b.most)
	// A timeline's segments are of no use without its history, and another's with
	// the same number must not be mixed with them.
	if b.push(ctx, ready[:histories]) {
		b.push(ctx, ready[histories:])
	}
	b.settle(ctx)
}

// A batch is the further files of a run.
type batch struct {
	pool        Pool
	dir, status string
	before      *pushed         // the last that began
	noMore      <-chan struct{} // closed when none may begin
	room        *semaphore.Weighted
	most        int64 // that room has

	mu     sync.Mutex
	marked int // files of which the status was changed
	failed bool
}

// push pushes files side by side and reports whether all are archived.
func (b *batch) push(ctx context.Context, names []string) bool {
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, name := range names {
		path := filepath.Join(b.dir, name)
		before, err := os.Lstat(path)
		if err != nil {
			// Nobody but PostgreSQL may say that it isn't needed.
			b.leave(ctx, name, err)
			b.before = &pushed{ended: b.before.ended}
			continue
		}
		weight := min(max(before.Size(), 1), maxHeld, b.most)
		if b.room.Acquire(ctx, weight) != nil || b.ended() {
			b.fail()
			break
		}
		earlier, this := b.before, &pushed{ended: make(chan struct{})}
		b.before = this
		wg.Go(func() {
			err := b.pool.Push(ctx, path)
			b.room.Release(weight)
			// Whoever sees that a file is done may think so of all before it.
			<-earlier.ended
			if err == nil && earlier.archived {
				err = b.mark(path, before)
			}
			if err != nil {
				b.leave(ctx, name, err)
			}
			this.end(err == nil && earlier.archived)
		})
	}
	wg.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.failed
}

func (b *batch) ended() bool {
	select {
	case <-b.noMore:
		return true
	default:
		return false
	}
}

func (b *batch) fail() {
	b.mu.Lock()
	b.failed = true
	b.mu.Unlock()
}

// leave says why a file stays ready. That the time is up is no news.
func (b *batch) leave(ctx context.Context, name string, err error) {
	b.fail()
	if ctx.Err() != nil {
		return
	}
	b.pool.log().WarnContext(ctx, "a further file is not archived yet", "file", name,
		"detail", err.Error(), "hint", "It stays ready: PostgreSQL names it later.")
}

// mark says that a file is archived, if it is still what it was before that.
func (b *batch) mark(path string, before fs.FileInfo) error {
	after, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !os.SameFile(before, after) || after.Size() != before.Size() || !after.ModTime().Equal(before.ModTime()) {
		return fmt.Errorf("%s: %w", path, errChanged)
	}
	ready := filepath.Join(b.status, filepath.Base(path)+readySuffix)
	err = os.Rename(ready, strings.TrimSuffix(ready, readySuffix)+".done")
	if errors.Is(err, fs.ErrNotExist) {
		return nil // another push was faster, or PostgreSQL itself
	}
	if err == nil {
		b.mu.Lock()
		b.marked++
		b.mu.Unlock()
	}
	return err
}

// settle makes the new names durable. Without it a crash would bring back
// files that are ready, and pushing them again is success.
func (b *batch) settle(ctx context.Context) {
	if b.marked == 0 {
		return
	}
	if err := syncDir(b.status); err != nil {
		b.pool.log().WarnContext(ctx, "archive_status was not synced", "detail", err.Error())
	}
}

const readySuffix = ".ready"

// readyFiles returns up to n names of WAL files that the folder archive_status
// says wait to be archived, but for except: timeline histories first, then by
// name. A folder that isn't there has none. It is read once, from end to end, and
// no more than a few times n names are held.
func readyFiles(status, except string, n int) ([]string, error) {
	if n < 1 {
		return nil, nil
	}
	d, err := os.Open(status)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer d.Close() // only read
	var ready []string
	for {
		names, err := d.Readdirnames(1024)
		for _, file := range names {
			name, ok := strings.CutSuffix(file, readySuffix)
			if ok && name != except && postgres.ParseWALFile(name).Kind != postgres.OtherFile {
				ready = append(ready, name)
			}
		}
		if err == io.EOF || len(ready) > 4*n+1024 {
			slices.SortFunc(ready, archiveOrder)
			ready = ready[:min(n, len(ready))]
		}
		if err == io.EOF {
			return ready, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// archiveOrder is that of PostgreSQL's archiver (ready_file_comparator).
func archiveOrder(a, b string) int {
	ha, hb := strings.HasSuffix(a, ".history"), strings.HasSuffix(b, ".history")
	switch {
	case ha && !hb:
		return -1
	case hb && !ha:
		return 1
	}
	return strings.Compare(a, b)
}

package wal_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
	"wal-e/internal/storage/storagetest"
	"wal-e/wal"
)

const lots = 1 << 50

// ahead is an area of c with room for everything.
func (c cluster) ahead(t testing.TB) wal.Ahead {
	return wal.WithFree(wal.Ahead{
		Base: t.TempDir(), Archive: "file://localhost/x", SegmentSize: c.segSize, Segments: 8, Bytes: 256 * mb,
	}, lots, lots)
}

func areaOf(a wal.Ahead) string { return filepath.Join(a.Base, ".wal-e/prefetch") }

// prefetched returns the segments in an area, and checks that each has a receipt.
func prefetched(t testing.TB, a wal.Ahead) []string {
	t.Helper()
	entries, err := os.ReadDir(areaOf(a))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if len(e.Name()) == 24 {
			names = append(names, e.Name())
			if _, err := os.Stat(filepath.Join(areaOf(a), e.Name()+".receipt")); err != nil {
				t.Error(err)
			}
		}
		if strings.HasPrefix(e.Name(), wal.TempPrefix) {
			t.Errorf("temporary file %s was left", e.Name())
		}
	}
	return names
}

// archived returns a bucket with the segments from..to of c.
func (c cluster) archived(t testing.TB, from, to uint64) storage.Bucket {
	t.Helper()
	b := mem.New(nil)
	for no := from; no <= to; no++ {
		mustPush(t, c.config(b), c.write(t, c.name(1, no), c.segment(no, 3000)))
	}
	return b
}

func (c cluster) names(from, to uint64) []string {
	var names []string
	for no := from; no <= to; no++ {
		names = append(names, c.name(1, no))
	}
	return names
}

// What was fetched ahead is delivered without a request, and once.
func TestAhead(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	b := c.archived(t, 1, 6)
	a := c.ahead(t)
	if !a.Wanted(c.config(b), c.name(1, 1)) {
		t.Error("Wanted = false in an empty area")
	}
	if err := a.FetchAhead(t.Context(), c.config(b), c.name(1, 1)); err != nil {
		t.Fatal(err)
	}
	if got := prefetched(t, a); !slices.Equal(got, c.names(2, 6)) {
		t.Fatalf("prefetched %v, want 2 to 6", got)
	}
	counted := storagetest.NewFaulty(b, storagetest.Fault{})
	dest := filepath.Join(a.Base, "RECOVERYXLOG")
	writeFile(t, dest, []byte("what was there before"))
	for no := uint64(2); no <= 6; no++ {
		f, ok := a.Deliver(t.Context(), c.config(counted), c.name(1, no), dest)
		if !ok || f.Key != wal.Key(c.system, c.name(1, no)) || f.Length != int64(c.segSize) {
			t.Fatalf("Deliver(%d) = %+v, %v", no, f, ok)
		}
		if !bytes.Equal(readFile(t, dest), c.segment(no, 3000)) {
			t.Errorf("Deliver(%d) gave other bytes", no)
		}
		if _, ok := a.Deliver(t.Context(), c.config(counted), c.name(1, no), dest); ok {
			t.Errorf("Deliver(%d) again", no)
		}
	}
	if counted.Calls() != 0 {
		t.Errorf("%d requests", counted.Calls())
	}
	assertNames(t, areaOf(a), "lock", "position")
}

// What isn't exactly what was proven is not used.
func TestAheadUntrusted(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	b := c.archived(t, 1, 2)
	name := c.name(1, 2)
	flip := func(path string, at int64) error {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		b[at] ^= 1
		return os.WriteFile(path, b, 0o600)
	}
	for what, spoil := range map[string]func(a *wal.Ahead, cfg *wal.Config, path string) error{
		"first page":      func(_ *wal.Ahead, _ *wal.Config, path string) error { return flip(path, 20) },
		"last byte":       func(_ *wal.Ahead, _ *wal.Config, path string) error { return flip(path, int64(c.segSize)-1) },
		"receipt":         func(_ *wal.Ahead, _ *wal.Config, path string) error { return flip(path+".receipt", 30) },
		"sum in receipt":  func(_ *wal.Ahead, _ *wal.Config, path string) error { return flip(path+".receipt", 80) },
		"no receipt":      func(_ *wal.Ahead, _ *wal.Config, path string) error { return os.Remove(path + ".receipt") },
		"no file":         func(_ *wal.Ahead, _ *wal.Config, path string) error { return os.Remove(path) },
		"shorter":         func(_ *wal.Ahead, _ *wal.Config, path string) error { return os.Truncate(path, 8192) },
		"longer":          func(_ *wal.Ahead, _ *wal.Config, path string) error { return os.Truncate(path, 2*mb) },
		"another archive": func(a *wal.Ahead, _ *wal.Config, _ string) error { a.Archive = "file://localhost/y"; return nil },
		"another system":  func(_ *wal.Ahead, cfg *wal.Config, _ string) error { cfg.System = 4711; return nil },
		"a link": func(_ *wal.Ahead, _ *wal.Config, path string) error {
			return errors.Join(os.Rename(path, path+".x"), os.Symlink(path+".x", path))
		},
		"another segment": func(_ *wal.Ahead, _ *wal.Config, path string) error {
			one := filepath.Join(filepath.Dir(path), c.name(1, 1))
			return errors.Join(os.Rename(one, path), os.Rename(one+".receipt", path+".receipt"))
		},
	} {
		a, cfg := c.ahead(t), c.config(b)
		for _, name := range c.names(1, 2) {
			if err := a.FetchOne(t.Context(), cfg, name); err != nil {
				t.Fatal(err)
			}
		}
		if err := spoil(&a, &cfg, filepath.Join(areaOf(a), name)); err != nil {
			t.Fatal(err)
		}
		dest := filepath.Join(a.Base, "RECOVERYXLOG")
		if f, ok := a.Deliver(t.Context(), cfg, name, dest); ok {
			t.Errorf("%s: Deliver = %+v, want that it isn't used", what, f)
		}
		if _, err := os.Lstat(dest); err == nil {
			t.Errorf("%s: something is at the destination", what)
		}
		if _, ok := a.Deliver(t.Context(), c.config(b), name, dest); ok {
			t.Errorf("%s: it was kept", what)
		}
	}
}

// The area is bounded by number, bytes and room on the volume.
func TestAheadBounds(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	b := c.archived(t, 1, 12)
	for _, test := range []struct {
		name   string
		change func(a *wal.Ahead)
		want   int
	}{
		{"number", func(a *wal.Ahead) { a.Segments = 3 }, 3},
		{"none", func(a *wal.Ahead) { a.Segments = 0 }, 0},
		{"bytes", func(a *wal.Ahead) { a.Bytes = 5*mb - 1 }, 4},
		{"no bytes", func(a *wal.Ahead) { a.Bytes = mb - 1 }, 0},
	} {
		a := c.ahead(t)
		test.change(&a)
		if wanted := a.Wanted(c.config(b), c.name(1, 1)); wanted != (test.want > 0) {
			t.Errorf("%s: Wanted = %v", test.name, wanted)
		}
		if err := a.FetchAhead(t.Context(), c.config(b), c.name(1, 1)); err != nil {
			t.Error(err)
		}
		if got := prefetched(t, a); !slices.Equal(got, c.names(2, uint64(1+test.want))) {
			t.Errorf("%s: prefetched %v, want %d", test.name, got, test.want)
		}
	}
	for available, ok := range map[int64]bool{5*mb + 256*mb: true, 1*mb + 256*mb: true, 256 * mb: false, 0: false} {
		a := wal.WithFree(c.ahead(t), available, 100*mb)
		err := a.FetchAhead(t.Context(), c.config(b), c.name(1, 1))
		if ok != (err == nil) || !ok && !errors.Is(err, wal.ErrNoRoom) {
			t.Errorf("FetchAhead with %d bytes free = %v", available, err)
		}
	}
	if err := wal.WithFree(c.ahead(t), 300*mb, 20*300*mb+20*mb).FetchOne(t.Context(), c.config(b), c.name(1, 2)); !errors.Is(err, wal.ErrNoRoom) {
		t.Errorf("FetchOne with a twentieth free = %v, want ErrNoRoom", err)
	}
}

// What belongs ahead stays, all else goes; a history changes nothing.
func TestAheadLeftovers(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	b := c.archived(t, 1, 9)
	a := c.ahead(t)
	a.Segments = 3
	for _, name := range c.names(2, 8) {
		if err := a.FetchOne(t.Context(), c.config(b), name); err != nil {
			t.Fatal(err)
		}
	}
	running := filepath.Join(areaOf(a), "running", c.name(1, 3)) // of classic WAL-E
	stale := filepath.Join(areaOf(a), wal.TempPrefix+c.name(1, 3)+"-1")
	if err := os.MkdirAll(running, 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, stale, nil)
	for _, path := range []string{stale, filepath.Dir(running)} {
		old := time.Now().Add(-time.Hour)
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"00000002.history", c.name(1, 4) + ".partial", "x"} {
		if a.Wanted(c.config(b), name) {
			t.Errorf("Wanted(%s) = true", name)
		}
		if _, err := os.Stat(running); err != nil {
			t.Errorf("Wanted(%s) removed something", name)
		}
	}
	if a.Wanted(c.config(b), c.name(1, 5)) {
		t.Error("Wanted = true with all that belongs ahead there")
	}
	if got := prefetched(t, a); !slices.Equal(got, c.names(5, 8)) {
		t.Errorf("%v are left, want 5 to 8", got)
	}
	if _, err := os.Stat(filepath.Dir(running)); err == nil {
		t.Error("what classic WAL-E left is still there")
	}
	// pg_rewind goes back, where nothing ahead of it is needed.
	if a.Wanted(c.config(b), c.name(1, 2)) {
		t.Error("Wanted = true going back")
	}
	if !a.Wanted(c.config(b), c.name(2, 1)) {
		t.Error("Wanted = false on another timeline")
	}
	wal.RemoveAbandoned(a.Base)
	if _, err := os.Stat(areaOf(a)); err != nil {
		t.Error("RemoveAbandoned removed an area in use")
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(areaOf(a), "position"), old, old); err != nil {
		t.Fatal(err)
	}
	wal.RemoveAbandoned(a.Base)
	assertNames(t, a.Base)
	wal.RemoveAbandoned(a.Base)
}

// A gate holds back the body of objects until it is opened.
type gate struct {
	storage.Bucket
	open  chan struct{}
	calls atomic.Int64
}

func (g *gate) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	g.calls.Add(1)
	body, err := g.Bucket.Get(ctx, key, offset, length)
	if err != nil {
		return nil, err
	}
	return gatedBody{body, &slowly{body, g.open}}, nil
}

type gatedBody struct {
	io.Closer
	io.Reader
}

// slowly reads half an object, and the rest when open is closed.
type slowly struct {
	r    io.Reader
	open chan struct{}
}

func (s *slowly) Read(p []byte) (int, error) {
	n, err := s.r.Read(p[:min(len(p), 100)])
	if n == 100 {
		return n, err
	}
	<-s.open
	return n, err
}

// A file that another process fetches is waited for as long as it comes on, and
// one process fetches ahead at a time.
func TestAheadWaits(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.segSize = 2 * mb
	b := &gate{Bucket: c.archived(t, 2, 2), open: make(chan struct{})}
	a := c.ahead(t)
	a.Segments = 1
	fetched := make(chan error, 1)
	go func() { fetched <- a.FetchAhead(t.Context(), c.config(b), c.name(1, 1)) }()
	for { // until it has begun
		left, err := filepath.Glob(filepath.Join(areaOf(a), wal.TempPrefix+"0*"))
		if err != nil {
			t.Fatal(err)
		}
		if len(left) > 0 {
			break
		}
		time.Sleep(time.Millisecond)
		if b.calls.Load() > 0 { // a file appears with its first bytes only
			close(b.open)
			break
		}
	}
	if err := a.FetchAhead(t.Context(), c.config(nil), c.name(1, 1)); err != nil {
		t.Errorf("a second FetchAhead = %v, want nil: there is one already", err)
	}
	dest := filepath.Join(a.Base, "RECOVERYXLOG")
	_, ok := a.Deliver(t.Context(), c.config(nil), c.name(1, 2), dest)
	if err := <-fetched; err != nil {
		t.Fatal(err)
	}
	if !ok { // it was asked for before the first bytes were there
		_, ok = a.Deliver(t.Context(), c.config(nil), c.name(1, 2), dest)
	}
	if !ok || !bytes.Equal(readFile(t, dest), readFile(t, c.path(c.name(1, 2)))) {
		t.Errorf("Deliver = %v, or gave other bytes", ok)
	}
}

// A data directory that is gone is not made again.
func TestAheadRemoved(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	b := c.archived(t, 1, 3)
	a := c.ahead(t)
	a.Base = filepath.Join(a.Base, "gone", "pg_wal")
	for what, err := range map[string]error{
		"FetchAhead": a.FetchAhead(t.Context(), c.config(b), c.name(1, 1)),
		"FetchOne":   a.FetchOne(t.Context(), c.config(b), c.name(1, 1)),
	} {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s = %v, want that the folder isn't there", what, err)
		}
	}
	if a.Wanted(c.config(b), c.name(1, 1)) {
		t.Error("Wanted = true")
	}
	if _, err := os.Lstat(filepath.Dir(a.Base)); err == nil {
		t.Error("the folder was made")
	}
}

// A failure of the store leaves nothing that is used.
func TestAheadFaults(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	b := c.archived(t, 1, 9)
	for _, mode := range []storagetest.Mode{storagetest.FailBefore, storagetest.BreakBody, storagetest.FailFrom} {
		a := c.ahead(t)
		faulty := storagetest.NewFaulty(b, storagetest.Fault{Call: 2, Mode: mode})
		if err := a.FetchAhead(t.Context(), c.config(faulty), c.name(1, 1)); err == nil {
			t.Errorf("mode %v: FetchAhead = nil", mode)
		}
		prefetched(t, a)
		if err := a.FetchAhead(t.Context(), c.config(b), c.name(1, 1)); err != nil {
			t.Error(err)
		}
		if got := prefetched(t, a); !slices.Equal(got, c.names(2, 9)) {
			t.Errorf("mode %v: prefetched %v after all, want 2 to 9", mode, got)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.ahead(t).FetchOne(ctx, c.config(b), c.name(1, 10)); !errors.Is(err, context.Canceled) {
		t.Errorf("FetchOne = %v", err)
	}
}

func FuzzReceipt(f *testing.F) {
	c := newCluster(f)
	b := c.archived(f, 1, 1)
	a := c.ahead(f)
	if err := a.FetchOne(f.Context(), c.config(b), c.name(1, 1)); err != nil {
		f.Fatal(err)
	}
	f.Add(readFile(f, filepath.Join(areaOf(a), c.name(1, 1)+".receipt")))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if again, err := wal.ReceiptRoundTrip(b); err == nil && !bytes.Equal(again, b) {
			t.Errorf("%x became %x", b, again)
		}
	})
}

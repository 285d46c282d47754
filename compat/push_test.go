package compat_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"wal-e/compat"
	"wal-e/internal/fault"
	"wal-e/internal/pgtest"
	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
)

// A flaky bucket breaks off the first tries of each Create after some bytes.
type flaky struct {
	storage.Bucket

	mu    sync.Mutex
	tries map[string]int
}

func (f *flaky) Create(ctx context.Context, key string, r io.Reader, size int64, meta storage.Meta) error {
	f.mu.Lock()
	f.tries[key]++
	try := f.tries[key]
	f.mu.Unlock()
	if try <= 2 {
		_, _ = io.CopyN(io.Discard, r, int64(try)*100)
		return errStore
	}
	err := f.Bucket.Create(ctx, key, r, size, meta)
	if try == 3 && err == nil && compat.ParseKey(key).Kind != compat.Version {
		return errStore // the answer is lost
	}
	return err
}

func TestPushWAL(t *testing.T) {
	t.Parallel()
	a := newClassic(t)
	f := &flaky{Bucket: a, tries: make(map[string]int)}
	cfg := compat.WALConfig{Bucket: storage.Retry(f, storage.Policy{Attempts: 5, First: time.Microsecond}), Workers: 2}
	path := filepath.Join(t.TempDir(), "000000010000000000000004")
	write := func(b []byte) {
		t.Helper()
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(segment(4))
	p, err := compat.PushWAL(t.Context(), cfg, path)
	if err != nil || p.Key != "wal_005/000000010000000000000004.lzo" { // stored, but the answer was lost
		t.Fatalf("PushWAL = %+v, %v", p, err)
	}
	dest := filepath.Join(t.TempDir(), "x")
	if err := compat.FetchWAL(t.Context(), cfg, filepath.Base(path), dest); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(dest); err != nil || !bytes.Equal(got, segment(4)) {
		t.Errorf("%d bytes came back, %v", len(got), err)
	}
	if p, err := compat.PushWAL(t.Context(), cfg, path); err != nil || p.Stored != 0 {
		t.Errorf("again: %+v, %v", p, err)
	}
	other := segment(4)
	other[len(other)-1] = 1
	write(other)
	if p, err := compat.PushWAL(t.Context(), cfg, path); !errors.Is(err, compat.ErrConflict) {
		t.Errorf("another last byte: %+v, %v, want a conflict", p, err)
	}
	// What no fetch would take isn't archived.
	for what, b := range map[string][]byte{
		"shorter": other[:8192], "longer": append(segment(4), 0), "empty": {}, "zeros": make([]byte, 1<<20), "another segment": segment(5),
	} {
		write(b)
		for what, b := range map[string]storage.Bucket{what: a, what + ", none there": newClassic(t)} {
			p, err := compat.PushWAL(t.Context(), compat.WALConfig{Bucket: b}, path)
			if fault.Of(err) != fault.BadSegment || errors.Is(err, compat.ErrConflict) {
				t.Errorf("%s: %+v, %v, want it refused", what, p, err)
			}
		}
	}
	history := filepath.Join(filepath.Dir(path), "00000002.history")
	for content, want := range map[string]fault.Kind{"": fault.BadSegment, "1\t0/A000000\tx\n": 0} {
		if err := os.WriteFile(history, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := compat.PushWAL(t.Context(), cfg, history); fault.Of(err) != want || want == 0 && err != nil {
			t.Errorf("a history of %q: %v", content, err)
		}
	}
	write(segment(4))
	a.replace(t, p.Key, []byte("damaged"))
	if _, err := compat.PushWAL(t.Context(), cfg, path); !errors.Is(err, compat.ErrNotClassic) {
		t.Errorf("over what can't be read: %v", err)
	}
	if _, err := compat.PushWAL(t.Context(), cfg, path+"x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of nothing: %v", err)
	}
	if _, err := compat.PushWAL(t.Context(), cfg, t.TempDir()); err == nil {
		t.Error("of a folder: no error")
	}
}

type sealing struct{ io.Writer }

func (s sealing) Close() error {
	_, err := io.WriteString(s.Writer, "|end")
	return err
}

// What encrypts gets every byte, and its message is ended, or not stored.
func TestEncrypt(t *testing.T) {
	t.Parallel()
	a := newClassic(t)
	path := filepath.Join(t.TempDir(), "00000002.history")
	if err := os.WriteFile(path, []byte("history"), 0o600); err != nil {
		t.Fatal(err)
	}
	encrypt := func(w io.Writer) (io.WriteCloser, error) {
		_, err := io.WriteString(w, "\x85begin|")
		return sealing{w}, err
	}
	if _, err := compat.PushWAL(t.Context(), compat.WALConfig{Bucket: a, Encrypt: encrypt}, path); err != nil {
		t.Fatal(err)
	}
	b := a.read(t, compat.WALKey("00000002.history"))
	if !bytes.HasPrefix(b, []byte("\x85begin|")) || !bytes.HasSuffix(b, []byte("|end")) {
		t.Errorf("stored %q", b)
	}
	a = newClassic(t)
	refuse := func(io.Writer) (io.WriteCloser, error) { return nil, errStore }
	if _, err := compat.PushWAL(t.Context(), compat.WALConfig{Bucket: a, Encrypt: refuse}, path); !errors.Is(err, errStore) {
		t.Errorf("PushWAL = %v", err)
	}
	if _, err := a.Stat(t.Context(), compat.WALKey("00000002.history")); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("something is stored: %v", err)
	}
}

// Many small partitions, some sent again, a rate limit, links: what is restored is
// what was there.
func TestPushOffline(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, pgtest.Options{})
	c.Exec(t, "CREATE TABLE t AS SELECT i, repeat(md5(i::text), 20) FROM generate_series(1, 3000) i")
	space := c.AddTablespace(t, "fast")
	c.Exec(t, "CREATE TABLE u TABLESPACE fast AS SELECT generate_series(1, 1000)")
	oid := c.Query(t, "SELECT oid FROM pg_tablespace WHERE spcname = 'fast'")
	b := mem.New(nil)
	cfg := compat.PushConfig{Bucket: b, Dir: c.Dir, Offline: true}
	if _, err := compat.Push(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "postmaster.pid") {
		t.Errorf("Push beside a server = %v", err)
	}
	c.Stop(t, pgtest.Fast)

	elsewhere := t.TempDir()
	if err := os.Symlink(elsewhere, filepath.Join(c.Dir, "base", "away")); err != nil {
		t.Fatal(err)
	}
	if _, err := compat.Push(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "--skip-link base/away") {
		t.Errorf("Push of a link to a directory = %v", err)
	}
	cfg.SkipLinks = []string{"base/away"}
	// A tablespace whose file system isn't mounted is not one without data.
	for what, there := range map[string]bool{"nothing": false, "an empty directory": true} {
		if err := os.Rename(space, space+".away"); err != nil {
			t.Fatal(err)
		}
		if there {
			if err := os.Mkdir(space, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if r, err := compat.Push(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "pg_tblspc/"+oid) || !strings.Contains(err.Error(), "mounted") {
			t.Errorf("Push with %s for a tablespace = %+v, %v", what, r, err)
		}
		_ = os.Remove(space) // it need not be there
		if err := os.Rename(space+".away", space); err != nil {
			t.Fatal(err)
		}
	}
	cfg.MaxPartition = 100 << 10
	if _, err := compat.Push(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "too large") {
		t.Errorf("Push of a large file = %v", err)
	}
	for o := range b.List(t.Context(), "", "") {
		t.Errorf("failed pushes left %s", o.Key)
	}
	f := &flaky{Bucket: b, tries: make(map[string]int)}
	cfg.Bucket = storage.Retry(f, storage.Policy{Attempts: 5, First: time.Microsecond})
	cfg.MaxPartition, cfg.ReadRate = 17<<20, 1<<30
	r, err := compat.Push(t.Context(), cfg)
	if err != nil || r.Partitions < 3 {
		t.Fatalf("Push = %+v, %v", r, err)
	}
	if _, err := compat.Push(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("Push again = %v", err)
	}
	name, err := compat.ParseName(r.Name)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := compat.Verify(t.Context(), compat.VerifyConfig{Bucket: b, ReadData: true}, compat.Backup{Name: name}); err != nil || !v.OK ||
		v.Bytes != r.Bytes || v.Files != r.Files {
		t.Errorf("Verify = %+v, %v; pushed %+v", v, err, r)
	}

	dir, to := filepath.Join(pgtest.TempDir(t), "data"), filepath.Join(pgtest.TempDir(t), "space")
	fetched, err := compat.Fetch(t.Context(), compat.FetchConfig{Bucket: b, Backup: compat.Backup{Name: name}, Dir: dir, TablespaceMap: map[string]string{oid: to}})
	if err != nil || fetched.Files != r.Files {
		t.Fatalf("Fetch = %+v, %v", fetched, err)
	}
	for from, restored := range map[string]string{c.Dir: dir, space: to} {
		want := slices.DeleteFunc(tree(t, from), func(s string) bool {
			name, _, _ := strings.Cut(s, "=")
			return slices.Contains([]string{"postgresql.conf", "pg_hba.conf", "pg_ident.conf", "postmaster.opts"}, name) ||
				strings.HasPrefix(s, "base/away -> ") || strings.HasPrefix(s, "pg_tblspc/"+oid+" ") || strings.HasPrefix(s, "pg_wal/") && s != "pg_wal/"
		})
		got := slices.DeleteFunc(tree(t, restored), func(s string) bool {
			return strings.HasPrefix(s, "pg_tblspc/"+oid+" ") || strings.HasPrefix(s, "pg_wal/") && s != "pg_wal/"
		})
		if !slices.Equal(got, want) {
			t.Errorf("%s has %d entries, restored are %d, or others", from, len(want), len(got))
			for _, s := range want {
				if !slices.Contains(got, s) {
					t.Errorf("lacks %.80q", s)
				}
			}
		}
	}
}

// vanishing removes a file when the first partition is begun.
type vanishing struct {
	slog.Handler
	path string
}

func (v vanishing) Enabled(context.Context, slog.Level) bool { return true }

func (v vanishing) Handle(_ context.Context, r slog.Record) error {
	if strings.HasPrefix(r.Message, "begin uploading") {
		return os.RemoveAll(v.path)
	}
	return nil
}

// Nothing repairs a stopped cluster of which something vanishes or shrinks while it is
// backed up: there is no backup of it.
func TestPushOfflineVanishes(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, pgtest.Options{SegmentSizeMB: 1})
	c.Stop(t, pgtest.Fast)
	segments, err := filepath.Glob(filepath.Join(c.Dir, "pg_wal", "0*"))
	if err != nil || len(segments) == 0 {
		t.Fatalf("segments: %v, %v", segments, err)
	}
	for _, name := range []string{filepath.Join(c.Dir, "pg_xact", "0000"), segments[0]} {
		whole, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		b := mem.New(nil)
		cfg := compat.PushConfig{Bucket: b, Dir: c.Dir, Offline: true, Log: slog.New(vanishing{slog.DiscardHandler, name})}
		if r, err := compat.Push(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), filepath.Base(name)) {
			t.Errorf("Push without %s = %+v, %v", name, r, err)
		}
		if list, err := compat.List(t.Context(), b); err != nil || len(list) > 0 {
			t.Errorf("without %s there is %v, %v", name, list, err)
		}
		if err := os.WriteFile(name, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := compat.Push(t.Context(), compat.PushConfig{Bucket: mem.New(nil), Dir: c.Dir, Offline: true}); err != nil {
		t.Errorf("Push of the cluster as it was = %v", err)
	}
}

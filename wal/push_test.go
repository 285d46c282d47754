package wal_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"wal-e/internal/postgres"
	"wal-e/internal/storage"
	"wal-e/internal/storage/file"
	"wal-e/internal/storage/mem"
	"wal-e/internal/storage/storagetest"
	"wal-e/wal"
)

func TestPushAndFetch(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.segSize = 8 * mb
	onFile, err := file.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{
		c.name(1, 3):                      c.segment(3, 3*mb),
		c.name(1, 4):                      c.segment(4, 0),
		c.name(1, 5):                      c.segment(5, 8*mb-postgres.WALHeaderSize),
		c.name(2, 6):                      c.segment(6, 100), // a timeline's first segment begins with its parent's page
		c.name(1, 7) + ".partial":         c.segment(7, 2*mb),
		c.name(1, 3) + ".00000028.backup": []byte("START WAL LOCATION: 0/3000028 (file 000000010000000000000003)\n"),
		"00000002.history":                []byte("1\t0/A373778\tno recovery target specified\n"),
		"anything else":                   []byte("x"),
		"nothing":                         {},
	}
	for _, b := range []storage.Bucket{mem.New(nil), onFile} {
		cfg := c.config(b)
		for name, data := range files {
			p := mustPush(t, cfg, c.write(t, name, data))
			want := fmt.Sprintf("wal_006/%s/%s", c.system, name)
			if p.Key != want || p.System != c.system || p.Length != int64(len(data)) || p.Stored == 0 {
				t.Errorf("Push(%s) = %+v, want key %s of %d bytes", name, p, want, len(data))
			}
			if id, err := wal.ReadIdentity(t.Context(), b, p.Key); err != nil || id != p.Identity {
				t.Errorf("ReadIdentity(%s) = %v, %v, want %v", p.Key, id, err, p.Identity)
			}
			if id, err := wal.Verify(t.Context(), b, c.system, name); err != nil || id != p.Identity {
				t.Errorf("Verify(%s) = %v, %v, want %v", name, id, err, p.Identity)
			}
			mustFetch(t, cfg, name, data)
		}
	}
}

// What decides is the plaintext, not how it is stored.
func TestPushAgain(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	b := mem.New(nil)
	path := c.write(t, c.name(1, 3), bytes.Repeat(c.segment(3, 500)[:mb/4], 4))
	for i, level := range []int{0, 1, 3, 9, 22} {
		cfg := c.config(b)
		cfg.Level, cfg.Workers = level, i%3
		p := mustPush(t, cfg, path)
		if held := p.Stored == 0; held != (i > 0) {
			t.Errorf("level %d: Push = %+v, want it stored the first time only", level, p)
		}
	}
	cfg := c.config(b)
	for _, level := range []int{-1, 23} {
		cfg.Level = level
		if _, err := wal.Push(t.Context(), cfg, path); err == nil {
			t.Errorf("level %d: Push = nil, want an error", level)
		}
	}
}

func TestPushConflict(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	b := mem.New(nil)
	cfg := c.config(b)
	name := c.name(1, 3)
	old := mustPush(t, cfg, c.write(t, name, c.segment(3, 100)))
	path := c.write(t, name, c.segment(3, 101))
	_, err := wal.Push(t.Context(), cfg, path)
	var conflict *wal.ConflictError
	if !errors.As(err, &conflict) {
		t.Fatalf("Push of other bytes = %v, want a ConflictError", err)
	}
	if conflict.Stored != old.Identity || conflict.Local == old.Identity || conflict.Local.Length != mb {
		t.Errorf("conflict = %+v, want the stored %v", conflict, old.Identity)
	}
	for _, part := range []string{"mem://localhost/" + old.Key, path, old.Fingerprint.String(), conflict.Local.Fingerprint.String(), "1048576 bytes"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("conflict says %q, want it to name %s", err, part)
		}
	}
	mustFetch(t, cfg, name, c.segment(3, 100))
}

func TestPushHistoryConflict(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	b := mem.New(nil)
	cfg := c.config(b)
	const production, copied = "1\t0/5000000\tproduction\n", "1\t0/4000000\tof a copy\x1b[2J\n"
	mustPush(t, cfg, c.write(t, "00000002.history", []byte(production)))
	_, err := wal.Push(t.Context(), cfg, c.write(t, "00000002.history", []byte(copied)))
	var conflict *wal.ConflictError
	if !errors.As(err, &conflict) || string(conflict.StoredText) != production || string(conflict.LocalText) != copied {
		t.Fatalf("Push = %+v, want a ConflictError with both texts", err)
	}
	for _, part := range []string{"stored:\n  1\t0/5000000\tproduction\n", "here:\n  1\t0/4000000\tof a copy[2J\n", "archive_mode = off", "recovery_target_timeline"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("conflict says %q, want %q in it", err, part)
		}
	}
}

func TestPushRefusesDamagedObject(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	name := c.name(1, 3)
	path := c.write(t, name, c.segment(3, 100))
	key := mustPush(t, c.config(mem.New(nil)), path).Key
	for what, data := range map[string]string{"empty": "", "short": "x", "long": strings.Repeat("x", 200)} {
		b := bucketWith(t, key, []byte(data))
		_, err := wal.Push(t.Context(), c.config(b), path)
		var damaged *wal.DamagedError
		if !errors.As(err, &damaged) || !strings.Contains(err.Error(), key) {
			t.Errorf("%s object: Push = %v, want a DamagedError that names it", what, err)
		}
	}
}

func TestPushRefusesFiles(t *testing.T) {
	t.Parallel()
	c, other := newCluster(t), clusterOf(t, 14)
	name := c.name(1, 3)
	good := c.segment(3, 100)
	big := bytes.Clone(good)
	fillSegment(big, cluster{system: c.system, segSize: 2 * mb}, 1, 3)
	for what, test := range map[string]struct {
		name string
		data []byte
		want string
	}{
		"empty":                 {name, nil, "is empty"},
		"shorter than a header": {name, good[:39], "39 bytes"},
		"cut":                   {name, good[:mb-1], "1048575 bytes long"},
		"longer":                {name, append(bytes.Clone(good), 0), "1048577 bytes long"},
		"of a larger size":      {name, big, "2097152"},
		"zeros":                 {name, make([]byte, mb), "never written"},
		"text":                  {name, bytes.Repeat([]byte("text"), mb/4), "no WAL page"},
		"another position":      {c.name(1, 4), good, "0/400000"},
		"a later timeline":      {name, timeline(c, 2), "timeline 2"},
		"partial, cut":          {name + ".partial", good[:mb/2], "524288 bytes long"},
		"another cluster's":     {name, other.segment(3, 100), other.system.String()},
		"empty history":         {"00000002.history", nil, "is empty"},
	} {
		b := storagetest.NewFaulty(mem.New(nil), storagetest.Fault{})
		cfg := c.config(b)
		cfg.System = c.system
		_, err := wal.Push(t.Context(), cfg, c.write(t, test.name, test.data))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: Push = %v, want an error with %q", what, err, test.want)
		}
		if b.Calls() != 0 {
			t.Errorf("%s: Push made %d requests, want none", what, b.Calls())
		}
	}
}

func timeline(c cluster, tl postgres.Timeline) []byte {
	b := c.segment(3, 100)
	fillSegment(b, c, tl, 3)
	return b
}

func TestPushMissingFile(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	_, err := wal.Push(t.Context(), c.config(mem.New(nil)), filepath.Join(c.dir, "pg_wal", c.name(1, 3)))
	var path *fs.PathError
	if !errors.Is(err, fs.ErrNotExist) || !errors.As(err, &path) {
		t.Errorf("Push of nothing = %v, want the system's error", err)
	}
	if _, err := wal.Push(t.Context(), c.config(mem.New(nil)), filepath.Join(c.dir, "pg_wal")); err == nil {
		t.Error("Push of a folder = nil, want an error")
	}
}

// Whose a file is that doesn't say it.
func TestPushSystem(t *testing.T) {
	t.Parallel()
	c, other := newCluster(t), clusterOf(t, 14)
	nowhere := t.TempDir()
	writeFile(t, filepath.Join(nowhere, "00000002.history"), []byte("1\t0/1\tx\n"))
	linked := t.TempDir()
	if err := os.Rename(filepath.Join(c.dir, "pg_wal"), filepath.Join(linked, "wal")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(linked, "wal"), filepath.Join(c.dir, "pg_wal")); err != nil {
		t.Fatal(err)
	}
	c.write(t, "00000002.history", []byte("1\t0/1\tx\n"))
	for what, test := range map[string]struct {
		cfg  wal.Config
		path string
		want postgres.SystemID
	}{
		"beside the file":          {wal.Config{WorkDir: other.dir}, filepath.Join(c.dir, "pg_wal/00000002.history"), c.system},
		"in the working directory": {wal.Config{WorkDir: other.dir}, filepath.Join(linked, "wal/00000002.history"), other.system},
		"told":                     {wal.Config{System: 7}, filepath.Join(c.dir, "pg_wal/00000002.history"), 7},
		"unknown":                  {wal.Config{WorkDir: nowhere}, filepath.Join(nowhere, "00000002.history"), 0},
	} {
		test.cfg.Bucket = mem.New(nil)
		p, err := wal.Push(t.Context(), test.cfg, test.path)
		if p.System != test.want || (err == nil) != (test.want != 0) {
			t.Errorf("%s: Push = %v, %v, want the system %s", what, p, err, test.want)
		}
	}
	writeFile(t, filepath.Join(other.dir, "global/pg_control"), make([]byte, 8192))
	cfg := wal.Config{Bucket: mem.New(nil), WorkDir: c.dir}
	if _, err := wal.Push(t.Context(), cfg, other.write(t, "00000002.history", []byte("x"))); err == nil {
		t.Error("Push beside a damaged pg_control = nil, want an error")
	}
}

func TestPushAdmit(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	b := storagetest.NewFaulty(mem.New(nil), storagetest.Fault{})
	cfg := c.config(b)
	refused := errors.New("not accepted")
	var asked postgres.SystemID
	cfg.Admit = func(_ context.Context, system postgres.SystemID) error {
		asked = system
		return refused
	}
	_, err := wal.Push(t.Context(), cfg, c.write(t, c.name(1, 3), c.segment(3, 100)))
	if !errors.Is(err, refused) || asked != c.system || b.Calls() != 0 {
		t.Errorf("Push = %v after %d requests for %s, want the refusal of %s and none", err, b.Calls(), asked, c.system)
	}
}

// After a failure at any request, the next push succeeds and the bytes are right.
func TestPushFaults(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	name, data := c.name(1, 3), c.segment(3, 5000)
	path := c.write(t, name, data)
	for _, mode := range []storagetest.Mode{storagetest.FailBefore, storagetest.LoseAnswer, storagetest.BreakBody, storagetest.FailFrom} {
		for _, held := range []bool{false, true} {
			for n := 1; ; n++ {
				b := mem.New(nil)
				if held {
					mustPush(t, c.config(b), path)
				}
				faulty := storagetest.NewFaulty(b, storagetest.Fault{Call: n, Mode: mode})
				_, err := wal.Push(t.Context(), c.config(faulty), path)
				if err == nil {
					mustFetch(t, c.config(b), name, data)
				}
				if faulty.Calls() < n {
					break
				}
				mustPush(t, c.config(b), path)
				mustFetch(t, c.config(b), name, data)
			}
		}
	}
}

func TestPushCancelled(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := wal.Push(ctx, c.config(mem.New(nil)), c.write(t, c.name(1, 3), c.segment(3, 100)))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Push = %v, want context.Canceled", err)
	}
}

// sparse makes a large segment of which only the head and a bit in the middle
// take room.
func sparse(t testing.TB, c cluster, name string) string {
	t.Helper()
	f, err := os.Create(filepath.Join(c.dir, "pg_wal", name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	head := make([]byte, postgres.WALHeaderSize)
	fillSegment(head, c, 1, 3)
	if _, err := f.Write(head); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("middle"), int64(c.segSize)/2); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(int64(c.segSize)); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// A file too large to be held is streamed, both ways, in little memory.
func TestLargeSegment(t *testing.T) {
	c := newCluster(t)
	c.segSize = 128 * mb
	name := c.name(1, 3)
	path := sparse(t, c, name)
	b := mem.New(nil)
	cfg := c.config(b)
	before := allocated()
	p := mustPush(t, cfg, path)
	if used := allocated() - before; used > 48*mb {
		t.Errorf("Push of %d bytes allocated %d", c.segSize, used)
	}
	if p.Stored != int64(len(readObject(t, b, p.Key))) {
		t.Errorf("Push says that it stored %d bytes", p.Stored)
	}
	if again := mustPush(t, cfg, path); again.Stored != 0 || again.Identity != p.Identity {
		t.Errorf("Push again = %+v, want nothing stored", again)
	}
	dest := filepath.Join(t.TempDir(), "RECOVERYXLOG")
	before = allocated()
	if f, err := wal.Fetch(t.Context(), cfg, name, dest); err != nil || f.Identity != p.Identity {
		t.Fatalf("Fetch = %v, %v", f, err)
	}
	if used := allocated() - before; used > 32*mb {
		t.Errorf("Fetch of %d bytes allocated %d", c.segSize, used)
	}
	if !bytes.Equal(readFile(t, dest), readFile(t, path)) {
		t.Error("Fetch gave other bytes")
	}
}

// A retry of the store begins with the first byte again.
func TestLargeSegmentRetried(t *testing.T) {
	c := newCluster(t)
	c.segSize = 128 * mb
	name := c.name(1, 3)
	path := sparse(t, c, name)
	b := mem.New(nil)
	cfg := c.config(storage.Retry(&impatient{Bucket: b}, storage.Policy{First: 1}))
	p := mustPush(t, cfg, path)
	if p.Stored != int64(len(readObject(t, b, p.Key))) {
		t.Errorf("Push says that it stored %d bytes", p.Stored)
	}
	if _, err := wal.Verify(t.Context(), b, c.system, name); err != nil {
		t.Errorf("Verify = %v", err)
	}
}

// An impatient bucket gives up its first Create in the middle.
type impatient struct {
	storage.Bucket
	creates int
}

func (b *impatient) Create(ctx context.Context, key string, r io.Reader, size int64, meta storage.Meta) error {
	if b.creates++; b.creates == 1 {
		if _, err := io.CopyN(io.Discard, r, 500); err != nil {
			return err
		}
		return storagetest.ErrInjected
	}
	return b.Bucket.Create(ctx, key, r, size, meta)
}

// A large file that changes between the two times it is read is not stored.
func TestLargeSegmentChanges(t *testing.T) {
	c := newCluster(t)
	c.segSize = 128 * mb
	for what, change := range map[string]func(*os.File) error{
		"other bytes": func(f *os.File) error { _, err := f.WriteAt([]byte("M"), int64(c.segSize)/2); return err },
		"shorter":     func(f *os.File) error { return f.Truncate(int64(c.segSize) - 1) },
		"longer":      func(f *os.File) error { return f.Truncate(int64(c.segSize) + 1) },
	} {
		path := sparse(t, c, c.name(1, 3))
		b := mem.New(nil)
		changing := storagetest.NewFaulty(b, storagetest.Fault{Before: func(_ int, op, _ string) {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err == nil {
				err = errors.Join(change(f), f.Close())
			}
			if err != nil {
				t.Error(err)
			}
		}})
		if _, err := wal.Push(t.Context(), c.config(changing), path); err == nil || !strings.Contains(err.Error(), "changed") {
			t.Errorf("%s: Push = %v, want that the file changed", what, err)
		}
		if held, err := wal.Contains(t.Context(), b, c.system, c.name(1, 3)); held || err != nil {
			t.Errorf("%s: Contains = %v, %v, want nothing stored", what, held, err)
		}
	}
}

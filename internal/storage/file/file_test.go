package file_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"wal-e/internal/storage"
	"wal-e/internal/storage/file"
	"wal-e/internal/storage/storagetest"
)

func open(t *testing.T, dir string) *file.Bucket {
	t.Helper()
	b, err := file.Open(dir)
	if err != nil {
		t.Fatalf("Open(%q) = %v, want nil", dir, err)
	}
	return b
}

func create(t *testing.T, b storage.Bucket, key, data string) {
	t.Helper()
	if err := storage.CreateBytes(t.Context(), b, key, []byte(data), nil); err != nil {
		t.Fatalf("Create(%q) = %v, want nil", key, err)
	}
}

func list(t *testing.T, b storage.Bucket, prefix string) []string {
	t.Helper()
	var keys []string
	for o, err := range b.List(t.Context(), prefix, "") {
		if err != nil {
			t.Fatalf("List(%q) = %v, want nil", prefix, err)
		}
		keys = append(keys, o.Key)
	}
	return keys
}

// tree returns every path below dir, if there is one, directories with a slash
// at their end.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var paths []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if path == dir && (err == nil || errors.Is(err, os.ErrNotExist)) {
			return nil
		}
		if err != nil {
			return err
		}
		path, _ = filepath.Rel(dir, path)
		if d.IsDir() {
			path += "/"
		}
		paths = append(paths, path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func checkTree(t *testing.T, dir string, want ...string) {
	t.Helper()
	if got := tree(t, dir); !slices.Equal(got, want) {
		t.Errorf("files = %q, want %q", got, want)
	}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	storagetest.Run(t, func(t *testing.T) storage.Bucket { return open(t, t.TempDir()) })
}

func TestOpen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "relative", "./x", "/a\x00b", filepath.Join(dir, "f")} {
		if _, err := file.Open(bad); !errors.Is(err, storage.ErrInvalid) {
			t.Errorf("Open(%q) = %v, want %v", bad, err, storage.ErrInvalid)
		}
	}
	for dir, want := range map[string]string{
		"/srv/archive":     "file://localhost/srv/archive",
		"/srv//x/../b 1%/": "file://localhost/srv/b 1%",
		"/":                "file://localhost",
	} {
		if got := open(t, dir).URL(); got != want {
			t.Errorf("Open(%q).URL() = %q, want %q", dir, got, want)
		}
	}
}

func TestMissingDirectory(t *testing.T) {
	t.Parallel()
	root := filepath.Join(t.TempDir(), "not/yet")
	b := open(t, root)
	if keys := list(t, b, ""); len(keys) > 0 {
		t.Errorf("List() = %q, want nothing", keys)
	}
	if _, err := b.Get(t.Context(), "a", 0, -1); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Get = %v, want %v", err, storage.ErrNotExist)
	}
	if err := b.Delete(t.Context(), "a"); err != nil {
		t.Errorf("Delete = %v, want nil", err)
	}
	if _, err := os.Stat(root); err == nil {
		t.Error("reading made the directory")
	}
	create(t, b, "a", "x")
	checkTree(t, root, "a")
	if err := b.Delete(t.Context(), "a"); err != nil {
		t.Errorf("Delete = %v, want nil", err)
	}
	checkTree(t, root) // and is still there
}

// TestRaceAcrossBuckets has as many buckets as there would be processes: they
// share nothing but the directory.
func TestRaceAcrossBuckets(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "new")
	const racers = 32
	errs := make([]error, racers)
	var wg sync.WaitGroup
	for i := range racers {
		b := open(t, dir)
		wg.Go(func() {
			errs[i] = storage.CreateBytes(t.Context(), b, "x/y/z", []byte{byte(i)}, nil)
		})
	}
	wg.Wait()
	data, err := os.ReadFile(filepath.Join(dir, "x/y/z"))
	if err != nil || len(data) != 1 {
		t.Fatalf("content = %v, %v, want one byte", data, err)
	}
	for i, err := range errs {
		if won := byte(i) == data[0]; won && err != nil || !won && !errors.Is(err, storage.ErrExist) {
			t.Errorf("Create of racer %d, where %d won, = %v", i, data[0], err)
		}
	}
	checkTree(t, dir, "x/", "x/y/", "x/y/z")
}

func TestModes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	create(t, open(t, dir), "d/f", "x")
	for path, most := range map[string]os.FileMode{"d": 0o750, "d/f": 0o640} {
		info, err := os.Stat(filepath.Join(dir, path))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got&^most != 0 || got&0o600 != 0o600 {
			t.Errorf("mode of %s = %o, want %o or less by the umask", path, got, most)
		}
	}
}

func TestFoldersAndObjects(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	dir := t.TempDir()
	b := open(t, dir)
	create(t, b, "a/b", "x")
	for _, key := range []string{"a", "a/b/c", "a/b/c/d"} {
		err := storage.CreateBytes(ctx, b, key, nil, nil)
		if !errors.Is(err, storage.ErrInvalid) || errors.Is(err, storage.ErrExist) {
			t.Errorf("Create(%q) beside a/b = %v, want %v", key, err, storage.ErrInvalid)
		}
	}
	for _, key := range []string{"a", "a/b/c"} {
		if err := b.Delete(ctx, key); err != nil {
			t.Errorf("Delete(%q) = %v, want nil", key, err)
		}
	}
	checkTree(t, dir, "a/", "a/b")
	for _, key := range []string{".wal-e-tmp-x", "a/.wal-e-tmp-x", ".wal-e-tmp-x/b", "lost+found/x"} {
		if err := storage.CreateBytes(ctx, b, key, nil, nil); !errors.Is(err, storage.ErrInvalid) {
			t.Errorf("Create(%q) = %v, want %v", key, err, storage.ErrInvalid)
		}
	}
}

func TestOtherFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := open(t, dir)
	create(t, b, "d/object", "x")
	if err := syscall.Mkfifo(filepath.Join(dir, "d/pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "lost+found"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "lost+found/#1"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, want := list(t, b, ""), []string{"d/object"}; !slices.Equal(got, want) {
		t.Errorf("List() = %q, want %q", got, want)
	}
	if got := list(t, b, "lost+found/"); len(got) > 0 {
		t.Errorf("List(lost+found/) = %q, want nothing", got)
	}
	if _, err := b.Get(t.Context(), "d/pipe", 0, -1); !errors.Is(err, storage.ErrInvalid) {
		t.Errorf("Get of a pipe = %v, want %v", err, storage.ErrInvalid)
	}
}

func TestSymbolicLinks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	link := func(target, name string) {
		t.Helper()
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"real", "other"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	link("real", "root")
	b := open(t, filepath.Join(dir, "root"))
	link("../other", "real/moved")
	link("nowhere", "real/dangling")
	create(t, b, "moved/x", "x")
	create(t, b, "m", "x")
	if got, want := list(t, b, ""), []string{"m", "moved/x"}; !slices.Equal(got, want) {
		t.Errorf("List() = %q, want %q", got, want)
	}
	if err := b.Delete(t.Context(), "moved/x"); err != nil {
		t.Errorf("Delete = %v, want nil", err)
	}
	checkTree(t, dir, "other/", "real/", "real/dangling", "real/m", "real/moved", "root")

	link("..", "other/loop")
	link("../../real", "other/up")
	var last error
	for _, last = range b.List(t.Context(), "", "") {
		continue
	}
	if !errors.Is(last, storage.ErrInvalid) {
		t.Errorf("List() with a loop = %v, want %v", last, storage.ErrInvalid)
	}
}

func TestLitter(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	litter := func(name string, age time.Duration) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, now, now.Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	b := open(t, dir)
	create(t, b, "a/1", "x")
	create(t, b, "b/1", "x")
	create(t, b, "top", "x")
	litter("a/.wal-e-tmp-OLD", 25*time.Hour)
	litter("b/.wal-e-tmp-OLD", 25*time.Hour)
	litter("b/.wal-e-tmp-YOUNG", 23*time.Hour)
	litter(".wal-e-tmp-OLD", 25*time.Hour)
	if got, want := list(t, b, ""), []string{"a/1", "b/1", "top"}; !slices.Equal(got, want) {
		t.Errorf("List() = %q, want %q", got, want)
	}
	b = open(t, dir) // a later process
	b.SetNow(func() time.Time { return now })
	if err := b.Delete(t.Context(), "a/1", "b/1"); err != nil {
		t.Fatalf("Delete = %v, want nil", err)
	}
	checkTree(t, dir, ".wal-e-tmp-OLD", "b/", "b/.wal-e-tmp-YOUNG", "top")
	if err := b.Delete(t.Context(), "none"); err != nil {
		t.Fatalf("Delete = %v, want nil", err)
	}
	checkTree(t, dir, "b/", "b/.wal-e-tmp-YOUNG", "top")
}

func TestShrunkFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := open(t, dir)
	create(t, b, "a", strings.Repeat("x", 1000))
	body, err := b.Get(t.Context(), "a", 0, -1)
	if err != nil {
		t.Fatalf("Get = %v, want nil", err)
	}
	defer body.Close()
	if err := os.Truncate(filepath.Join(dir, "a"), 10); err != nil {
		t.Fatal(err)
	}
	if data, err := io.ReadAll(body); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("read of a file cut short = %d bytes, %v, want %v", len(data), err, io.ErrUnexpectedEOF)
	}
}

// TestReaderErrors has readers whose errors look like those of a bucket.
func TestReaderErrors(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := open(t, dir)
	for _, rerr := range []error{os.ErrPermission, os.ErrExist, os.ErrNotExist, syscall.ENOTDIR} {
		err := b.Create(t.Context(), "a/x", iotest.ErrReader(rerr), -1, nil)
		if !errors.Is(err, rerr) {
			t.Errorf("Create = %v, want %v", err, rerr)
		}
		for _, ours := range []error{storage.ErrPermission, storage.ErrExist, storage.ErrNotExist, storage.ErrInvalid} {
			if errors.Is(err, ours) {
				t.Errorf("Create = %v, want it not to be %v", err, ours)
			}
		}
		checkTree(t, dir)
	}
}

package wal_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
	"wal-e/internal/storage/storagetest"
	"wal-e/wal"
)

// pushed returns a cluster, and a bucket that holds one of its segments.
func pushed(t testing.TB) (c cluster, b storage.Bucket, name string, data []byte) {
	t.Helper()
	c = newCluster(t)
	b = mem.New(nil)
	name, data = c.name(1, 3), c.segment(3, 5000)
	mustPush(t, c.config(b), c.write(t, name, data))
	return c, b, name, data
}

func TestFetchNotFound(t *testing.T) {
	t.Parallel()
	c, b, _, _ := pushed(t)
	for what, bucket := range map[string]storage.Bucket{"other files": b, "nothing at all": mem.New(nil)} {
		for _, workDir := range []string{c.dir, t.TempDir()} {
			dest := filepath.Join(t.TempDir(), "RECOVERYHISTORY")
			_, err := wal.Fetch(t.Context(), wal.Config{Bucket: bucket, WorkDir: workDir}, "00000002.history", dest)
			if !errors.Is(err, wal.ErrNotFound) || !strings.Contains(err.Error(), "00000002.history not found") {
				t.Errorf("%s: Fetch = %v, want ErrNotFound", what, err)
			}
			assertNames(t, filepath.Dir(dest))
		}
	}
	if _, err := wal.Verify(t.Context(), b, c.system, "x"); !errors.Is(err, wal.ErrNotFound) {
		t.Errorf("Verify of nothing = %v, want ErrNotFound", err)
	}
}

// Only a proven absence is ErrNotFound.
func TestFetchOtherFailures(t *testing.T) {
	t.Parallel()
	c, b, name, data := pushed(t)
	for n := 1; ; n++ {
		for _, mode := range []storagetest.Mode{storagetest.FailBefore, storagetest.LoseAnswer, storagetest.BreakBody} {
			for _, cause := range []error{storagetest.ErrInjected, storage.ErrPermission} {
				faulty := storagetest.NewFaulty(b, storagetest.Fault{Call: n, Mode: mode, Err: cause})
				dest := filepath.Join(t.TempDir(), "RECOVERYXLOG")
				writeFile(t, dest, []byte("before"))
				cfg := wal.Config{Bucket: faulty, WorkDir: t.TempDir()} // lists for want of pg_control
				_, err := wal.Fetch(t.Context(), cfg, name, dest)
				want := "before"
				if err == nil {
					want = string(data)
				} else if errors.Is(err, wal.ErrNotFound) || !errors.Is(err, cause) {
					t.Errorf("call %d, %v: Fetch = %v, want an error with the cause", n, mode, err)
				}
				if string(readFile(t, dest)) != want {
					t.Errorf("call %d, %v: Fetch = %v and left other bytes at its destination", n, mode, err)
				}
				assertNames(t, filepath.Dir(dest), "RECOVERYXLOG")
				if faulty.Calls() < n {
					return
				}
				mustFetch(t, c.config(b), name, data)
			}
		}
	}
}

// An object that vanishes while it is read was there: that is no end of WAL.
func TestFetchVanishing(t *testing.T) {
	t.Parallel()
	c, b, name, _ := pushed(t)
	faulty := storagetest.NewFaulty(b, storagetest.Fault{Call: 1, Mode: storagetest.BreakBody, Err: storage.ErrNotExist})
	_, err := wal.Fetch(t.Context(), c.config(faulty), name, filepath.Join(t.TempDir(), "x"))
	if err == nil || errors.Is(err, wal.ErrNotFound) || errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Fetch = %v, want an error that is not about absence", err)
	}
}

func TestFetchIsOneRequest(t *testing.T) {
	t.Parallel()
	c, b, name, data := pushed(t)
	counted := storagetest.NewFaulty(b, storagetest.Fault{})
	mustFetch(t, c.config(counted), name, data)
	if counted.Calls() != 1 {
		t.Errorf("Fetch took %d requests, want 1", counted.Calls())
	}
}

func TestFetchSystem(t *testing.T) {
	t.Parallel()
	c, b, name, data := pushed(t)
	other := clusterOf(t, 14)
	nowhere := wal.Config{Bucket: b, WorkDir: t.TempDir()}
	mustFetch(t, nowhere, name, data)

	otherData := other.segment(3, 70)
	mustPush(t, other.config(b), other.write(t, name, otherData))
	mustFetch(t, c.config(b), name, data)
	mustFetch(t, other.config(b), name, otherData)
	told := nowhere
	told.System = other.system
	mustFetch(t, told, name, otherData)
	_, err := wal.Fetch(t.Context(), nowhere, name, filepath.Join(t.TempDir(), "x"))
	if err == nil || errors.Is(err, wal.ErrNotFound) ||
		!strings.Contains(err.Error(), c.system.String()) || !strings.Contains(err.Error(), other.system.String()) {
		t.Errorf("Fetch of two systems = %v, want an error that lists both", err)
	}

	writeFile(t, filepath.Join(c.dir, "global/pg_control"), []byte("short"))
	if _, err := wal.Fetch(t.Context(), c.config(b), name, filepath.Join(t.TempDir(), "x")); err == nil || errors.Is(err, wal.ErrNotFound) {
		t.Errorf("Fetch beside a damaged pg_control = %v, want another error", err)
	}
}

// An object under a key that is not its own is never delivered.
func TestFetchMisplaced(t *testing.T) {
	t.Parallel()
	c, b, name, _ := pushed(t)
	object := readObject(t, b, wal.Key(c.system, name))
	damaged := bytes.Clone(object)
	damaged[len(damaged)-1] ^= 1
	for what, test := range map[string]struct {
		key    string
		object []byte
	}{
		"another position": {wal.Key(c.system, c.name(1, 4)), object},
		"another system":   {wal.Key(7, name), object},
		"damaged":          {wal.Key(c.system, name), damaged},
		"cut":              {wal.Key(c.system, name), object[:len(object)-1]},
		"empty":            {wal.Key(c.system, name), nil},
	} {
		dest := filepath.Join(t.TempDir(), "RECOVERYXLOG")
		cfg := wal.Config{Bucket: bucketWith(t, test.key, test.object), WorkDir: t.TempDir()}
		_, err := wal.Fetch(t.Context(), cfg, filepath.Base(test.key), dest)
		var bad *wal.DamagedError
		if !errors.As(err, &bad) || !strings.Contains(err.Error(), test.key) {
			t.Errorf("%s: Fetch = %v, want a DamagedError that names the object", what, err)
		}
		assertNames(t, filepath.Dir(dest))
	}
}

func TestFetchDestination(t *testing.T) {
	t.Parallel()
	c, b, name, data := pushed(t)
	dir := t.TempDir()
	if err := os.Symlink("elsewhere", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, dest := range []string{dir, filepath.Join(dir, "missing", "x"), filepath.Join(dir, "link"), "/dev/null"} {
		if _, err := wal.Fetch(t.Context(), c.config(b), name, dest); err == nil || errors.Is(err, wal.ErrNotFound) {
			t.Errorf("Fetch to %s = %v, want an error", dest, err)
		}
	}
	assertNames(t, dir, "link")
	for _, bad := range []string{"", ".", "..", "../x", "a/b", "a\nb"} {
		if _, err := wal.Fetch(t.Context(), c.config(b), bad, filepath.Join(dir, "x")); err == nil || errors.Is(err, wal.ErrNotFound) {
			t.Errorf("Fetch(%q) = %v, want an error", bad, err)
		}
	}
	for mode, want := range map[os.FileMode]os.FileMode{0o700: 0o600, 0o750: 0o640} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		dest := filepath.Join(dir, fmt.Sprintf("%o", mode))
		if _, err := wal.Fetch(t.Context(), c.config(b), name, dest); err != nil {
			t.Fatalf("Fetch = %v", err)
		}
		info, err := os.Stat(dest)
		if err != nil || info.Mode().Perm() != want || info.Size() != int64(len(data)) {
			t.Errorf("in a folder of mode %o: %v, %v, want mode %o", mode, info, err, want)
		}
	}
}

// Whatever step fails, a full disk included, the destination is as before, but
// for the last one: then it is complete.
func TestFetchFileSystemFaults(t *testing.T) {
	t.Parallel()
	c, b, name, data := pushed(t)
	for _, step := range []string{"create", "write", "sync", "close", "rename", "syncdir"} {
		dest := filepath.Join(t.TempDir(), "RECOVERYXLOG")
		writeFile(t, dest, []byte("before"))
		cfg := wal.WithHook(c.config(b), func(op, path string) error {
			if op == step {
				return &os.PathError{Op: op, Path: path, Err: syscall.ENOSPC}
			}
			return nil
		})
		_, err := wal.Fetch(t.Context(), cfg, name, dest)
		var damaged *wal.DamagedError
		if !errors.Is(err, syscall.ENOSPC) || errors.Is(err, wal.ErrNotFound) || errors.As(err, &damaged) || !strings.Contains(err.Error(), dest) {
			t.Errorf("%s: Fetch = %v, want ENOSPC for %s", step, err, dest)
		}
		want := []byte("before")
		if step == "syncdir" {
			want = data
		}
		if !bytes.Equal(readFile(t, dest), want) {
			t.Errorf("%s: Fetch left other bytes at its destination", step)
		}
		assertNames(t, filepath.Dir(dest), "RECOVERYXLOG")
	}
}

// Until the rename nothing is under the destination's name, and what is renamed
// was synced: so a kill at any moment leaves it complete or absent.
func TestFetchOrder(t *testing.T) {
	t.Parallel()
	c, b, name, data := pushed(t)
	dest := filepath.Join(t.TempDir(), "RECOVERYXLOG")
	var steps []string
	cfg := wal.WithHook(c.config(b), func(op, path string) error {
		steps = append(steps, op)
		if _, err := os.Lstat(dest); (err == nil) != (op == "syncdir") {
			t.Errorf("before %s: destination: %v", op, err)
		}
		return nil
	})
	if _, err := wal.Fetch(t.Context(), cfg, name, dest); err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(slices.Compact(steps)), "[create write sync close rename syncdir]"; got != want {
		t.Errorf("steps were %s, want %s", got, want)
	}
	if !bytes.Equal(readFile(t, dest), data) {
		t.Error("Fetch gave other bytes")
	}
}

func TestFetchRemovesStaleFiles(t *testing.T) {
	t.Parallel()
	c, b, name, _ := pushed(t)
	dir := t.TempDir()
	held, err := os.Create(filepath.Join(dir, wal.TempPrefix+"held"))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := syscall.Flock(int(held.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	for file, age := range map[string]time.Duration{
		wal.TempPrefix + "held":    time.Hour,
		wal.TempPrefix + "killed":  time.Hour,
		wal.TempPrefix + "new":     0,
		wal.TempPrefix + "old":     25 * time.Hour,
		".wal-e-other":             25 * time.Hour,
		"000000010000000000000001": 25 * time.Hour,
	} {
		path := filepath.Join(dir, file)
		if file != wal.TempPrefix+"held" {
			writeFile(t, path, []byte("half"))
		}
		then := time.Now().Add(-age)
		if err := os.Chtimes(path, then, then); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, wal.TempPrefix+"folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := wal.Fetch(t.Context(), c.config(b), name, filepath.Join(dir, "RECOVERYXLOG")); err != nil {
		t.Fatal(err)
	}
	assertNames(t, dir, wal.TempPrefix+"folder", wal.TempPrefix+"held", wal.TempPrefix+"new", ".wal-e-other",
		"000000010000000000000001", "RECOVERYXLOG")
}

func TestFetchCancelled(t *testing.T) {
	t.Parallel()
	c, b, name, _ := pushed(t)
	for _, after := range []int64{0, 10, wal.HeaderSize + 10, 1 << 40} {
		ctx, cancel := context.WithCancel(t.Context())
		dest := filepath.Join(t.TempDir(), "RECOVERYXLOG")
		_, err := wal.Fetch(ctx, c.config(cancelling{b, cancel, after}), name, dest)
		cancel()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled after %d bytes: Fetch = %v, want context.Canceled", after, err)
		}
		assertNames(t, filepath.Dir(dest))
	}
}

// A cancelling bucket cancels once so many bytes were read, at the latest when
// the body is closed.
type cancelling struct {
	storage.Bucket
	cancel context.CancelFunc
	after  int64
}

func (b cancelling) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	body, err := b.Bucket.Get(ctx, key, offset, length)
	if err != nil {
		return nil, err
	}
	return &cancellingBody{ReadCloser: body, b: b, left: b.after}, nil
}

type cancellingBody struct {
	io.ReadCloser
	b    cancelling
	left int64
}

func (b *cancellingBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		b.b.cancel()
	}
	if int64(len(p)) > b.left && b.left > 0 {
		p = p[:b.left]
	}
	n, err := b.ReadCloser.Read(p)
	b.left = max(b.left-int64(n), 0)
	return n, err
}

func (b *cancellingBody) Close() error {
	b.b.cancel()
	return b.ReadCloser.Close()
}

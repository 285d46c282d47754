package drill_test

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"

	"wal-e/internal/drill"
)

// What is left of drills that were killed goes; folders of those that live, that are
// kept, or that aren't known to be a dead drill's stay.
func TestRemoveStale(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	make := func() *drill.Folder {
		t.Helper()
		f, err := drill.MakeFolder(parent)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(f.Path, "data", "PG_VERSION"))
		return f
	}
	alive, kept := make(), make()
	if err := kept.Keep(); err != nil {
		t.Fatal(err)
	}
	// As after kill -9: a lock file that nobody holds, and a folder without one yet.
	dead, empty, old := filepath.Join(parent, "wal-e-drill-1"), filepath.Join(parent, "wal-e-drill-2"), filepath.Join(parent, "wal-e-drill-3")
	write(t, filepath.Join(dead, "lock"))
	write(t, filepath.Join(dead, "data", "base", "1"))
	if err := os.Mkdir(empty, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(old, "data", "PG_VERSION"))
	write(t, filepath.Join(parent, "elsewhere", "lock"))
	if err := os.Symlink("elsewhere", filepath.Join(parent, "wal-e-drill-4")); err != nil {
		t.Fatal(err)
	}
	others := []string{filepath.Join(parent, "elsewhere", "lock"), filepath.Join(alive.Path, "data"), filepath.Join(kept.Path, "data"), filepath.Join(old, "data")}
	for round := range 2 {
		removed, unknown, err := drill.RemoveStale(parent)
		want := []string{dead, empty}
		if round > 0 {
			want = nil
		}
		if err != nil || !slices.Equal(removed, want) || !slices.Equal(unknown, []string{old}) {
			t.Errorf("RemoveStale = %q, %q, %v: want %q and %q", removed, unknown, err, want, old)
		}
		for _, path := range others {
			if _, err := os.Stat(path); err != nil {
				t.Error(err)
			}
		}
	}
	if err := alive.Remove(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(alive.Path); !os.IsNotExist(err) {
		t.Errorf("the folder is still there: %v", err)
	}
}

// Drills that begin while others clean up lose nothing.
func TestFoldersAtOnce(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 25 {
				f, err := drill.MakeFolder(parent)
				if err != nil {
					t.Error(err)
					return
				}
				file := filepath.Join(f.Path, "file")
				if err := os.WriteFile(file, nil, 0o600); err != nil {
					t.Error(err)
				}
				if _, unknown, err := drill.RemoveStale(parent); err != nil || len(unknown) > 0 {
					t.Errorf("RemoveStale: unknown %q, %v", unknown, err)
				}
				if _, err := os.Stat(file); err != nil {
					t.Errorf("a folder in use was cleaned: %v", err)
				}
				if err := f.Remove(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if left, err := os.ReadDir(parent); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// A server that is just ending may write while its folder is removed.
func TestRemoveWhileWritten(t *testing.T) {
	t.Parallel()
	f, err := drill.MakeFolder(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(f.Path, "data", "pg_stat")
	write(t, filepath.Join(dir, "0"))
	begun, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := range 20000 {
			if i == 100 {
				close(begun)
			}
			// It fails once the folder is gone, as it may.
			_ = os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), nil, 0o600)
		}
	}()
	<-begun
	if err := f.Remove(); err != nil {
		t.Error(err)
	}
	<-done
}

func write(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

package file_test

import (
	"os"
	"path/filepath"
	"testing"

	"wal-e/internal/storage"
	"wal-e/internal/storage/file"
)

// What is on a network file system is weak, also before the first push has made
// the directory.
func TestWeakness(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b, err := file.Open(filepath.Join(dir, "not", "yet"))
	if err != nil {
		t.Fatal(err)
	}
	b.SetKind(func(string) (string, error) { return "", nil })
	if got := storage.Weakness(storage.Retry(b, storage.Policy{})); got != "" {
		t.Errorf("Weakness on a local file system = %q, want none", got)
	}
	b.SetKind(func(path string) (string, error) {
		if path != dir {
			return "", os.ErrNotExist
		}
		return "NFS", nil
	})
	if got, want := storage.Weakness(storage.Retry(b, storage.Policy{})),
		"it is on NFS, where listings may be up to a minute behind what other hosts have written"; got != want {
		t.Errorf("Weakness = %q, want %q", got, want)
	}
}

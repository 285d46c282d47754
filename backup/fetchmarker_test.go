package backup

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A folder that another user may have planted is not written into.
func TestMarkerFolderOfOthers(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name  string
		plant func(t *testing.T, folder string)
		ok    bool
	}{
		{"none", func(*testing.T, string) {}, true},
		{"ours", func(t *testing.T, folder string) { makeFolder(t, folder, 0o700) }, true},
		{"link", func(t *testing.T, folder string) {
			if err := os.Symlink(t.TempDir(), folder); err != nil {
				t.Fatal(err)
			}
		}, false},
		{"writable by others", func(t *testing.T, folder string) { makeFolder(t, folder, 0o777) }, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			tc.plant(t, filepath.Join(dir, markerDir))
			m, err := readMarker(dir)
			if m != nil || (err == nil) != tc.ok {
				t.Errorf("readMarker = %v, %v, want ok %v", m, err, tc.ok)
			}
			if err != nil && !strings.Contains(err.Error(), "isn't a folder of this user's") {
				t.Errorf("error = %v", err)
			}
		})
	}
}

func makeFolder(t *testing.T, dir string, mode os.FileMode) {
	t.Helper()
	if err := os.Mkdir(dir, mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, mode); err != nil {
		t.Fatal(err)
	}
}

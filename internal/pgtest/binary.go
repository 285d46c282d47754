package pgtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// Binary returns the path of the program wal-e, built from this tree once per
// test process, where the user that servers run as can start it. When
// WALE_TEST_BINARY names a program, it is that one.
func Binary(t testing.TB) string {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

var binary = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("WALE_TEST_BINARY"); path != "" {
		if !filepath.IsAbs(path) {
			return "", fmt.Errorf("WALE_TEST_BINARY: %q is not an absolute path", path)
		}
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("WALE_TEST_BINARY: %w", err)
		}
		return path, nil
	}
	dir, err := scratch()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "wal-e")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, "wal-e/cmd/wal-e")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build wal-e: %w\n%s", err, out)
	}
	return path, os.Chmod(path, 0o755)
})

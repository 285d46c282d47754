// Package enginetest starts real storage servers for tests, one file per
// server, each on a free port of 127.0.0.1 and with its files in a folder of
// the test. A server ends with its test, and with the test process however that
// ends.
//
// Programs come from .ci/install-engines; where one is missing the test fails
// with the command that installs it, it never skips.
package enginetest

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

const rootEngines = "/var/cache/wal-e-test-engines"

// enginesDir is where .ci/install-engines puts servers; it has the same rule.
func enginesDir() string {
	if dir := os.Getenv("WALE_TEST_ENGINES"); dir != "" {
		return dir
	}
	if os.Getuid() == 0 {
		return rootEngines
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return rootEngines
	}
	return filepath.Join(cache, filepath.Base(rootEngines))
}

// program returns the path of a server's program, which is at path below the
// folder of engines or, when path has no slash, anywhere in PATH; it fails the
// test with the command that installs the engine.
func program(t testing.TB, engine, path string) string {
	t.Helper()
	if filepath.Base(path) == path {
		found, err := exec.LookPath(path)
		if err != nil {
			t.Fatalf("%v; run: .ci/install-engines %s", err, engine)
		}
		return found
	}
	found := filepath.Join(enginesDir(), path)
	if _, err := os.Stat(found); err != nil {
		t.Fatalf("%s is not installed (%v); run: .ci/install-engines %s", engine, err, engine)
	}
	return found
}

// freePort returns a TCP port of 127.0.0.1 that nobody listened on a moment ago.
func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

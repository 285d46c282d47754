// Package pgtest runs real PostgreSQL servers for tests: it makes clusters of
// each supported major release, starts them on restored directories, asks them
// what they hold and stops them again.
//
// Servers come from .ci/install-engines; where they are missing a test fails
// with the command that installs them, it never skips. PostgreSQL refuses to
// run as root, so under root everything here (servers, their files, commands
// made by [Cluster.Command] or changed by [RunAs]) belongs to the user postgres,
// and otherwise to the current user. Servers listen on 127.0.0.1 and on a socket
// in their own folder, and they end with the test process however that ends.
package pgtest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

const (
	install  = ".ci/install-engines postgres"
	toolsDir = "/usr/lib/postgresql/15/bin" // Debian's client programs

	rootEngines = "/var/cache/wal-e-test-engines"
)

// Versions returns the PostgreSQL major releases that tests run against.
func Versions() []int { return []int{13, 15, 18} }

// A Server is an installed PostgreSQL release.
type Server struct {
	Major int
	Bin   string // folder of initdb, pg_ctl and postgres
}

// Require finds the server of a major release, or fails the test with the
// command that installs it.
func Require(t testing.TB, major int) Server {
	t.Helper()
	s := Server{Major: major, Bin: filepath.Join(enginesDir(), "postgresql", fmt.Sprint(major), "bin")}
	if _, err := os.Stat(filepath.Join(s.Bin, "postgres")); err != nil {
		command := install
		if !slices.Contains(Versions(), major) {
			command = fmt.Sprintf("WALE_TEST_PG=%d %s", major, install)
		}
		t.Fatalf("PostgreSQL %d is not installed (%v); run: %s", major, err, command)
	}
	return s
}

// Tool returns the path of one of Debian's PostgreSQL 15 programs, or fails the
// test with the command that installs it. psql, pgbench and pg_amcheck work with
// all Versions, pg_basebackup with 15 and older; pg_waldump reads the WAL of 15
// only, pg_verifybackup the manifests of 13 to 16 (-n where the WAL isn't 15's).
func Tool(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(toolsDir, name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%s is not installed (%v); run: %s", name, err, install)
	}
	return path
}

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

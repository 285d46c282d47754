package main

import (
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"wal-e/internal/postgres"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"wal-e": main})
}

// Each file in testdata is a script about one subject. Scripts have their own
// environment: no prefix, records on stderr alone, state in $STATE, an archive
// at $ARCHIVE, and a data directory of PostgreSQL 15 in data, whose system
// identifier is $SYSTEM.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup:               setupScript,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":   exits,
			"segment": writeSegment,
		},
	})
}

func setupScript(e *testscript.Env) error {
	e.Setenv("WALE_LOG_DESTINATION", "stderr")
	e.Setenv("AWS_EC2_METADATA_DISABLED", "true") // it isn't on loopback
	e.Setenv("STATE", filepath.Join(e.WorkDir, "state"))
	e.Setenv("WALE_STATE_DIR", filepath.Join(e.WorkDir, "state"))
	e.Setenv("ARCHIVE", filepath.Join(e.WorkDir, "archive"))
	e.Setenv("ROOT", "file://localhost"+e.WorkDir)
	system, err := writeControl(filepath.Join(e.WorkDir, "data"))
	e.Setenv("SYSTEM", system.String())
	return err
}

// writeControl makes a data directory as far as WAL commands see it.
func writeControl(dir string) (postgres.SystemID, error) {
	b, err := os.ReadFile("../../internal/postgres/testdata/pg_control.15")
	if err != nil {
		return 0, err
	}
	control, err := postgres.ParseControlFile(b)
	if err != nil {
		return 0, err
	}
	for _, sub := range []string{"global", "pg_wal"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return 0, err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "PG_VERSION"), []byte("15\n"), 0o600); err != nil {
		return 0, err
	}
	return control.SystemID, os.WriteFile(filepath.Join(dir, "global/pg_control"), b, 0o600)
}

// exits runs a program and checks its exit status: exits 126 wal-e wal-fetch.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits STATUS PROGRAM ARGUMENT...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	err = ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

// writeSegment writes a WAL segment of 1 MB: segment PATH SYSTEM FILL.
func writeSegment(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: segment PATH SYSTEM FILL")
	}
	const size = 1 << 20
	path := ts.MkAbs(args[0])
	system, err := postgres.ParseSystemID(args[1])
	ts.Check(err)
	seg, err := postgres.ParseSegment(filepath.Base(path), size)
	ts.Check(err)
	b := make([]byte, size)
	binary.LittleEndian.PutUint16(b, 0xD110)
	binary.LittleEndian.PutUint16(b[2:], 2)
	binary.LittleEndian.PutUint32(b[4:], uint32(seg.Timeline))
	binary.LittleEndian.PutUint64(b[8:], seg.No*size)
	binary.LittleEndian.PutUint64(b[24:], uint64(system))
	binary.LittleEndian.PutUint32(b[32:], size)
	binary.LittleEndian.PutUint32(b[36:], 8192)
	copy(b[postgres.WALHeaderSize:], args[2])
	ts.Check(os.WriteFile(path, b, 0o600))
}

package wal_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wal-e/internal/storage/file"
	"wal-e/wal"
)

// killAt names the variable that makes the test binary a fetch which kills
// itself: the step, and the arguments of the fetch.
const killAt = "WALE_TEST_KILL_AT"

func TestMain(m *testing.M) {
	if args := strings.Split(os.Getenv(killAt), ":"); len(args) == 5 {
		fetchAndDie(args[0], args[1], args[2], args[3], args[4])
	}
	os.Exit(m.Run())
}

func fetchAndDie(step, store, workDir, name, dest string) {
	b, err := file.Open(store)
	if err != nil {
		panic(err)
	}
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		panic(err)
	}
	cfg := wal.WithHook(wal.Config{Bucket: b, WorkDir: workDir}, func(op, _ string) error {
		if op == step {
			if err := self.Kill(); err != nil {
				panic(err)
			}
			select {}
		}
		return nil
	})
	_, err = wal.Fetch(context.Background(), cfg, name, dest)
	panic(fmt.Sprintf("still alive after %s: %v", step, err))
}

// A fetch killed at any step leaves its destination absent, or complete, and the
// next one succeeds and removes what was left.
func TestFetchKilled(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	store := t.TempDir()
	b, err := file.Open(store)
	if err != nil {
		t.Fatal(err)
	}
	name, data := c.name(1, 3), c.segment(3, 5000)
	mustPush(t, c.config(b), c.write(t, name, data))
	for _, step := range []string{"create", "write", "sync", "close", "rename", "syncdir"} {
		dir := t.TempDir()
		dest := filepath.Join(dir, "RECOVERYXLOG")
		cmd := exec.Command(os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), killAt+"="+strings.Join([]string{step, store, c.dir, name, dest}, ":"))
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState == nil || cmd.ProcessState.String() != "signal: killed" {
			t.Fatalf("%s: process ended with %v: %s", step, err, out)
		}
		if got, err := os.ReadFile(dest); step != "syncdir" && err == nil {
			t.Errorf("killed before %s: destination holds %d bytes, want none", step, len(got))
		} else if step == "syncdir" && !bytes.Equal(got, data) {
			t.Errorf("killed before %s: destination holds %d bytes, %v, want all", step, len(got), err)
		}
		left, err := filepath.Glob(filepath.Join(dir, wal.TempPrefix+"*"))
		if err != nil {
			t.Fatal(err)
		}
		old := time.Now().Add(-time.Hour)
		for _, path := range left {
			if err := os.Chtimes(path, old, old); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := wal.Fetch(t.Context(), c.config(b), name, dest); err != nil {
			t.Errorf("after a kill before %s: Fetch = %v", step, err)
		}
		if !bytes.Equal(readFile(t, dest), data) {
			t.Errorf("after a kill before %s: Fetch gave other bytes", step)
		}
		assertNames(t, dir, "RECOVERYXLOG")
	}
}

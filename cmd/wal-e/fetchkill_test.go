package main_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"wal-e/internal/pgtest"
)

// A restore can be killed at any moment: until it is done the directory is marked
// and has no pg_control, so that no server starts on it, and the same command
// goes on with the files that are whole.
func TestFetchKilled(t *testing.T) {
	t.Parallel()
	a, c, name, whole := fetched(t, 200000)
	want := treeOf(t, whole)

	dir := target(t)
	killed := 0
	for _, files := range []int{1, len(want) / 4, len(want) / 2} {
		cmd := a.command(t, c, "--terse", "backup-fetch", "-p1", dir, name)
		if !killWhen(t, cmd, func() bool { return filesBelow(dir) >= files }) {
			t.Logf("with %d files: the fetch ended before it could be killed", files)
			break
		}
		marked, control := present(dir, ".wal-e-fetch"), present(dir, "global/pg_control")
		if !marked && !control {
			t.Fatalf("killed with %d files: neither the mark of an unfinished restore nor pg_control is there", files)
		}
		if !control {
			killed++
		}
	}
	if killed == 0 {
		t.Fatal("no fetch was killed before it was done")
	}

	r := a.must(t, c, "backup-fetch", "--json", dir, name)
	var report struct {
		Resumed int64 `json:"resumed_files"`
		Done    bool  `json:"done"`
	}
	if err := json.Unmarshal([]byte(r.stdout), &report); err != nil {
		t.Fatalf("backup-fetch --json printed %q: %v", r.stdout, err)
	}
	if !report.Done || report.Resumed < 1 {
		t.Errorf("the last fetch reports %+v, want done, and files of the killed ones", report)
	}
	t.Logf("%d killed, %d of %d files were there", killed, report.Resumed, len(want))
	sameTree(t, dir, want)
}

// fetched returns an archive with a backup, whose cluster has a table of so many
// rows, and a directory that it was restored to.
func fetched(t *testing.T, rows int) (a *archive, c *pgtest.Cluster, name, dir string) {
	t.Helper()
	a, dir = newArchive(t), target(t)
	c = a.start(t, pgtest.Options{})
	c.Exec(t, "CREATE TABLE kept (id int, v text)")
	c.Exec(t, fmt.Sprintf("INSERT INTO kept SELECT i, md5(i::text) FROM generate_series(1, %d) i", rows))
	name = a.push(t, c).Name
	a.must(t, c, "backup-fetch", dir, name)
	return a, c, name, dir
}

// sameTree compares a folder with the files of another.
func sameTree(t *testing.T, dir string, want map[string]string) {
	t.Helper()
	got := treeOf(t, dir)
	for path, data := range want {
		if other, ok := got[path]; !ok || other != data {
			t.Errorf("%s differs from that of a fetch that nobody killed (there: %v)", path, ok)
		}
		delete(got, path)
	}
	delete(got, "/backup_manifest")
	for path := range got {
		t.Errorf("%s is there after killed fetches, and not without", path)
	}
}

// killWhen runs a command and kills it once something is so. It tells whether it
// did: the command may have ended before.
func killWhen(t *testing.T, cmd *exec.Cmd, so func() bool) bool {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // killed, or done: its state tells
	}()
	for !so() {
		select {
		case <-ended:
			return false
		case <-time.After(time.Millisecond):
		}
	}
	_ = cmd.Process.Kill() // it may have ended
	<-ended
	s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && s.Signaled()
}

// filesBelow counts the files in base of a data directory.
func filesBelow(dir string) (n int) {
	_ = filepath.WalkDir(filepath.Join(dir, "base"), func(_ string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			n++
		}
		return nil // what goes away meanwhile isn't counted
	})
	return n
}

// A restore over a cluster can be killed at any moment, too.
func TestFetchDeltaKilled(t *testing.T) {
	t.Parallel()
	a, c, name, dir := fetched(t, 50000)
	want := treeOf(t, dir)

	spoil := func() {
		for path, data := range want {
			at := filepath.Join(dir, path)
			if !strings.HasPrefix(path, "base/") || len(data) == 0 {
				continue
			}
			if err := errors.Join(os.WriteFile(at, []byte(strings.Repeat("x", len(data))), 0o600), os.WriteFile(at+"_stray", nil, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
	}
	all := filesBelow(dir)
	restored := func(share int) func() bool {
		return func() bool {
			whole, tried := 0, 0
			for path, data := range want {
				if tried++; tried > 200 {
					break
				}
				if got, err := os.ReadFile(filepath.Join(dir, path)); err == nil && strings.HasPrefix(path, "base/") && string(got) == data {
					whole++
				}
			}
			return whole*share > 100
		}
	}
	killed := 0
	for _, when := range []func() bool{
		func() bool { return present(dir, ".wal-e-fetch/fetch.json") },
		func() bool { return !present(dir, "global/pg_control") },
		func() bool { return filesBelow(dir) <= all+all/2 },
		restored(20), restored(2), restored(1),
	} {
		spoil()
		cmd := a.command(t, c, "--terse", "backup-fetch", "-p1", "--delta", dir, name)
		signaled := killWhen(t, cmd, when)
		marked, control := present(dir, ".wal-e-fetch/fetch.json"), present(dir, "global/pg_control")
		if signaled && marked && !control {
			killed++
		} else if !marked && !control {
			t.Fatal("neither the mark of an unfinished restore nor pg_control is there")
		}
	}
	if killed == 0 {
		t.Fatal("no fetch was killed before it was done")
	}
	a.must(t, c, "backup-fetch", "--delta", dir, name)
	delete(want, "/backup_manifest") // it has what was there and stays at its end
	sameTree(t, dir, want)
	t.Logf("%d fetches were killed", killed)
}

func present(dir, name string) bool {
	_, err := os.Lstat(filepath.Join(dir, name))
	return err == nil
}

// treeOf returns the files of a folder by path.
func treeOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		files[path[len(dir):]] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

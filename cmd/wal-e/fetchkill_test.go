package main_test

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
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
	a := newArchive(t)
	c := a.start(t, pgtest.Options{})
	c.Exec(t, "CREATE TABLE kept (id int, v text)")
	c.Exec(t, "INSERT INTO kept SELECT i, md5(i::text) FROM generate_series(1, 200000) i")
	name := a.push(t, c).Name
	whole := target(t)
	a.must(t, c, "backup-fetch", whole, name)
	want := treeOf(t, whole)

	dir := target(t)
	killed := 0
	for _, files := range []int{1, len(want) / 4, len(want) / 2} {
		cmd := a.command(t, c, "--terse", "backup-fetch", "-p1", dir, name)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = cmd.Wait() // killed, or done: its state tells
		}()
		killAt(cmd.Process, dir, files, ended)
		<-ended
		if s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !s.Signaled() {
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
	got := treeOf(t, dir)
	for path, data := range want {
		if other, ok := got[path]; !ok || other != data {
			t.Errorf("%s differs from that of a fetch that nobody killed (there: %v)", path, ok)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d files after killed fetches, want %d", len(got), len(want))
	}
}

// killAt kills a fetch once there are so many files in dir, unless it has ended.
func killAt(p *os.Process, dir string, files int, ended <-chan struct{}) {
	for {
		select {
		case <-ended:
			return
		case <-time.After(time.Millisecond):
		}
		n := 0
		_ = filepath.WalkDir(filepath.Join(dir, "base"), func(_ string, e fs.DirEntry, err error) error {
			if err == nil && e.Type().IsRegular() {
				n++
			}
			return nil // what goes away meanwhile isn't counted
		})
		if n >= files {
			_ = p.Kill() // it may have ended
			return
		}
	}
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

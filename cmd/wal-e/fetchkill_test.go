package main_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
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
		killWhen(cmd.Process, ended, func() bool { return filesBelow(dir) >= files })
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

// killWhen kills a fetch once something is so, unless it has ended.
func killWhen(p *os.Process, ended <-chan struct{}, so func() bool) {
	for {
		select {
		case <-ended:
			return
		case <-time.After(time.Millisecond):
		}
		if so() {
			_ = p.Kill() // it may have ended
			return
		}
	}
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
	a := newArchive(t)
	c := a.start(t, pgtest.Options{})
	c.Exec(t, "CREATE TABLE kept (id int, v text)")
	c.Exec(t, "INSERT INTO kept SELECT i, md5(i::text) FROM generate_series(1, 50000) i")
	name := a.push(t, c).Name
	dir := target(t)
	a.must(t, c, "backup-fetch", dir, name)
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
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = cmd.Wait() // killed, or done: its state tells
		}()
		killWhen(cmd.Process, ended, when)
		<-ended
		marked, control := present(dir, ".wal-e-fetch/fetch.json"), present(dir, "global/pg_control")
		if s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && s.Signaled() && marked && !control {
			killed++
		} else if !marked && !control {
			t.Fatal("neither the mark of an unfinished restore nor pg_control is there")
		}
	}
	if killed == 0 {
		t.Fatal("no fetch was killed before it was done")
	}
	a.must(t, c, "backup-fetch", "--delta", dir, name)
	got := treeOf(t, dir)
	for path, data := range want {
		if path == "/backup_manifest" {
			continue // it has what was there and stays at its end
		}
		if other, ok := got[path]; !ok || other != data {
			t.Errorf("%s differs from that of a fetch that nobody killed (there: %v)", path, ok)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d files after killed fetches, want %d", len(got), len(want))
	}
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

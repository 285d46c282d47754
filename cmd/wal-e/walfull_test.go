package main_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"wal-e/internal/pgtest"
)

// A push to a full file system fails, says so and leaves nothing, whatever was
// pushed beside it; with room again the next one succeeds.
func TestFullArchive(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("mounting a small file system takes root; TestFullVolume has a limit on files instead")
	}
	a, c, segments := written(t)
	a.must(t, c, "wal-push", "-p1", filepath.Join(c.Dir, "pg_wal", segments[0]))
	small := filepath.Join(a.prefix, "wal_006")
	system := filepath.Base(onlyEntry(t, small))
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=256k,mode=0777", "tmpfs", filepath.Join(small, system)).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v\n%s", err, out)
	}
	unmount := sync.OnceFunc(func() {
		if out, err := exec.Command("umount", filepath.Join(small, system)).CombinedOutput(); err != nil {
			t.Errorf("umount: %v\n%s", err, out)
		}
	})
	t.Cleanup(unmount)
	failed := false
	for _, name := range segments[1:] {
		r := runCommand(t, a.in(t, c, "--terse", "wal-push", "pg_wal/"+name))
		if r.code == 0 {
			continue // there was room
		}
		failed = true
		if r.code != 1 || !strings.Contains(r.stderr, "no space left on device") {
			t.Errorf("wal-push %s: exit %d, want 1 and the reason\n%s", name, r.code, r.stderr)
		}
	}
	if !failed {
		t.Error("nothing filled the file system")
	}
	left, err := os.ReadDir(filepath.Join(small, system))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		if strings.HasPrefix(e.Name(), ".") {
			t.Errorf("failed pushes left %s", e.Name())
		}
	}
	status := filepath.Join(c.Dir, "pg_wal/archive_status")
	for _, name := range segments[1:] {
		_, done := os.Lstat(filepath.Join(status, name+".done"))
		if _, err := os.Lstat(filepath.Join(small, system, name)); done == nil && err != nil {
			t.Errorf("%s is done, and the archive doesn't have it: %v", name, err)
		}
	}
	unmount()
	for _, name := range segments[1:] {
		a.must(t, c, "wal-push", filepath.Join(c.Dir, "pg_wal", name))
	}
	dest := filepath.Join(pgtest.TempDir(t), "last")
	last := segments[len(segments)-1]
	if r := runCommand(t, a.in(t, c, "wal-fetch", last, dest)); r.code != 0 || read(t, dest) != read(t, filepath.Join(c.Dir, "pg_wal", last)) {
		t.Errorf("wal-fetch %s: exit %d\n%s", last, r.code, r.stderr)
	}
}

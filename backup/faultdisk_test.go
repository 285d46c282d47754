package backup_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"wal-e/internal/storage/mem"
)

// fullDiskSource names the stopped cluster to the part of TestFaultFullDisk
// that runs in a mount namespace of its own.
const fullDiskSource = "FAULT_FULL_DISK_SOURCE"

// A disk that fills is named, and with more room the same fetch completes. The
// disk is a small file system, mounted where only this test sees it.
func TestFaultFullDisk(t *testing.T) {
	t.Parallel()
	c := stoppedCluster(t, false)
	addNoise(t, c.Dir, "90001", 1, 8<<20)
	args := []string{"--mount"}
	if os.Getuid() != 0 {
		args = append(args, "--map-root-user")
	}
	args = append(args, os.Args[0], "-test.run=^TestFullDiskInside$", "-test.v")
	cmd := exec.CommandContext(t.Context(), "unshare", args...)
	cmd.Env = append(os.Environ(), fullDiskSource+"="+c.Dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v; this needs root, or unprivileged user namespaces\n%s", cmd.Args[:3], err, out)
	}
	if !strings.Contains(string(out), "PASS: TestFullDiskInside") {
		t.Errorf("the inner test didn't run:\n%s", out)
	}
}

func TestFullDiskInside(t *testing.T) {
	source := os.Getenv(fullDiskSource)
	if source == "" {
		return // it is a part of TestFaultFullDisk
	}
	disk := t.TempDir()
	mount := func(flags uintptr, megabytes int) {
		if err := syscall.Mount("tmpfs", disk, "tmpfs", flags, fmt.Sprintf("size=%dm", megabytes)); err != nil {
			t.Fatalf("mount a small file system: %v", err)
		}
	}
	mount(0, 6)
	t.Cleanup(func() { check(t, syscall.Unmount(disk, 0)) })
	b := mem.New(nil)
	from := find(t, b, mustPush(t, b, source, "").Ref.String())
	dir := filepath.Join(disk, "restored")
	for range 2 { // the second try finds the disk as full
		err := fetchFrom(t, b, from, dir)
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("Fetch = %v, want %v", err, syscall.ENOSPC)
		}
		for _, want := range []string{dir, "make room", "the same command goes on"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("Fetch = %v, want it to say %q", err, want)
			}
		}
		if startable(dir) {
			t.Error("a failed fetch left a pg_control")
		}
	}
	mount(syscall.MS_REMOUNT, 128)
	if err := fetchFrom(t, b, from, dir); err != nil {
		t.Fatalf("Fetch = %v", err)
	}
	sameTree(t, source, dir)
}

package backup

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Where the device refused what a fetch wrote, the next fetch finds it in the page
// cache, as if it were there. It must not be taken for it.
func TestFetchAfterFailedWrites(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("mounting a device that runs full takes root")
	}
	a, c := newArchive(t), newCluster()
	c.files["base/5/large"] = random(51, 24<<20)
	b := a.push(t, c)
	to := newTarget(t)
	room := t.TempDir()
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
	}
	mount := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("mount", args...).CombinedOutput(); err != nil {
			t.Skipf("a container that may not mount can't show this: mount: %v\n%s", err, out)
		}
	}
	unmount := func(dir string) { t.Cleanup(func() { run("umount", dir) }) }
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		t.Fatalf("%v; run: .ci/install-engines postgres", err)
	}
	mount("-t", "tmpfs", "-o", "size=16m", "tmpfs", room)
	unmount(room)
	image := filepath.Join(room, "image")
	run("truncate", "-s", "128M", image)
	run("mkfs.ext4", "-q", "-O", "^has_journal", "-E", "lazy_itable_init=0,nodiscard", image)
	mount("-o", "loop", image, to.base)
	unmount(to.base)

	_, err := Fetch(t.Context(), a.config(b, to))
	if err == nil {
		t.Fatal("Fetch to a device without room = nil, want an error")
	}
	run("mount", "-o", "remount,size=256m", room)
	// What is left to report of the first try may fail the next ones.
	for tries := 0; err != nil; tries++ {
		if tries == 4 {
			t.Fatalf("Fetch with room again = %v", err)
		}
		_, err = Fetch(t.Context(), a.config(b, to))
	}
	run("umount", to.base)
	run("mount", "-o", "loop", image, to.base)
	c.check(t, to)
}

package backup_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wal-e/internal/pgtest"
)

// The memory of a push and of a fetch is bounded by settings, whatever the size
// of the cluster. Measured on 256 MiB to 4 GiB are 240 to 390 MiB for a push, most
// when storage is slow, and 100 to 160 MiB for a fetch.
const (
	pushMemory  = 512 << 20 // bytes of peak RSS
	fetchMemory = 384 << 20
	// How far the peak of a larger cluster may be above that of a smaller one:
	// four packs. When collections fall, and whether uploads fall behind so that
	// all packs are in memory, differs from run to run.
	memorySlack = 4 * 36 << 20

	// What WALE_MEMORY says, as --memory does, and what a push may take then: it is a goal.
	toldMemory  = 150_000_000
	givenMemory = 180 << 20
)

// Memory of push and fetch doesn't depend on how large the cluster is.
func TestMemory(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("-short: it measures a program of its own, which says nothing of races")
	}
	dir := memoryIsBounded(t, 256<<20, 1<<30)
	p := newProgram(t)
	defer func() { check(t, os.RemoveAll(p.prefix)) }()
	push := p.command(t, nil, "backup-push", "--while-offline", dir)
	push.Env = append(push.Env, fmt.Sprintf("WALE_MEMORY=%d", toldMemory))
	got := peakOf(t, push)
	t.Logf("push with WALE_MEMORY: %d MiB", got>>20)
	if got > givenMemory {
		t.Errorf("push with WALE_MEMORY=%d took %d", toldMemory, got)
	}
}

func TestSoakMemory(t *testing.T) {
	if os.Getenv("WALE_SOAK") == "" {
		t.Skip("set WALE_SOAK to a duration: make soak")
	}
	memoryIsBounded(t, 1<<30, 4<<30)
}

// A peak is the largest resident size of a push and of a fetch.
type peak struct{ push, fetch int64 }

// memoryIsBounded returns the cluster that it let grow.
func memoryIsBounded(t *testing.T, small, large int64) (dir string) {
	t.Helper()
	c := stoppedCluster(t, false)
	a, b := measure(t, c.Dir, 0, small), measure(t, c.Dir, small, large)
	t.Logf("push: %d MiB of memory for %d MiB, %d for %d; fetch: %d and %d",
		a.push>>20, small>>20, b.push>>20, large>>20, a.fetch>>20, b.fetch>>20)
	for _, m := range []struct {
		what                string
		small, large, bound int64
	}{{"push", a.push, b.push, pushMemory}, {"fetch", a.fetch, b.fetch, fetchMemory}} {
		if m.large > m.bound {
			t.Errorf("%s of %d MiB took %d MiB, want at most %d", m.what, large>>20, m.large>>20, m.bound>>20)
		}
		if m.large > m.small+memorySlack {
			t.Errorf("%s took %d MiB for %d MiB of data, but %d for %d", m.what, m.large>>20, large>>20, m.small>>20, small>>20)
		}
	}
	return c.Dir
}

// measure lets the cluster grow from one size to another, and pushes and
// fetches it.
func measure(t *testing.T, dir string, from, to int64) peak {
	t.Helper()
	const file = 64 << 20
	for at := from; at < to; at += file {
		addRows(t, dir, fmt.Sprint(90000+at/file), uint64(at), min(file, to-at))
	}
	p := newProgram(t)
	restored := filepath.Join(pgtest.TempDir(t), "restored")
	push := peakOf(t, p.command(t, nil, "backup-push", "--while-offline", dir))
	fetch := peakOf(t, p.command(t, nil, "backup-fetch", restored, "LATEST"))
	defer func() {
		for _, d := range []string{restored, p.prefix} { // they are large
			check(t, os.RemoveAll(d))
		}
	}()
	return peak{push, fetch}
}

// peakOf runs a command and returns its largest resident size. It is asked for
// while it runs: what the kernel tells at the end counts the size of the
// process that started it too.
func peakOf(t *testing.T, cmd *exec.Cmd) int64 {
	t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	status := fmt.Sprintf("/proc/%d/status", cmd.Process.Pid)
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	for most := int64(0); ; {
		select {
		case err := <-done:
			if err != nil {
				t.Fatalf("%v: %v\n%s", cmd.Args[1:], err, out.Bytes())
			}
			return most
		case <-time.After(5 * time.Millisecond):
			most = max(most, highWater(status))
		}
	}
}

// highWater reads the peak from a process's status; 0 when it is gone.
func highWater(status string) int64 {
	b, err := os.ReadFile(status)
	if err != nil {
		return 0
	}
	var kB int64
	for line := range strings.Lines(string(b)) {
		if n, err := fmt.Sscanf(line, "VmHWM: %d kB", &kB); n == 1 && err == nil {
			break
		}
	}
	return kB << 10
}

// addRows adds a relation whose pages are noise for one half, and compress well
// for the other.
func addRows(t *testing.T, dir, filenode string, seed uint64, size int64) {
	t.Helper()
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	noise := rand.NewChaCha8(key)
	b := make([]byte, size)
	for at := int64(0); at+8192 <= size; at += 8192 {
		page := b[at : at+8192]
		_, _ = noise.Read(page[:4096]) // it can't fail
		for i := 4096; i < 8192; i++ {
			page[i] = page[i&0xff] & 7
		}
	}
	putFile(t, dir, filepath.Join("base/5", filenode), b)
}

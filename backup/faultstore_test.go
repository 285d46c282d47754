package backup_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"wal-e/internal/pgtest"
	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
	"wal-e/internal/storage/storagetest"
)

// A pushFault is a push into a bucket that fails.
type pushFault struct {
	start *mem.Bucket // what the prefix holds before
	dir   string      // the stopped cluster
	once  int64       // bytes of packs once a push has succeeded that never failed
}

// slack is what packs of a failed push may hold that a second one can't use:
// lists and tables whose blocks end elsewhere.
const slack = 64 << 10

// Whatever request of a push fails, and however, no backup is broken, what the
// push stored serves the next one, and that restores.
func TestFaultPush(t *testing.T) {
	t.Parallel()
	c := stoppedCluster(t, false)
	t.Run("first", func(t *testing.T) {
		t.Parallel()
		large := copyOf(t, c.Dir)
		addNoise(t, large, "90001", 1, 34<<20) // so there are several packs
		everyFault(t, pushFault{start: mem.New(nil), dir: large})
	})
	t.Run("next", func(t *testing.T) {
		t.Parallel()
		everyFault(t, olderArchive(t, c.Dir))
	})
}

// olderArchive returns a push onto a prefix with a backup, and with packs of a
// push that failed at its end; the cluster has grown since both.
func olderArchive(t *testing.T, dir string) pushFault {
	t.Helper()
	b := mem.New(nil)
	mustPush(t, b, dir, "")
	grown := copyOf(t, dir)
	addNoise(t, grown, "90002", 2, 2<<20)
	probe := storagetest.NewFaulty(clone(t, b), storagetest.Fault{})
	mustPush(t, probe, grown, "")
	failing := storagetest.NewFaulty(b, storagetest.Fault{Call: probe.Calls() - 1, Mode: storagetest.FailFrom})
	if _, err := offlinePush(t, failing, grown, "", nil); !errors.Is(err, storagetest.ErrInjected) {
		t.Fatalf("Push = %v, want the fault", err)
	}
	addNoise(t, grown, "90003", 3, 2<<20)
	return pushFault{start: b, dir: grown}
}

// everyFault lets each request fail in each way that makes a difference: only
// what creates can lose an answer, only what reads has a body.
func everyFault(t *testing.T, f pushFault) {
	t.Helper()
	clean := clone(t, f.start)
	ops := requests(clean)
	mustPush(t, ops.bucket, f.dir, t.TempDir())
	f.once = storedBytes(t, clean)
	t.Logf("a push makes %d requests (%s) and leaves %d bytes of packs", len(ops.made), strings.Join(ops.made, " "), f.once)
	for mode, only := range map[storagetest.Mode]string{
		storagetest.FailBefore: "", storagetest.LoseAnswer: "create", storagetest.BreakBody: "get", storagetest.FailFrom: "",
	} {
		t.Run(mode.String(), func(t *testing.T) {
			t.Parallel()
			var tried, failed int
			var most int64
			for i, op := range ops.made {
				if only != "" && op != only || testing.Short() && i%6 != int(mode)%6 {
					continue // -short is the race detector, which is slow
				}
				stored, err := f.run(t, storagetest.Fault{Call: i + 1, Mode: mode})
				tried++
				if err != nil {
					failed++
				}
				most = max(most, stored)
				if t.Failed() {
					t.Fatalf("when request %d (%s) fails: Push = %v", i+1, op, err)
				}
			}
			t.Logf("%d of %d pushes failed; with the next push they stored at most %.3f of one", failed, tried, float64(most)/float64(f.once))
		})
	}
}

// A requestLog tells which requests a bucket got, in order.
type requestLog struct {
	bucket storage.Bucket
	mu     sync.Mutex
	made   []string
}

func requests(b storage.Bucket) *requestLog {
	l := &requestLog{}
	l.bucket = storagetest.NewFaulty(b, storagetest.Fault{Before: func(_ int, op, _ string) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.made = append(l.made, op)
	}})
	return l
}

// run lets one request fail, pushes again, and looks at what is there. It
// returns the bytes of packs at the end, and what the first push said.
func (f pushFault) run(t *testing.T, fault storagetest.Fault) (stored int64, failure error) {
	t.Helper()
	b, state := clone(t, f.start), t.TempDir()
	before := valid(t, b)
	result, failure := offlinePush(t, storagetest.NewFaulty(b, fault), f.dir, state, nil)
	if failure != nil && !errors.Is(failure, storagetest.ErrInjected) {
		t.Errorf("Push = %v, want one that wraps the fault", failure)
	}
	after := valid(t, b)
	if failure == nil && !after[result.Ref.String()] {
		t.Errorf("Push = nil, but %s is not listed", result.Ref)
	}
	for ref := range before {
		if !after[ref] {
			t.Errorf("%s is not listed any more", ref)
		}
	}
	if failure != nil && len(after) > len(before) {
		verifyAll(t, b) // its outcome was created: then it must be whole
	}

	again := mustPush(t, b, f.dir, state)
	verifyAll(t, b)
	stored = storedBytes(t, b)
	if stored > f.once*11/10+slack {
		t.Errorf("both pushes stored %d bytes of packs, want at most 1.1 times %d", stored, f.once)
	}
	if fault.Call%7 == 3 {
		f.restore(t, b, again.Ref.String(), fault)
	}
	return stored, failure
}

// restore compares what comes back with the cluster, and for some faults
// starts a server on it.
func (f pushFault) restore(t *testing.T, b *mem.Bucket, ref string, fault storagetest.Fault) {
	t.Helper()
	dir := filepath.Join(pgtest.TempDir(t), "restored")
	if err := fetchFrom(t, b, find(t, b, ref), dir); err != nil {
		t.Errorf("Fetch = %v", err)
		return
	}
	sameTree(t, f.dir, dir)
	if fault.Call == 10 {
		startRestored(t, dir)
	}
}

// startRestored starts a server on a restored stopped cluster.
func startRestored(t *testing.T, dir string) {
	t.Helper()
	c := pgtest.Adopt(t, dir, pgtest.Options{})
	if got, want := c.Query(t, "SELECT count(*), count(DISTINCT v) FROM plain"), "3000|3000"; got != want {
		t.Errorf("restored table has %s, want %s", got, want)
	}
	c.Stop(t, pgtest.Fast)
}

// Whatever request of a fetch fails, and however, no server starts on what it
// left, and the same fetch again completes it.
func TestFaultFetch(t *testing.T) {
	t.Parallel()
	c := stoppedCluster(t, false)
	addNoise(t, c.Dir, "90001", 1, 8<<20)
	b := mem.New(nil)
	from := find(t, b, mustPush(t, b, c.Dir, "").Ref.String())
	probe := storagetest.NewFaulty(b, storagetest.Fault{})
	if err := fetchFrom(t, probe, from, filepath.Join(t.TempDir(), "restored")); err != nil {
		t.Fatalf("Fetch = %v", err)
	}
	t.Logf("a fetch makes %d requests", probe.Calls())
	for n := 1; n <= probe.Calls(); n++ {
		// Each request fails in one way here; TestFetchFailingStore has them all.
		mode := []storagetest.Mode{storagetest.FailBefore, storagetest.FailFrom, storagetest.BreakBody, storagetest.LoseAnswer}[n%4]
		t.Run(fmt.Sprintf("%d %s", n, mode), func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(pgtest.TempDir(t), "restored")
			err := fetchFrom(t, storagetest.NewFaulty(b, storagetest.Fault{Call: n, Mode: mode}), from, dir)
			if err != nil {
				if !errors.Is(err, storagetest.ErrInjected) {
					t.Errorf("Fetch = %v, want one that wraps the fault", err)
				}
				if startable(dir) {
					t.Error("a failed fetch left a pg_control")
				}
				if err := fetchFrom(t, b, from, dir); err != nil {
					t.Fatalf("Fetch again = %v", err)
				}
			}
			sameTree(t, c.Dir, dir)
			if n%16 == 5 {
				startRestored(t, dir)
			}
		})
	}
}

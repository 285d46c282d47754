package gc_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"wal-e/chunkstore"
	"wal-e/gc"
	"wal-e/internal/simstore"
)

// settle ends all faults, lets everybody finish, and sees that collections take
// garbage to zero and then change nothing.
func (s *sim) settle() error {
	s.w.Calm()
	s.settling = true
	if err := s.w.Finish(20000); err != nil {
		return err
	}
	time.Sleep(30 * day)
	s.lsn += 10
	for _, p := range s.places() {
		for _, h := range p.hosts {
			h.push = nil
		}
	}
	clear(s.copiers)
	before := len(s.backups())
	for range 3 {
		s.begin("push")
		if err := s.w.Finish(20000); err != nil {
			return err
		}
	}
	if s.failed == "" && len(s.backups()) == before {
		return errors.New("no push succeeds any more")
	}
	refused, err := s.copyCalmly()
	if err != nil {
		return err
	}
	for _, p := range s.places() {
		for range 2 {
			if err := p.collectCalmly(); err != nil {
				return err
			}
		}
		if p == s.place || !refused { // else what unfinished copies stored waits for a copy
			if err := p.checkEmpty(); err != nil {
				return err
			}
		}
		if err := p.checkQuiet(); err != nil {
			return err
		}
		if err := p.restoreAll(); err != nil {
			return err
		}
	}
	return nil
}

// collectCalmly runs one collection without faults. It must succeed.
func (p *place) collectCalmly() error {
	var err error
	s := p.s
	s.w.Go("last", func(ctx context.Context, c *simstore.Client) {
		cfg := gc.Config{Bucket: p.in(c), Host: "last", Now: func() time.Time { return time.Now().Add(15 * time.Millisecond) }}
		if s.sc.weak {
			cfg.Settle = lag
		}
		cfg.Skip(s.sc.skip)
		var r *gc.Report
		if r, err = gc.Collect(ctx, cfg); err == nil && len(r.Waiting) > 0 {
			err = fmt.Errorf("a collection of %q waits for %v, though no push runs", p.dir, r.Waiting)
		}
	})
	return errors.Join(s.w.Finish(20000), err)
}

// checkEmpty makes sure that there is no garbage.
func (p *place) checkEmpty() error {
	need, valid := p.neededPacks(), p.backups()
	low := ^uint64(0)
	for _, o := range valid {
		low = min(low, segmentOf(o))
	}
	runs, err := chunkstore.Runs(contextForOracle(), p.direct())
	if err != nil {
		return err
	}
	there := make(map[string]bool)
	for _, r := range runs {
		there[r.Ref.Run.String()] = true
	}
	holds := make(map[string]bool)
	for key := range need {
		holds[strings.Split(key, "/")[2]] = true
	}
	marks := 0
	for _, key := range p.keys() {
		part := strings.Split(key, "/")
		switch {
		case part[0] == "probe_006":
			return fmt.Errorf("%s was left", key)
		case strings.HasPrefix(key, "chunks_006/packs/") && !need[key]:
			return fmt.Errorf("%s is garbage that no collection removes", key)
		case strings.HasPrefix(key, "chunks_006/index/") && !there[part[2]] && !holds[part[2]]:
			return fmt.Errorf("%s is of no run", key)
		case strings.HasPrefix(key, "chunks_006/condemned/"):
			marks++
		case strings.HasPrefix(key, "wal_006/"):
			if n := segmentNumber(part[2]); n < low {
				return fmt.Errorf("%s lies below segment %d, which is the first that a backup needs", key, low)
			}
		}
	}
	for _, r := range runs {
		if valid[r.Ref] == nil && !holds[r.Ref.Run.String()] {
			return fmt.Errorf("run %s (open %t, deleted %t) was left without packs that anything needs", r.Ref, r.Open(), r.Deleted != nil)
		}
	}
	return nil
}

// checkQuiet makes sure that one more collection changes nothing but its probe.
func (p *place) checkQuiet() error {
	before := slices.Clone(p.s.w.Keys())
	if err := p.collectCalmly(); err != nil {
		return err
	}
	if !slices.Equal(before, p.s.w.Keys()) {
		return fmt.Errorf("a collection of nothing changed the store from\n%s\nto\n%s", strings.Join(before, "\n"), strings.Join(p.s.w.Keys(), "\n"))
	}
	return nil
}

// baseline is the whole protocol: on a weak store now and then, now and then
// with pushes that don't do W4a, since all else must hold without, and every
// other time with two of the places where processes like to stop. One in five
// copies to a second prefix, and in most of those, and some others, packs rot.
func baseline(seed uint64) scenario {
	sc := scenario{weak: seed%8 == 7, lenient: seed%8 == 3, sleepy: seed%4 == 1}
	sc.copies = seed%16 == 2 || seed%16 == 14 || seed%32 == 15 || seed%32 == 21
	sc.decay = sc.copies && !sc.weak || seed%16 == 6
	if seed%16 >= 8 {
		n := uint64(len(allNaps))
		sc.naps = []nap{allNaps[seed/16%n], allNaps[seed/16/n%n]}
	}
	return sc
}

func TestSimulator(t *testing.T) {
	t.Parallel()
	defer debug.SetGCPercent(debug.SetGCPercent(800))
	// A seed takes 20 to 40 ms of one core of a busy machine. WALE_SIM_SEEDS runs
	// more or fewer, make soak for as long as it is told.
	seeds := uint64(10_000)
	if testing.Short() {
		seeds = 300
	}
	if v := os.Getenv("WALE_SIM_SEEDS"); v != "" {
		seeds, _ = strconv.ParseUint(v, 10, 64)
	}
	if v := os.Getenv("WALE_SIM_SEED"); v != "" {
		seed, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		s, failed := runSeed(t, seed, baseline(seed), simDir(t), newStore(t))
		t.Logf("%s\nsteps %d, faults %d, processes %v\n%s", strings.Join(s.w.Trace(), "\n"), s.w.Steps, s.w.Faults, s.kinds, failed)
		if failed != "" {
			t.Fail()
		}
		return
	}
	runSeeds(t, func(seed uint64) bool { return seed < seeds })
}

// TestSoakSimulator runs other seeds than TestSimulator for WALE_SOAK each time.
func TestSoakSimulator(t *testing.T) {
	d, err := time.ParseDuration(os.Getenv("WALE_SOAK"))
	if err != nil {
		t.Skip("set WALE_SOAK to a duration: make soak")
	}
	first := uint64(time.Now().UnixNano())
	t.Logf("seeds from %d on", first)
	end := time.Now().Add(d)
	runSeedsFrom(t, first, func(uint64) bool { return time.Now().Before(end) })
}

func runSeeds(t *testing.T, more func(seed uint64) bool) {
	t.Helper()
	runSeedsFrom(t, 0, more)
}

// runSeedsFrom runs seeds as long as there are more. Worlds mostly pass the word
// from one goroutine to another, so there are more of them than cores.
func runSeedsFrom(t *testing.T, first uint64, more func(seed uint64) bool) {
	t.Helper()
	workers := 3 * uint64(runtime.GOMAXPROCS(0))
	var seeds, steps, faults, pushed, undeleted, copied, mended atomic.Int64
	t.Run("seeds", func(t *testing.T) {
		for worker := range workers {
			t.Run(fmt.Sprint("worker", worker), func(t *testing.T) {
				t.Parallel()
				dir, store := simDir(t), newStore(t)
				for seed := first + worker; more(seed) && !t.Failed(); seed += workers {
					s, failed := runSeed(t, seed, baseline(seed), dir, store)
					switch {
					case failed != "":
						t.Errorf("seed %d: %s\nWALE_SIM_SEED=%d go test -run 'TestSimulator$' -v ./gc", seed, failed, seed)
					case s.w.Steps < minSteps || s.w.Faults < minFaults:
						t.Errorf("seed %d: %d steps with %d faults, want %d with %d", seed, s.w.Steps, s.w.Faults, minSteps, minFaults)
					}
					seeds.Add(1)
					steps.Add(int64(s.w.Steps))
					faults.Add(int64(s.w.Faults))
					pushed.Add(s.pushed.Load())
					undeleted.Add(s.undeleted.Load())
					copied.Add(s.copied.Load())
					mended.Add(s.mended.Load())
				}
			})
		}
	})
	t.Logf("%d seeds, %d requests, %d faults; %d pushes and %d undeletes succeeded, %d backups were copied, %d packs came back",
		seeds.Load(), steps.Load(), faults.Load(), pushed.Load(), undeleted.Load(), copied.Load(), mended.Load())
	if n := seeds.Load(); n >= 200 && (pushed.Load() < 5*n || undeleted.Load() < n/50 || copied.Load() < n/5 || mended.Load() < n/50) {
		t.Errorf("in %d seeds only %d pushes and %d undeletes succeeded, only %d backups were copied, and only %d packs came back",
			n, pushed.Load(), undeleted.Load(), copied.Load(), mended.Load())
	}
}

// simDir is a folder in memory if there is one: index tables are files.
func simDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "wale-sim-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

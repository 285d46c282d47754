package gc_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"wal-e/chunkstore"
	"wal-e/gc"
	"wal-e/index"
	"wal-e/internal/envelope"
	"wal-e/internal/postgres"
	"wal-e/internal/simstore"
	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
)

// What a seed must have seen at least, so that an idle simulator isn't taken
// for a proof.
const (
	minSteps  = 400
	minFaults = 10
	maxSteps  = 6000
)

// A scenario says what may happen in a seed, and which steps of the protocol
// are left out.
type scenario struct {
	skip   gc.Skipped // by collections
	client mutation   // by pushes
	// lenient pushes don't do W4a, so that what else protects is seen to.
	lenient bool
	weak    bool // listings lag
	// sleepy processes freeze often, and half of all pushes are of a standby that
	// starts behind.
	sleepy bool
	// primaries are the only ones that push.
	primaries bool
	naps      []nap // where processes like to stop
	steps     int   // at least; 0 means minSteps
	// copies are made to a second prefix, which has its own deletes, collections
	// and pushes.
	copies bool
	// decay loses packs and flips bits in them, and in index objects; repairs run.
	decay  bool
	copier mutation // by copies, at the destination
	mender mutation // by repairs
	// script is what happens, in place of chance.
	script script
}

// A nap is a place where processes of a kind stop with a chance, until
// something wakes them: long after, as seen by the others.
type nap struct {
	client string // how its name begins; empty: a delete or a collection
	op     string
	key    string // how the first key begins
	suffix string // how it ends
	chance float64
}

func (n nap) at(client, op, key string) bool {
	key = strings.TrimPrefix(key, copyDir)
	isCollection := strings.HasPrefix(client, "delete") || strings.HasPrefix(client, "collect")
	return op == n.op && strings.HasPrefix(key, n.key) && strings.HasSuffix(key, n.suffix) &&
		(n.client != "" && strings.HasPrefix(client, n.client) || n.client == "" && isCollection)
}

// Naps that counterexamples of the models are made of.
var (
	beforeMark    = nap{"", "create", "chunks_006/condemned/", "", 0.5}
	beforeRuns    = nap{"", "list", "basebackups_006/", "", 0.2}
	beforeWAL     = nap{"", "delete", "wal_006/", "", 0.7}
	longBeforeWAL = nap{"", "delete", "wal_006/", "", 0.95}
	beforePacks   = nap{"", "delete", "chunks_006/packs/", "", 0.5}
	beforeReap    = nap{"", "delete", "basebackups_006/", ".intent", 0.7}
	beforeIntent  = nap{"push", "create", "basebackups_006/", ".intent", 0.3}
	beforeOutcome = nap{"push", "create", "basebackups_006/", ".outcome", 0.5}
	beforeMarks   = nap{"push", "list", "chunks_006/condemned/", "", 0.3}
	beforeCopy    = nap{"copy", "create", "basebackups_006/", ".outcome", 0.5}
	allNaps       = []nap{
		beforeMark, beforeRuns, beforeWAL,
		beforePacks, beforeReap, beforeIntent, beforeOutcome,
	}
)

// napChance is the chance that a process stops before a request.
func (s *sim) napChance(client, op, key string) float64 {
	for _, n := range s.sc.naps {
		if n.at(client, op, key) {
			return n.chance
		}
	}
	return 0
}

// A sim is one seed under way: a world, what ought to be true of it, and the
// processes in it.
type sim struct {
	seed    uint64
	sc      scenario
	rng     *rand.Rand
	w       *simstore.World
	shared  *chunkstore.Store // of another bucket; its keys and tables are dear to make
	dir     string
	*place                     // the archive
	copy    *place             // where copies go; nil: nowhere
	copiers []*simstore.Client // the last one of each host that copies
	mu      sync.Mutex         // guards failed and outcomes: processes look at them, and timers may wake several
	failed  string

	committing atomic.Int64      // pushes that no lifecycle rule may disturb any more
	decayed    map[string]*decay // by key in the world: what was lost or damaged
	began      map[string]int    // by the end of the key of an intent: the step at which it was created
	lsn        uint64            // segment at which the cluster is
	versions   [extents]int      // the cluster's content now
	spawned    int
	kinds      map[string]int
	lifecycle  bool
	settling   bool         // faults are over
	pushed     atomic.Int64 // pushes that succeeded
	undeleted  atomic.Int64 // undeletes that did
	copied     atomic.Int64 // backups that were copied
	mended     atomic.Int64 // packs that came back
	nap        func(client, op, key string) float64
}

// A host pushes one backup after the other, with its index table.
type host struct {
	name  string
	place *place // where it pushes to
	table *index.Table
	push  *simstore.Client // the last one
	known [extents]seen    // by the last push that wrote the extent
}

// A seen is an extent as a push on a host saw it.
type seen struct {
	version int
	known   chunkstore.Known // zero: nothing is known
}

const (
	extents     = 6
	extentBytes = 8192
	system      = "7000000000000000001"
	segmentSize = postgres.DefaultSegmentSize
	day         = 24 * time.Hour
)

// A manifest is what pushes of the simulation write: what gc reads of real
// ones, and the content.
type manifest struct {
	Name     string              `json:"name"`
	Timeline postgres.Timeline   `json:"timeline"`
	Start    string              `json:"start_lsn"`
	Stop     string              `json:"stop_lsn"`
	Size     int64               `json:"wal_segment_size"`
	Versions [extents]int        `json:"versions"`
	Lists    [][]chunkstore.List `json:"lists"`
}

// page is the content of an extent in a version.
func page(i, version int) []byte {
	line := fmt.Appendf(nil, "extent %d version %d\n", i, version)
	return bytes.Repeat(line, extentBytes/len(line)+1)[:extentBytes]
}

// runSeed runs one seed to its end. It returns what went wrong, and the trace.
func runSeed(t *testing.T, seed uint64, sc scenario, dir string, store *chunkstore.Store) (*sim, string) {
	t.Helper()
	s := &sim{
		seed: seed, sc: sc, shared: store, dir: filepath.Join(dir, fmt.Sprint(seed)), kinds: make(map[string]int), lsn: 10,
		decayed: make(map[string]*decay), began: make(map[string]int),
	}
	synctest.Test(t, func(t *testing.T) {
		if err := s.run(); err != nil && s.failed == "" {
			s.failed = err.Error()
		}
	})
	if err := os.RemoveAll(s.dir); err != nil {
		t.Fatal(err)
	}
	return s, s.failed
}

func (s *sim) fail(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == "" {
		s.failed = fmt.Sprintf("step %d: ", s.w.Steps) + fmt.Sprintf(format, args...)
		s.w.Note("VIOLATION " + s.failed)
	}
}

func (s *sim) run() error {
	r := rand.New(rand.NewPCG(s.seed, 2))
	s.rng = r
	cfg := simstore.Config{
		Seed: s.seed, PageSize: []int{2, 5, 1000}[r.IntN(3)], Tries: 1 + r.IntN(4),
		Tick: 16 * time.Millisecond,
		Lose: 0.02, Fail: 0.02, Late: 0.02, Kill: 0.002, Freeze: 0.01,
		Stick: []float64{0, 0.5, 0.8, 0.95}[r.IntN(4)],
		Watch: s.watch,
	}
	if s.sc.weak {
		cfg.Lag = lag
	}
	s.nap = s.napChance
	cfg.Nap = func(client, op, key string) float64 {
		if s.nap == nil || s.settling {
			return 0
		}
		return s.nap(client, op, key)
	}
	if s.sc.sleepy {
		cfg.Freeze = 0.04
	}
	s.lifecycle = !s.sc.lenient && r.IntN(4) == 0
	s.w = simstore.New(cfg)
	defer s.closeHosts()
	defer s.w.End()
	if err := s.setUp(); err != nil {
		return err
	}
	if s.sc.script != nil {
		if err := s.play(); err != nil {
			return err
		}
		return s.settle()
	}
	for s.failed == "" && s.w.Steps < maxSteps && (s.w.Steps < max(minSteps, s.sc.steps) || s.w.Faults < minFaults) {
		s.disturb()
		if !s.w.Step() {
			time.Sleep(time.Second)
		}
	}
	if s.failed == "" {
		if err := s.settle(); err != nil {
			return err
		}
	}
	return nil
}

const configKey = "chunks_006/config/00000000"

// prefixID is a constant, so that a seed says all.
const prefixID = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

// newStore makes a prefix whose chunks are one page long.
func newStore(t *testing.T) *chunkstore.Store {
	t.Helper()
	prefix := chunkstore.Prefix{ID: prefixID, DedupKey: strings.Repeat("5", 64), Systems: []string{system}}
	prefix.Chunking.Min, prefix.Chunking.Bits, prefix.Chunking.Max, prefix.Chunking.Extent = extentBytes, 10, extentBytes, extentBytes
	data, err := envelope.Encode("config", 1, prefix)
	if err != nil {
		t.Fatal(err)
	}
	b := mem.New(nil)
	if err := storage.CreateBytes(t.Context(), b, configKey, data, nil); err != nil {
		t.Fatal(err)
	}
	store, err := chunkstore.Open(t.Context(), b, nil)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// setUp makes the prefix, the hosts and a first backup.
func (s *sim) setUp() error {
	ctx := contextForOracle()
	data, err := storage.ReadAll(ctx, s.shared.Bucket(), configKey, 1<<20)
	if err != nil {
		return err
	}
	if err := storage.CreateBytes(ctx, s.w.Direct(), configKey, data, nil); err != nil {
		return err
	}
	if s.place, err = s.newPlace("", 3); err != nil {
		return err
	}
	if s.sc.copies {
		if s.copy, err = s.newPlace(copyDir, 1); err != nil {
			return err
		}
		s.copiers = make([]*simstore.Client, 2)
	}
	if s.sc.script != nil {
		return nil
	}
	s.w.Calm()
	defer s.w.Storm()
	for range 1 + s.rng.IntN(2) {
		s.change()
		s.begin("push")
		if err := s.w.Finish(2000); err != nil {
			return err
		}
	}
	return nil
}

func (s *sim) closeHosts() {
	for _, p := range s.places() {
		p.close()
	}
}

// openTable opens a new table. It is a copy of an empty one, which costs a third
// of what making one does.
func (s *sim) openTable(name string) (*index.Table, error) {
	path := filepath.Join(s.dir, name)
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, err
	}
	if err := os.WriteFile(path, emptyTable(), 0o600); err != nil {
		return nil, err
	}
	return index.Open(path, prefixID)
}

// emptyTable is the file of a table without anything.
var emptyTable = sync.OnceValue(func() []byte {
	dir, err := os.MkdirTemp("", "wale-sim-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "empty")
	t, err := index.Open(path, prefixID)
	if err == nil {
		err = t.Close()
	}
	data, rerr := os.ReadFile(path)
	if err := errors.Join(err, rerr); err != nil {
		panic(err)
	}
	return data
})

// change lets the cluster go on: some extents get another version, of few, so
// that old content comes back.
func (s *sim) change() {
	s.lsn += uint64(s.rng.IntN(3))
	for i := range s.versions {
		if s.rng.IntN(3) == 0 {
			s.versions[i] = s.rng.IntN(3)
		}
	}
}

// disturb does what isn't a request: begins processes, wakes frozen ones, lets
// time pass.
func (s *sim) disturb() {
	r := s.w.Rand()
	if s.w.Alive() < 6 && r.IntN(12) == 0 {
		s.change()
		kinds := []string{"push", "push", "push", "delete", "delete", "delete", "collect", "collect", "read", "undelete", "dry"}
		if s.sc.sleepy {
			kinds = append(kinds, "archive", "archive")
		}
		if s.sc.copies {
			kinds = append(kinds, "copy", "copy", "copy", "delete@copy", "delete@copy", "collect@copy", "read@copy", "undelete@copy", "dry@copy", "push@copy")
		}
		if s.sc.decay {
			kinds = append(kinds, "repair", "repair")
			if s.sc.copies {
				kinds = append(kinds, "repair@copy")
			}
		}
		s.begin(kinds[r.IntN(len(kinds))])
	}
	for _, h := range s.hosts {
		if h.push != nil && h.push.Frozen() && r.IntN(60) == 0 {
			s.w.Thaw(h.push)
		}
	}
	if s.sc.decay && r.IntN(60) == 0 {
		s.rot()
	}
	for _, c := range s.w.Clients() {
		if c.Frozen() && r.IntN(80) == 0 {
			s.w.Thaw(c)
		}
	}
	if r.IntN(200) == 0 {
		time.Sleep(time.Duration(r.IntN(50)) * time.Hour)
	}
	if s.lifecycle && r.IntN(100) == 0 {
		s.expire()
	}
}

// expire removes a pack that no backup needs, as a lifecycle rule may, while no
// push has looked at its packs for the last time.
func (s *sim) expire() {
	synctest.Wait()
	if s.committing.Load() > 0 {
		return
	}
	place := s.place
	if s.copy != nil && s.w.Rand().IntN(2) == 0 {
		place = s.copy
	}
	var packs []string
	need := place.neededPacks()
	for _, key := range place.keys() {
		if strings.HasPrefix(key, "chunks_006/packs/") && !need[key] {
			packs = append(packs, place.dir+key)
		}
	}
	if len(packs) > 0 {
		s.w.Remove(packs[s.w.Rand().IntN(len(packs))])
	}
}

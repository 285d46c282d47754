package gc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"wal-e/chunkstore"
	"wal-e/gc"
	"wal-e/internal/envelope"
	"wal-e/internal/storage"
)

// A mutation is a step of the push that is left out, by a bucket that doesn't
// do what the push asks for.
type mutation string

const (
	intentLate  mutation = "W1 after W2"
	marksUnread mutation = "W2 reads no marks"
	marksEarly  mutation = "W2 lists marks before W1"
	noRecheck   mutation = "W4a"
	noWALCheck  mutation = "W4 looks for the WAL"
	deafToRace  mutation = "W5 notices a lost race"
	noW6        mutation = "W6"
	noHorizon   mutation = "W2 checks the WAL horizon"

	intentNever mutation = "W1 before all else"
	packsLate   mutation = "W4 before W5"
	blindRepair mutation = "repair: it sees that a pack is whole"
	markDropped mutation = "repair: it condemns damaged packs"
)

func (m mutation) wrap(b storage.Bucket) storage.Bucket {
	if m == "" {
		return b
	}
	return &mutant{Bucket: b, m: m, lists: make(map[string][]storage.Object)}
}

// withoutW4a shows a push the packs of others as they were when it first looked.
func withoutW4a(b storage.Bucket) storage.Bucket { return noRecheck.wrap(b) }

type mutant struct {
	storage.Bucket
	m mutation

	mu    sync.Mutex
	held  map[string][]byte // objects whose creation waits
	lists map[string][]storage.Object
}

func (b *mutant) Create(ctx context.Context, key string, r io.Reader, size int64, meta storage.Meta) error {
	switch {
	case (b.m == intentLate || b.m == intentNever) && strings.HasSuffix(key, ".intent"),
		b.m == packsLate && strings.HasPrefix(key, chunkstore.PackFolder):
		data, err := io.ReadAll(r)
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.held == nil {
			b.held = make(map[string][]byte)
		}
		b.held[key] = data
		return err
	case b.m == markDropped && strings.HasPrefix(key, "chunks_006/condemned/"):
		return nil
	case b.m == intentNever && !strings.HasSuffix(key, ".outcome"):
		return b.Bucket.Create(ctx, key, r, size, meta)
	case b.m == packsLate:
		err := b.Bucket.Create(ctx, key, r, size, meta)
		if err == nil && strings.HasSuffix(key, ".outcome") {
			err = b.createHeld(ctx)
		}
		return err
	case b.m == marksEarly && strings.HasSuffix(key, ".intent"):
		if err := b.remember(ctx, "chunks_006/condemned/"); err != nil {
			return err
		}
	}
	if err := b.createHeld(ctx); err != nil {
		return err
	}
	err := b.Bucket.Create(ctx, key, r, size, meta)
	if b.m == deafToRace && strings.HasSuffix(key, ".outcome") && errors.Is(err, storage.ErrExist) {
		return nil
	}
	return err
}

// createHeld creates what waited.
func (b *mutant) createHeld(ctx context.Context) error {
	b.mu.Lock()
	held := b.held
	b.held = nil
	b.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(held)) {
		if err := storage.CreateBytes(ctx, b.Bucket, key, held[key], nil); err != nil {
			return err
		}
	}
	return nil
}

// waits returns an object whose creation waits.
func (b *mutant) waits(key string) ([]byte, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	data, ok := b.held[key]
	return data, ok
}

func (b *mutant) remember(ctx context.Context, prefix string) error {
	list := []storage.Object{}
	for o, err := range b.Bucket.List(ctx, prefix, "") {
		if err != nil {
			return err
		}
		list = append(list, o)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lists[prefix] = list
	return nil
}

func (b *mutant) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Object, error] {
	if b.m == marksUnread && prefix == "chunks_006/condemned/" {
		return func(func(storage.Object, error) bool) {}
	}
	if b.m == noRecheck && strings.HasPrefix(prefix, "chunks_006/packs/") {
		b.mu.Lock()
		known := b.lists[prefix]
		b.mu.Unlock()
		if len(known) == 0 {
			if err := b.remember(ctx, prefix); err != nil {
				return func(yield func(storage.Object, error) bool) { yield(storage.Object{}, err) }
			}
		}
	}
	b.mu.Lock()
	known, ok := b.lists[prefix]
	b.mu.Unlock()
	if !ok {
		return b.Bucket.List(ctx, prefix, after)
	}
	return func(yield func(storage.Object, error) bool) {
		for _, o := range known {
			if !yield(o, nil) {
				return
			}
		}
	}
}

func (b *mutant) Stat(ctx context.Context, key string) (storage.Attributes, error) {
	if b.m == noW6 && strings.HasSuffix(key, ".intent") || b.m == noWALCheck && strings.HasPrefix(key, "wal_006/") {
		return storage.Attributes{}, nil
	}
	if data, ok := b.waits(key); ok {
		return storage.Attributes{Object: storage.Object{Key: key, Size: int64(len(data))}}, nil
	}
	return b.Bucket.Stat(ctx, key)
}

func (b *mutant) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if b.m == blindRepair && strings.HasPrefix(key, chunkstore.PackFolder) {
		return io.NopCloser(bytes.NewReader(make([]byte, max(length, 0)))), nil
	}
	if b.m != noHorizon || !strings.HasPrefix(key, "chunks_006/condemned/") {
		return b.Bucket.Get(ctx, key, offset, length)
	}
	data, err := storage.ReadAll(ctx, b.Bucket, key, 1<<20)
	if err != nil {
		return nil, err
	}
	var m chunkstore.Mark
	if err := envelope.Decode(data, "condemned", 1, &m); err != nil {
		return nil, err
	}
	m.Horizons = nil
	if data, err = envelope.Encode("condemned", 1, m); err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

// A mutationCase is a protocol with a step left out, and within how many seeds
// the simulator must notice.
type mutationCase struct {
	name   string
	sc     scenario
	within uint64
}

func mutationCases() []mutationCase {
	gcCase := func(name string, skip gc.Skipped, within uint64) mutationCase {
		return mutationCase{name, scenario{skip: skip}, within}
	}
	sleepy := func(name string, skip gc.Skipped, within uint64) mutationCase {
		return mutationCase{name, scenario{skip: skip, sleepy: true}, within}
	}
	push := func(m mutation, within uint64) mutationCase {
		return mutationCase{string(m), scenario{client: m}, within}
	}
	copies := func(m mutation, within uint64, naps ...nap) mutationCase {
		return mutationCase{"copy: " + string(m), scenario{copier: m, copies: true, naps: naps}, within}
	}
	repair := func(m mutation, within uint64) mutationCase {
		return mutationCase{string(m), scenario{mender: m, copies: m == blindRepair, decay: true}, within}
	}
	return []mutationCase{
		push(intentLate, 500),
		push(marksUnread, 500),
		{string(marksEarly) + " (with W4a left out)", scenario{client: marksEarly, lenient: true, naps: []nap{beforeIntent, beforeOutcome}}, 3000},
		push(noRecheck, 500),
		push(noWALCheck, 500),
		push(deafToRace, 500),
		push(noW6, 500),
		{string(noHorizon), scenario{client: noHorizon, sleepy: true, naps: []nap{beforeWAL, beforeIntent}}, 3000},
		copies(intentNever, 1000, beforeCopy),
		copies(packsLate, 100),
		copies(marksUnread, 3000, beforePacks, beforeCopy),
		copies(deafToRace, 1000),
		repair(blindRepair, 500),
		repair(markDropped, 500),
		gcCase("G1 lists packs before runs", gc.Skipped{PacksFirst: true}, 500),
		gcCase("G1 spares packs of open pushes", gc.Skipped{OwnPacks: true}, 500),
		gcCase("G4 waits", gc.Skipped{Grace: true}, 500),
		gcCase("G4 fences by an outcome", gc.Skipped{Abort: true}, 500),
		gcCase("G5 lists anew", gc.Skipped{FreshList: true}, 500),
		gcCase("G5 reads backups that G1 didn't know", gc.Skipped{RereadAll: true}, 500),
		gcCase("fail closed", gc.Skipped{FailClosed: true}, 1500),
		{"G7 intent before outcome", scenario{skip: gc.Skipped{IntentFirst: true}, naps: []nap{beforeReap, beforeOutcome}}, 2500},
		gcCase("G7 tombstone last", gc.Skipped{TombstoneLast: true}, 500),
		{"condemnations are never taken back (with W4a left out)", scenario{
			skip: gc.Skipped{NoPardon: true}, lenient: true, script: scriptPacksLeft,
		}, 1},
		{
			"G7 marks only while no push is open (with W4a and the kept WAL horizon left out)",
			scenario{skip: gc.Skipped{SecondGrace: true, KeepHorizon: true}, lenient: true, script: scriptSecondGrace}, 1,
		},
		sleepy("G5 WAL horizon anew", gc.Skipped{HorizonFresh: true}, 1500),
		// The absence of these shows only when processes stop at certain places.
		{"G2 before G3 (with W4a left out)", scenario{
			skip: gc.Skipped{MarkFirst: true}, lenient: true,
			naps: []nap{beforeMark, beforeOutcome},
		}, 10000},
		{"G2 writes the WAL horizon", scenario{
			skip: gc.Skipped{HorizonMark: true}, sleepy: true,
			naps: []nap{longBeforeWAL, beforeIntent, beforeMarks},
		}, 10000},
		{"G7 keeps the highest WAL horizon", scenario{
			skip: gc.Skipped{KeepHorizon: true}, script: scriptReaped,
		}, 1},
		{"G7 keeps runs and marks of packs that are left (with W4a and the marks that outcomes keep left out)", scenario{
			skip: gc.Skipped{PacksGone: true, NamedPacks: true}, lenient: true, script: scriptPacksLeft,
		}, 1},
	}
}

// TestScripts makes sure that the whole protocol stands what the scripts do.
func TestScripts(t *testing.T) {
	t.Parallel()
	dir, store := simDir(t), newStore(t)
	for _, c := range mutationCases() {
		if c.sc.script == nil {
			continue
		}
		for seed := range uint64(10) {
			whole := scenario{script: c.sc.script, lenient: c.sc.lenient}
			s, failed := runSeed(t, seed, whole, dir, store)
			if failed != "" {
				t.Errorf("%s, seed %d: %s\n%s", c.name, seed, failed, strings.Join(s.w.Trace(), "\n"))
			}
		}
	}
}

func TestMutations(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it takes many seeds to miss a step")
	}
	for _, c := range mutationCases() {
		t.Run(c.name, func(t *testing.T) {
			seed, found := firstFailure(t, c)
			if found == "" {
				t.Errorf("%d seeds without %q, and nothing was noticed", c.within, c.name)
				return
			}
			t.Logf("seed %d: %s", seed, found)
		})
	}
}

// firstFailure returns the first seed, or nearly, that fails.
func firstFailure(t *testing.T, c mutationCase) (uint64, string) {
	t.Helper()
	var next, best atomic.Uint64
	best.Store(c.within)
	var mu sync.Mutex
	found := ""
	t.Run("seeds", func(t *testing.T) {
		for worker := range 3 * runtime.GOMAXPROCS(0) {
			t.Run(fmt.Sprint("worker", worker), func(t *testing.T) {
				t.Parallel()
				dir, store := simDir(t), newStore(t)
				for seed := next.Add(1) - 1; seed < best.Load(); seed = next.Add(1) - 1 {
					if _, failed := runSeed(t, seed, c.sc, dir, store); failed != "" {
						mu.Lock()
						if seed < best.Load() {
							best.Store(seed)
							found = failed
						}
						mu.Unlock()
					}
				}
			})
		}
	})
	return best.Load(), found
}

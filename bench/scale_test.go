package bench_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"wal-e/backup"
	"wal-e/chunkstore"
	"wal-e/index"
	"wal-e/internal/chunk"
	"wal-e/internal/envelope"
	"wal-e/internal/postgres"
	"wal-e/internal/runid"
	"wal-e/internal/storage"
)

const (
	scaleChunk   = 32 << 10 // bytes of each chunk
	scaleRecord  = 8        // chunks in a record
	scaleRecords = 512      // records in a pack
	scalePack    = scaleRecord * scaleRecords
	scaleFile    = 1 << 30 // bytes of each file, but the last
)

// BenchmarkScale measures what grows with the number of chunks: a push with no local
// index (Cold), a push that refers to all and stores nothing (Unchanged), and finding
// out where everything is that a restore needs (Plan). The chunks have names and places
// only, the lists of them and their index are real ones. WALE_BENCH_CHUNKS, such as
// 100000000, adds a size.
func BenchmarkScale(b *testing.B) {
	sizes := []int{100_000, 1_000_000, 10_000_000}
	if text := os.Getenv("WALE_BENCH_CHUNKS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < scalePack {
			b.Fatalf("WALE_BENCH_CHUNKS: %q is not a number from %d on", text, scalePack)
		}
		sizes = append(sizes, n)
	}
	for _, chunks := range sizes {
		b.Run(fmt.Sprintf("chunks=%d", chunks), func(b *testing.B) {
			s := newScale(b, chunks)
			b.Run("Cold", func(b *testing.B) { s.measure(b, s.cold) })
			s.warm(b)
			b.Run("Unchanged", func(b *testing.B) { s.measure(b, s.unchanged) })
			b.Run("Plan", func(b *testing.B) { s.measure(b, s.plan) })
		})
	}
}

// What the benchmark measures is right: all chunks are found, and a push that
// refers to them stores next to nothing and commits.
func TestScaleSmall(t *testing.T) {
	t.Parallel()
	s := newScale(t, 3*scalePack+7)
	for name, op := range map[string]func(testing.TB, storage.Bucket){"cold": s.cold, "unchanged": s.unchanged, "plan": s.plan} {
		t.Run(name, func(t *testing.T) { op(t, s.bucket) })
	}
}

// A scale is an archive with one backup of so many chunks.
type scale struct {
	chunks  int
	bucket  *scaleBucket
	files   []scaled
	outcome *chunkstore.Outcome
	path    string // of a table
	now     time.Time
	pushes  int
}

// A scaled is a file of the backup. Its lists are made when they are needed.
type scaled struct {
	content     chunkstore.Content
	nodes       []chunk.ID
	first, last int // chunks
}

// scaleID names the i-th chunk.
func scaleID(i int) (id chunk.ID) {
	mix := func(x uint64) uint64 {
		x ^= x >> 30
		x *= 0xbf58476d1ce4e5b9
		x ^= x >> 27
		x *= 0x94d049bb133111eb
		return x ^ x>>31
	}
	x := uint64(i)*0x9e3779b97f4a7c15 + 1
	binary.LittleEndian.PutUint64(id[:], mix(x))
	binary.LittleEndian.PutUint64(id[8:], mix(x^0x5bd1e995deadbeef))
	return id
}

// list is that of an extent.
func (f scaled) list(extent, perExtent int) (l chunkstore.List) {
	first := f.first + extent*perExtent
	for i := first; i < min(first+perExtent, f.last); i++ {
		l = append(l, chunkstore.Slice{ID: scaleID(i), Pages: scaleChunk / chunk.PageSize})
	}
	return l
}

func newScale(tb testing.TB, chunks int) *scale {
	tb.Helper()
	s := &scale{chunks: chunks, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), path: filepath.Join(tb.TempDir(), "table")}
	s.bucket = &scaleBucket{bucket: newBucket(func() time.Time { return s.now }), chunks: chunks}
	ctx := tb.Context()
	rnd := rand.NewChaCha8([32]byte{})
	id, err := runid.New(s.now, rnd)
	if err != nil {
		tb.Fatal(err)
	}
	s.bucket.run = id
	var footprint chunkstore.Footprint
	packs := (chunks + scalePack - 1) / scalePack
	for seq := range packs {
		p := index.PackID{Run: id, Seq: uint32(seq)}
		footprint.Add(p)
		s.bucket.put(chunkstore.PackKey(p), entry{size: int64(s.bucket.pack(seq).Size), time: s.now.UnixNano()})
		if seq%indexEvery == 0 {
			s.bucket.put(fmt.Sprintf("chunks_006/index/%s/%08d", id, seq/indexEvery), entry{size: int64(len(s.bucket.index(seq / indexEvery))), time: s.now.UnixNano()})
		}
	}
	s.put(tb, chunkstore.Ref{Name: scaleName(1), Run: id}, &chunkstore.Outcome{Result: chunkstore.Abort, System: system, Reason: "a synthetic run"}, true)

	s.now = s.now.Add(time.Hour)
	store := s.open(tb, s.bucket)
	p, err := store.Begin(ctx, chunkstore.PushConfig{Name: scaleName(2), Intent: s.intent(2), Now: func() time.Time { return s.now }})
	if err != nil {
		tb.Fatal(err)
	}
	s.addFiles(tb, store, p)
	if err := p.Flush(ctx); err != nil {
		tb.Fatal(err)
	}
	own := p.Footprint()
	footprint.Union(&own)
	manifest, err := json.Marshal(backup.Manifest{Version: 1, Name: scaleName(2), Kind: backup.Live, System: system, Timeline: 1, Started: s.now, Stopped: s.now, Root: chunk.ID{}.String()})
	if err != nil {
		tb.Fatal(err)
	}
	s.outcome = &chunkstore.Outcome{Result: chunkstore.Commit, System: system, Start: scaleStart(2).String(), Manifest: manifest, Footprint: footprint}
	s.put(tb, p.Ref(), s.outcome, false)
	s.pushes = 2
	s.now = s.now.Add(time.Hour)
	return s
}

// addFiles stores the lists of all files.
func (s *scale) addFiles(tb testing.TB, store *chunkstore.Store, p *chunkstore.Push) {
	tb.Helper()
	w, err := p.NewWriter()
	if err != nil {
		tb.Fatal(err)
	}
	perExtent := store.ExtentSize() / scaleChunk
	for first := 0; first < s.chunks; first += scaleFile / scaleChunk {
		f := scaled{first: first, last: min(first+scaleFile/scaleChunk, s.chunks)}
		for extent := 0; f.first+extent*perExtent < f.last; extent++ {
			id, err := w.ListNode(f.list(extent, perExtent))
			if err != nil {
				tb.Fatal(err)
			}
			f.nodes = append(f.nodes, id)
		}
		if f.content, err = w.Content(int64(f.last-f.first)*scaleChunk, nil, f.nodes); err != nil {
			tb.Fatal(err)
		}
		s.files = append(s.files, f)
	}
}

func scaleStart(no int) postgres.LSN { return postgres.LSN(uint64(no)*uint64(segmentSize) + 40) }

func scaleName(no int) string {
	return backup.Name(1, scaleStart(no), segmentSize)
}

func (s *scale) intent(no int) chunkstore.Intent {
	return chunkstore.Intent{Host: "db1", HostID: "1", PID: 1, Begun: s.now, System: system, Start: scaleStart(no).String()}
}

// put ends a run, which it begins where that is wanted.
func (s *scale) put(tb testing.TB, ref chunkstore.Ref, o *chunkstore.Outcome, begin bool) {
	tb.Helper()
	objects := map[string]any{ref.OutcomeKey(): o}
	if begin {
		objects[ref.IntentKey()] = s.intent(1)
	}
	for key, value := range objects {
		kind := map[bool]string{true: "outcome", false: "intent"}[key == ref.OutcomeKey()]
		data, err := envelope.Encode(kind, 1, value)
		if err != nil {
			tb.Fatal(err)
		}
		if err := s.bucket.Create(tb.Context(), key, bytes.NewReader(data), int64(len(data)), nil); err != nil {
			tb.Fatal(err)
		}
	}
}

func (s *scale) open(tb testing.TB, b storage.Bucket) *chunkstore.Store {
	tb.Helper()
	number, err := strconv.ParseUint(system, 10, 64)
	if err != nil {
		tb.Fatal(err)
	}
	prefix, err := chunkstore.Admit(tb.Context(), b, number, true)
	if err != nil {
		tb.Fatal(err)
	}
	store, err := chunkstore.New(b, prefix, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return store
}

// begin begins a push with the table at a path.
func (s *scale) begin(tb testing.TB, b storage.Bucket, path string) (*chunkstore.Push, *index.Table) {
	tb.Helper()
	store := s.open(tb, b)
	table, err := store.OpenTable(path)
	if err != nil {
		tb.Fatal(err)
	}
	s.pushes++
	p, err := store.Begin(tb.Context(), chunkstore.PushConfig{Name: scaleName(s.pushes), Intent: s.intent(s.pushes), Table: table, Now: func() time.Time { return s.now }})
	if err != nil {
		tb.Fatal(err)
	}
	return p, table
}

// cold begins a push without a table, and gives it up.
func (s *scale) cold(tb testing.TB, b storage.Bucket) {
	path := filepath.Join(tb.TempDir(), "cold")
	p, table := s.begin(tb, b, path)
	info, err := os.Stat(path)
	if err := errors.Join(err, p.Abort(tb.Context(), "measured"), table.Close()); err != nil {
		tb.Fatal(err)
	}
	if b, ok := tb.(*testing.B); ok {
		b.ReportMetric(float64(info.Size())/1e6, "table-MB")
	}
}

// warm brings the table of unchanged up to date, as the last push left it.
func (s *scale) warm(tb testing.TB) {
	p, table := s.begin(tb, s.bucket, s.path)
	if err := errors.Join(p.Abort(tb.Context(), "measured"), table.Close()); err != nil {
		tb.Fatal(err)
	}
}

// unchanged is a push in which no file is read.
func (s *scale) unchanged(tb testing.TB, b storage.Bucket) {
	p, table := s.begin(tb, b, s.path)
	perExtent := s.open(tb, b).ExtentSize() / scaleChunk
	var g errgroup.Group
	g.SetLimit(4)
	for _, f := range s.files {
		g.Go(func() error {
			w, err := p.NewWriter()
			if err != nil {
				return err
			}
			for i, node := range f.nodes {
				if id, ok := w.ReferList(f.list(i, perExtent), true); !ok || id != node {
					return fmt.Errorf("extent %d of chunks %d to %d is not known", i, f.first, f.last)
				}
			}
			if !w.ReferRoot(f.content, f.nodes) {
				return fmt.Errorf("the root of chunks %d to %d is not known", f.first, f.last)
			}
			return nil
		})
	}
	err := g.Wait()
	if err == nil {
		err = p.Commit(tb.Context(), json.RawMessage(s.outcome.Manifest))
	}
	if stats := p.Stats(); err == nil && stats.Stored > 1<<20 {
		err = fmt.Errorf("stored %d bytes, want next to none", stats.Stored)
	}
	if err := errors.Join(err, table.Close()); err != nil {
		tb.Fatal(err)
	}
}

// plan finds where each chunk is, as a restore does; it keeps nothing.
func (s *scale) plan(tb testing.TB, b storage.Bucket) {
	store := s.open(tb, b)
	table, err := store.OpenTable(filepath.Join(tb.TempDir(), "plan"))
	if err != nil {
		tb.Fatal(err)
	}
	r, err := store.NewReader(tb.Context(), &s.outcome.Footprint, table)
	if err != nil {
		tb.Fatal(err)
	}
	var mu sync.Mutex
	found := 0
	var g errgroup.Group
	g.SetLimit(4)
	for _, f := range s.files {
		g.Go(func() error {
			lists, err := r.Lists(tb.Context(), f.content)
			if err != nil {
				return err
			}
			n := 0
			for i := range f.content.Extents() {
				l, err := lists(tb.Context(), i)
				if err != nil {
					return err
				}
				if err := r.Locate(l, func(index.Location) { n++ }); err != nil {
					return err
				}
			}
			mu.Lock()
			defer mu.Unlock()
			found += n
			return nil
		})
	}
	if err := errors.Join(g.Wait(), table.Close()); err != nil {
		tb.Fatal(err)
	}
	if found != s.chunks {
		tb.Fatalf("found %d chunks, want %d", found, s.chunks)
	}
}

// measure reports what op takes, the first time.
func (s *scale) measure(b *testing.B, op func(testing.TB, storage.Bucket)) {
	counted := storage.Counted(s.bucket)
	heap := watchHeap()
	cpu, began := cpuTime(b), time.Now()
	for range b.N {
		op(b, counted)
	}
	n := counted.Counts()
	per := func(v float64) float64 { return v / float64(b.N) }
	b.ReportMetric(per(time.Since(began).Seconds()), "s")
	b.ReportMetric(per((cpuTime(b) - cpu).Seconds()), "cpu-s")
	b.ReportMetric(float64(heap.stop())/1e6, "peak-MB")
	b.ReportMetric(per(float64(n.Creates+n.Gets+n.Stats+n.Deletes)), "requests")
	b.ReportMetric(per(float64(n.BytesDown)/1e6), "read-MB")
	b.ReportMetric(per(float64(n.BytesUp)/1e6), "written-MB")
	b.ReportMetric(0, "ns/op")
}

// A scaleBucket keeps what it is given, and makes the index of a synthetic run when
// it is read. The packs of that run are listed only.
type scaleBucket struct {
	*bucket
	chunks int
	run    runid.ID
}

// pack is the directory of a synthetic pack.
func (s *scaleBucket) pack(seq int) index.Pack {
	p := index.Pack{Seq: uint32(seq)}
	offset := uint32(64)
	for first := seq * scalePack; first < min((seq+1)*scalePack, s.chunks); first += scaleRecord {
		r := index.Record{Offset: offset, Stored: 60_000}
		for i := first; i < min(first+scaleRecord, s.chunks); i++ {
			r.Chunks = append(r.Chunks, index.Chunk{ID: scaleID(i), Length: scaleChunk})
			r.Raw += scaleChunk
		}
		offset += r.Stored
		p.Records = append(p.Records, r)
	}
	p.Size = offset + 64
	return p
}

// index is an index object of the synthetic run.
func (s *scaleBucket) index(no int) []byte {
	var packs []index.Pack
	for seq := no * indexEvery; seq < (no+1)*indexEvery && seq*scalePack < s.chunks; seq++ {
		packs = append(packs, s.pack(seq))
	}
	return index.EncodeObject(packs)
}

// Create implements storage.Bucket.
func (s *scaleBucket) Create(ctx context.Context, key string, r io.Reader, size int64, meta storage.Meta) error {
	data, err := io.ReadAll(storage.ExactReader(ctx, r, size))
	if err != nil {
		return err
	}
	if !s.put(key, entry{size: size, time: s.now().UnixNano(), content: &content{data: data, meta: meta}}) {
		return fmt.Errorf("create %s: %w", key, storage.ErrExist)
	}
	return nil
}

// Get implements storage.Bucket.
func (s *scaleBucket) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if no, ok := strings.CutPrefix(key, fmt.Sprintf("chunks_006/index/%s/", s.run)); ok {
		n, err := strconv.Atoi(no)
		if err != nil {
			return nil, err
		}
		data := s.index(n)
		if length < 0 {
			length = int64(len(data))
		}
		return io.NopCloser(io.NewSectionReader(bytes.NewReader(data), offset, length)), nil
	}
	return s.bucket.Get(ctx, key, offset, length)
}

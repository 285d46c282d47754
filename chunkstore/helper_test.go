package chunkstore_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"wal-e/chunkstore"
	"wal-e/index"
	"wal-e/internal/chunk"
	"wal-e/internal/envelope"
	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
)

const (
	system = "7234567890123456789"
	// extent is small, so that small files have several.
	extent = 192 << 10
)

// testConfig is the config of a prefix with a known key.
func testConfig() *chunkstore.Prefix {
	return &chunkstore.Prefix{
		ID:       "00112233445566778899aabbccddeeff",
		Chunking: chunk.Params{Min: 24 << 10, Bits: 13, Max: 48 << 10, Extent: extent},
		DedupKey: strings.Repeat("0123456789abcdef", 4),
		Systems:  []string{system},
	}
}

// newBucket returns a bucket that holds a prefix.
func newBucket(t testing.TB) *mem.Bucket {
	t.Helper()
	b := mem.New(nil)
	put(t, b, "chunks_006/config/00000000", "config", testConfig())
	return b
}

// put creates an object of the archive's small kind.
func put(t testing.TB, b storage.Bucket, key, kind string, v any) {
	t.Helper()
	data, err := envelope.Encode(kind, 1, v)
	if err != nil {
		t.Fatal(err)
	}
	if err := storage.CreateBytes(t.Context(), b, key, data, nil); err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, b storage.Bucket) *chunkstore.Store {
	t.Helper()
	s, err := chunkstore.Open(t.Context(), b, nil)
	if err != nil {
		t.Fatalf("Open = %v", err)
	}
	return s
}

// A pusher pushes files the way backups do, a day apart.
type pusher struct {
	cfg  chunkstore.PushConfig
	path string // of the table; "" means to go without
	day  int
	ban  bool // store anew what went away
	// known is what the last push saw of each extent of each file, by number;
	// nil means that pushes don't look at it.
	known map[[2]int]chunkstore.Known
	// before runs before the commit.
	before func(*chunkstore.Push)
}

// newPusher returns a pusher with a table of its own and small packs.
func newPusher(t testing.TB) *pusher {
	t.Helper()
	return &pusher{cfg: chunkstore.PushConfig{PackSize: 128 << 10}, path: filepath.Join(t.TempDir(), "index.db")}
}

// manifest is what these tests commit. It proves itself.
type manifest struct{ Files []manifestFile }

type manifestFile struct {
	Content []byte
	Sum     [sha256.Size]byte
}

// push pushes files as the next day's backup.
func (p *pusher) push(ctx context.Context, s *chunkstore.Store, files ...[]byte) (run *chunkstore.Push, err error) {
	p.day++
	cfg := p.cfg
	cfg.Name = fmt.Sprintf("base_0000000100000000%08X_00000040", p.day)
	if cfg.Intent.Start == "" {
		cfg.Intent = chunkstore.Intent{System: system, Start: fmt.Sprintf("0/%X000028", p.day), Host: "db1"}
	}
	day := p.day
	cfg.Now = func() time.Time { return time.Date(2026, 1, day, 0, 0, 0, 0, time.UTC) }
	if p.path != "" {
		if cfg.Table, err = s.OpenTable(p.path); err != nil {
			return nil, err
		}
		defer func() { _ = cfg.Table.Close() }()
	}
	run, err = s.Begin(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if err := p.give(ctx, run, s, files); err != nil {
		return run, errors.Join(err, run.Abort(ctx, "test"))
	}
	return run, nil
}

// give stores the files and commits.
func (p *pusher) give(ctx context.Context, run *chunkstore.Push, s *chunkstore.Store, files [][]byte) error {
	m, err := p.store(run, s, files)
	if err != nil {
		return err
	}
	if p.before != nil {
		p.before(run)
	}
	if p.ban {
		bad, err := run.Unusable(ctx)
		if err != nil {
			return err
		}
		run.Ban(bad)
		if m, err = p.store(run, s, files); err != nil {
			return err
		}
	}
	return run.Commit(ctx, m)
}

func store(run *chunkstore.Push, s *chunkstore.Store, files [][]byte) (*manifest, error) {
	return (&pusher{}).store(run, s, files)
}

func (p *pusher) store(run *chunkstore.Push, s *chunkstore.Store, files [][]byte) (*manifest, error) {
	w, err := run.NewWriter()
	if err != nil {
		return nil, err
	}
	m := &manifest{}
	for i, f := range files {
		c, err := p.writeFile(w, s, i, f)
		if err != nil {
			return nil, err
		}
		m.Files = append(m.Files, manifestFile{chunkstore.AppendContent(nil, c), sha256.Sum256(f)})
	}
	return m, nil
}

// extent gives an extent of a file to a writer.
func (p *pusher) extent(w *chunkstore.Writer, file, i int, data []byte) (chunkstore.List, error) {
	if p.known == nil {
		return w.Extent(data)
	}
	k, err := w.ExtentAfter(data, p.known[[2]int{file, i}])
	p.known[[2]int{file, i}] = k
	return k.List, err
}

func (p *pusher) writeFile(w *chunkstore.Writer, s *chunkstore.Store, file int, data []byte) (chunkstore.Content, error) {
	size := int64(len(data))
	if size == 0 {
		return chunkstore.Content{}, nil
	}
	var first chunkstore.List
	var nodes []chunk.ID
	for len(data) > 0 {
		n := min(len(data), s.ExtentSize())
		l, err := p.extent(w, file, len(nodes), data[:n])
		if err != nil {
			return chunkstore.Content{}, err
		}
		if size <= int64(s.ExtentSize()) {
			first = l
			break
		}
		id, err := w.ListNode(l)
		if err != nil {
			return chunkstore.Content{}, err
		}
		nodes, data = append(nodes, id), data[n:]
	}
	return w.Content(size, first, nodes)
}

// mustPush pushes files and fails the test when that fails.
func (p *pusher) mustPush(t testing.TB, s *chunkstore.Store, files ...[]byte) *chunkstore.Push {
	t.Helper()
	run, err := p.push(t.Context(), s, files...)
	if err != nil {
		t.Fatalf("push of day %d = %v", p.day, err)
	}
	return run
}

// readBack reads a backup with a table at path and compares every file.
func readBack(ctx context.Context, s *chunkstore.Store, ref chunkstore.Ref, path string) error {
	o, err := chunkstore.ReadOutcome(ctx, s.Bucket(), ref)
	if err != nil {
		return err
	}
	body, err := s.OpenManifest(ref, o)
	if err != nil {
		return err
	}
	var m manifest
	if err := json.Unmarshal(body, &m); err != nil {
		return err
	}
	table, err := s.OpenTable(path)
	if err != nil {
		return err
	}
	defer func() { _ = table.Close() }()
	r, err := s.NewReader(ctx, &o.Footprint, table)
	if err != nil {
		return err
	}
	for i, f := range m.Files {
		c, rest, err := chunkstore.ParseContent(f.Content)
		if err != nil || len(rest) != 0 {
			return fmt.Errorf("content of file %d: %w, %d bytes follow", i, err, len(rest))
		}
		data, err := readFile(ctx, r, c)
		if err != nil {
			return fmt.Errorf("file %d: %w", i, err)
		}
		if sha256.Sum256(data) != f.Sum {
			return fmt.Errorf("file %d of %d bytes %w", i, c.Size, errWrong)
		}
	}
	return nil
}

// errWrong is the worst that can be: other bytes, and no error.
var errWrong = errors.New("has other bytes than were pushed")

func readFile(ctx context.Context, r *chunkstore.Reader, c chunkstore.Content) ([]byte, error) {
	lists, err := r.Lists(ctx, c)
	if err != nil {
		return nil, err
	}
	data := make([]byte, c.Size)
	rest := data
	for i := range c.Extents() {
		l, err := lists(ctx, i)
		if err != nil {
			return nil, err
		}
		n := len(rest)
		if c.Extent > 0 {
			n = min(n, int(c.Extent))
		}
		if err := r.Extent(ctx, l, rest[:n]); err != nil {
			return nil, err
		}
		rest = rest[n:]
	}
	return data, nil
}

// checkAll reads every valid backup of a bucket, and returns how many there are.
func checkAll(t testing.TB, b storage.Bucket) int {
	t.Helper()
	runs, err := chunkstore.Runs(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	s, n := open(t, b), 0
	for _, r := range runs {
		if !r.Ended() {
			continue
		}
		o, err := chunkstore.ReadOutcome(t.Context(), b, r.Ref)
		if err != nil {
			t.Fatal(err)
		}
		if o.Result != chunkstore.Commit {
			continue
		}
		n++
		if err := readBack(t.Context(), s, r.Ref, filepath.Join(t.TempDir(), "index.db")); err != nil {
			t.Errorf("backup %s: %v", r.Ref, err)
		}
	}
	return n
}

// keys lists the objects under a prefix.
func keys(t testing.TB, b storage.Bucket, prefix string) []string {
	t.Helper()
	var list []string
	for o, err := range b.List(t.Context(), prefix, "") {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, o.Key)
	}
	return list
}

// bytesUnder adds up the objects under a prefix.
func bytesUnder(t testing.TB, b storage.Bucket, prefix string) (n int64) {
	t.Helper()
	for o, err := range b.List(t.Context(), prefix, "") {
		if err != nil {
			t.Fatal(err)
		}
		n += o.Size
	}
	return n
}

func get(t testing.TB, b storage.Bucket, key string) []byte {
	t.Helper()
	data, err := storage.ReadAll(t.Context(), b, key, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// replace puts other bytes where an object is, which no store lets us do.
func replace(t testing.TB, b storage.Bucket, key string, data []byte) {
	t.Helper()
	if err := b.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if err := storage.CreateBytes(t.Context(), b, key, data, nil); err != nil {
		t.Fatal(err)
	}
}

func remove(t testing.TB, b storage.Bucket, keys ...string) {
	t.Helper()
	if err := b.Delete(t.Context(), keys...); err != nil {
		t.Fatal(err)
	}
}

// random returns n bytes that don't compress, the same for a seed.
func random(seed uint64, n int) []byte {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(b) // it has no errors
	return b
}

// text returns n bytes that compress well.
func text(seed uint64, n int) []byte {
	b := make([]byte, 0, n+64)
	for i := seed; len(b) < n; i++ {
		b = fmt.Appendf(b, "%d bottles of beer on the wall, %s\n", i, hex.EncodeToString([]byte{byte(i)}))
	}
	return b[:n]
}

// zeroed returns b with zeros from one byte to another.
func zeroed(b []byte, from, to int) []byte {
	b = slices.Clone(b)
	clear(b[from:to])
	return b
}

func packsOf(t testing.TB, b storage.Bucket, run *chunkstore.Push) []index.PackID {
	t.Helper()
	f := run.Footprint()
	var own []index.PackID
	for p := range f.All() {
		if p.Run == run.Ref().Run {
			own = append(own, p)
		}
	}
	return own
}

func equal(a, b []byte) bool { return bytes.Equal(a, b) }

// An alteredBucket gives other bytes for one object.
type alteredBucket struct {
	storage.Bucket
	key  string
	data []byte
}

func (b *alteredBucket) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if key != b.key {
		return b.Bucket.Get(ctx, key, offset, length)
	}
	data := b.data[min(offset, int64(len(b.data))):]
	if length >= 0 {
		data = data[:min(length, int64(len(data)))]
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

func (b *alteredBucket) Stat(ctx context.Context, key string) (storage.Attributes, error) {
	a, err := b.Bucket.Stat(ctx, key)
	if err == nil && key == b.key {
		a.Size = int64(len(b.data))
	}
	return a, err
}

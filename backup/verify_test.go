package backup

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
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
	"wal-e/internal/postgres"
	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
	"wal-e/internal/storage/storagetest"
)

const testSystem = 7234567890123456789

// A fakeCluster is files to back up without a server.
type fakeCluster struct {
	bucket *mem.Bucket
	store  *chunkstore.Store
	files  map[string][]byte
	lsn    postgres.LSN
	clock  time.Time
}

func newFakeCluster(t *testing.T) *fakeCluster {
	t.Helper()
	c := &fakeCluster{bucket: mem.New(nil), files: make(map[string][]byte), lsn: 0x4000028, clock: time.Date(2026, 5, 1, 2, 0, 0, 0, time.UTC)}
	p, err := chunkstore.Admit(t.Context(), c.bucket, testSystem, false)
	if err != nil {
		t.Fatal(err)
	}
	if c.store, err = chunkstore.New(c.bucket, p, nil); err != nil {
		t.Fatal(err)
	}
	for i := range 600 {
		c.files[fmt.Sprintf("base/5/%d", 1000+i)] = random(uint64(i), 100+i*40)
	}
	c.files["base/5/16384"] = random(16384, 9<<20+5)
	c.files["base/5/16385"] = make([]byte, 1<<20)
	c.files["empty"] = nil
	return c
}

func random(seed uint64, n int) []byte {
	b := make([]byte, n)
	var key [32]byte
	key[0], key[1], key[2] = byte(seed), byte(seed>>8), byte(seed>>16)
	_, _ = rand.NewChaCha8(key).Read(b) // it has no errors
	return b
}

// push takes a backup and commits it, with index tables in dir.
func (c *fakeCluster) push(t *testing.T, dir string, change func(*Manifest)) chunkstore.Ref {
	t.Helper()
	p, m := c.begin(t, dir)
	if change != nil {
		change(m)
	}
	if err := p.Commit(t.Context(), m); err != nil {
		t.Fatalf("Commit = %v", err)
	}
	return p.Ref()
}

// begin takes a backup up to its commit.
func (c *fakeCluster) begin(t *testing.T, dir string) (*chunkstore.Push, *Manifest) {
	t.Helper()
	table, err := c.store.OpenTable(filepath.Join(dir, "index.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = table.Close() })
	const segment = postgres.DefaultSegmentSize
	now := c.clock // uploads ask while the cluster moves on
	name := fmt.Sprintf("base_%s_%08d", postgres.SegmentAt(1, c.lsn, segment).Name(segment), segment.Offset(c.lsn))
	p, err := c.store.Begin(t.Context(), chunkstore.PushConfig{
		Name: name, Table: table, PackSize: 1 << 20,
		Intent: chunkstore.Intent{System: fmt.Sprint(testSystem), Start: c.lsn.String()},
		Now:    func() time.Time { return now },
	})
	if err != nil {
		t.Fatalf("Begin = %v", err)
	}
	m := c.copy(t, p)
	m.Name, m.StartLSN, m.StopLSN = name, c.lsn.String(), (c.lsn + 3*16<<20).String()
	c.lsn += 16 << 20
	c.clock = c.clock.Add(24 * time.Hour)
	m.Stopped = c.clock
	if err := table.Close(); err != nil {
		t.Fatal(err)
	}
	// A commit asks the closed table for sizes only, which it has in memory.
	return p, m
}

func (c *fakeCluster) copy(t *testing.T, p *chunkstore.Push) *Manifest {
	t.Helper()
	w, err := p.NewWriter()
	if err != nil {
		t.Fatal(err)
	}
	b := &tableBuilder{writer: w}
	for _, path := range slices.Sorted(maps.Keys(c.files)) {
		if err := b.add(c.entry(t, w, path, c.files[path])); err != nil {
			t.Fatal(err)
		}
	}
	root, err := b.finish()
	if err != nil {
		t.Fatal(err)
	}
	control := c.entry(t, w, "global/pg_control", random(1, 8192))
	return &Manifest{
		Version: 1, Kind: Live, System: fmt.Sprint(testSystem), Timeline: 1, SegmentSize: 16 << 20,
		Root: root.String(), Control: appendEntry(nil, control),
		Files: b.files + 1, Bytes: b.bytes + 8192, Host: "db1",
		Push: PushReport{New: p.Stats().New},
	}
}

func (c *fakeCluster) entry(t *testing.T, w *chunkstore.Writer, path string, data []byte) Entry {
	t.Helper()
	e := Entry{Path: path, Type: File, Mode: 0o600, CRC: crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli))}
	var first chunkstore.List
	var nodes []([16]byte)
	size := c.store.ExtentSize()
	for rest := data; len(rest) > 0; rest = rest[min(size, len(rest)):] {
		l, err := w.Extent(rest[:min(size, len(rest))])
		if err != nil {
			t.Fatal(err)
		}
		if len(data) <= size {
			first = l
			break
		}
		id, err := w.ListNode(l)
		if err != nil {
			t.Fatal(err)
		}
		nodes = append(nodes, id)
	}
	e.Content = content(t, w, int64(len(data)), first, nodes)
	return e
}

func content(t *testing.T, w *chunkstore.Writer, size int64, first chunkstore.List, nodes [][16]byte) chunkstore.Content {
	t.Helper()
	ids := make([]chunk.ID, len(nodes))
	for i, n := range nodes {
		ids[i] = n
	}
	c, err := w.Content(size, first, ids)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// verify runs Verify without an error but ErrProblems.
func (c *fakeCluster) verify(t *testing.T, cfg VerifyConfig) *VerifyReport {
	t.Helper()
	cfg.TempDir = t.TempDir()
	if cfg.Bucket == nil {
		cfg.Bucket = c.bucket
	}
	r, err := Verify(t.Context(), cfg)
	if err != nil && !errors.Is(err, ErrProblems) {
		t.Fatalf("Verify = %v, want nil or %v", err, ErrProblems)
	}
	if (err != nil) != (len(r.Problems) > 0 && !r.Mended) {
		t.Errorf("Verify = %v with %d problems", err, len(r.Problems))
	}
	return r
}

func (c *fakeCluster) keys(t *testing.T, prefix string) []string {
	t.Helper()
	var keys []string
	for o, err := range c.bucket.List(t.Context(), prefix, "") {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, o.Key)
	}
	return keys
}

// replace puts other bytes where an object is.
func (c *fakeCluster) replace(t *testing.T, key string, change func([]byte) []byte) {
	t.Helper()
	b, err := storage.ReadAll(t.Context(), c.bucket, key, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.bucket.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if err := storage.CreateBytes(t.Context(), c.bucket, key, change(slices.Clone(b)), nil); err != nil {
		t.Fatal(err)
	}
}

func TestVerifySound(t *testing.T) {
	t.Parallel()
	c, dir := newFakeCluster(t), t.TempDir()
	c.push(t, dir, nil)
	c.files["base/5/1001"] = random(77, 5000)
	c.push(t, dir, nil)
	open, _ := c.begin(t, t.TempDir()) // never ends
	if err := open.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	var asked []string
	r := c.verify(t, VerifyConfig{
		ReadData: true,
		MissingWAL: func(_ context.Context, system string, names []string) ([]string, error) {
			asked = names
			return nil, nil
		},
		ReadWAL: func(context.Context, string, string) (damage, err error) { return nil, nil },
	})
	if len(r.Problems) != 0 || len(r.Warnings) != 0 {
		t.Fatalf("Verify found problems %v, warnings %v", r.Problems, r.Warnings)
	}
	if len(r.Backups) != 2 || !r.Backups[0].OK || r.Backups[0].Files != int64(len(c.files))+1 {
		t.Errorf("backups = %+v, want 2 of %d files", r.Backups, len(c.files)+1)
	}
	if r.ReadPacks != r.Packs || r.ReadBytes != r.PackBytes || r.Packs < 10 {
		t.Errorf("read %d packs of %d, %d bytes of %d", r.ReadPacks, r.Packs, r.ReadBytes, r.PackBytes)
	}
	// The second backup begins a segment after the first: 4 to 7 and 5 to 8.
	if len(asked) != 5 || r.WAL != 5 || r.ReadWAL != 5 {
		t.Errorf("asked for WAL %v, reported %d and %d read", asked, r.WAL, r.ReadWAL)
	}
	if len(r.Open) != 1 || r.Open[0].Run != open.Ref().Run {
		t.Errorf("open runs = %v, want %s", r.Open, open.Ref())
	}
	if r.Orphans == nil || r.Orphans.Bytes == 0 && r.Orphans.Packs != 0 {
		t.Errorf("orphans = %+v", r.Orphans)
	}
}

func TestVerifyMissingPack(t *testing.T) {
	t.Parallel()
	for _, withIndex := range []bool{true, false} {
		c, dir := newFakeCluster(t), t.TempDir()
		first := c.push(t, dir, nil)
		second := c.push(t, dir, nil)
		packs := c.keys(t, "chunks_006/packs/"+first.Run.String())
		if err := c.bucket.Delete(t.Context(), packs[1]); err != nil {
			t.Fatal(err)
		}
		if !withIndex {
			if err := c.bucket.Delete(t.Context(), c.keys(t, "chunks_006/index/")...); err != nil {
				t.Fatal(err)
			}
		}
		for _, read := range []bool{false, true} {
			r := c.verify(t, VerifyConfig{ReadData: read})
			i := slices.IndexFunc(r.Problems, func(p Problem) bool { return p.Object == packs[1] })
			if i < 0 {
				t.Fatalf("Verify without pack %s: problems are %v", packs[1], r.Problems)
			}
			p := r.Problems[i]
			if !slices.Contains(p.Backups, first.String()) || !slices.Contains(p.Backups, second.String()) {
				t.Errorf("backups concerned = %v, want %s and %s", p.Backups, first, second)
			}
			if withIndex && (len(r.Problems) != 1 || p.FileCount == 0 || len(p.Files) == 0) {
				t.Errorf("problems = %+v, want one with files", r.Problems)
			}
			if r.Backups[0].OK || r.Backups[1].OK {
				t.Errorf("backups = %+v, want none ok", r.Backups)
			}
		}
	}
}

func TestVerifyAlteredPack(t *testing.T) {
	t.Parallel()
	c, dir := newFakeCluster(t), t.TempDir()
	ref := c.push(t, dir, nil)
	key := c.keys(t, "chunks_006/packs/"+ref.Run.String())[0]
	c.replace(t, key, func(b []byte) []byte { b[len(b)/2] ^= 4; return b })
	if r := c.verify(t, VerifyConfig{}); len(r.Problems) != 0 {
		t.Logf("found without reading: %v", r.Problems) // a node was hit
	}
	r := c.verify(t, VerifyConfig{ReadData: true})
	if len(r.Problems) != 1 || r.Problems[0].Object != key || r.Problems[0].FileCount == 0 {
		t.Fatalf("problems = %+v, want one of %s with files", r.Problems, key)
	}
	// Only files with a chunk in the bad record are concerned.
	if n := r.Problems[0].FileCount; n > 100 {
		t.Errorf("%d files are concerned", n)
	}
	c.replace(t, key, func(b []byte) []byte { return b[:len(b)-1] })
	r = c.verify(t, VerifyConfig{})
	if len(r.Problems) != 1 || r.Problems[0].Object != key || !strings.Contains(r.Problems[0].Text, "bytes") {
		t.Errorf("problems of a truncated pack = %+v", r.Problems)
	}
}

func TestVerifyAlteredIndex(t *testing.T) {
	t.Parallel()
	c, dir := newFakeCluster(t), t.TempDir()
	c.push(t, dir, nil)
	key := c.keys(t, "chunks_006/index/")[0]
	c.replace(t, key, func(b []byte) []byte { b[30] ^= 1; return b })
	r := c.verify(t, VerifyConfig{ReadData: true})
	if len(r.Problems) != 0 || len(r.Warnings) != 1 || r.Warnings[0].Object != key {
		t.Errorf("problems = %v, warnings = %v, want one warning of %s", r.Problems, r.Warnings, key)
	}
	// An index that is whole but lies.
	c.replace(t, key, func([]byte) []byte {
		p := c.keys(t, "chunks_006/packs/")[0]
		a, err := c.bucket.Stat(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		return index.EncodeObject([]index.Pack{{Seq: 0, Size: uint32(a.Size)}})
	})
	r = c.verify(t, VerifyConfig{ReadData: true})
	if !slices.ContainsFunc(r.Problems, func(p Problem) bool { return p.Object == key }) {
		t.Errorf("problems = %v, want one of %s", r.Problems, key)
	}
}

func TestVerifyDamagedOutcome(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func([]byte) []byte{
		"truncated": func(b []byte) []byte { return b[:len(b)/2] },
		"empty":     func(b []byte) []byte { return nil },
		"flipped":   func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"manifest": func([]byte) []byte {
			b, _ := envelope.Encode("outcome", 1, map[string]any{"result": "commit", "manifest": "x"})
			return b
		},
		"newer manifest": func([]byte) []byte {
			b, _ := envelope.Encode("outcome", 1, map[string]any{"result": "commit", "manifest": map[string]any{"version": 9}})
			return b
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, dir := newFakeCluster(t), t.TempDir()
			bad := c.push(t, dir, nil)
			good := c.push(t, dir, nil)
			key := "basebackups_006/" + bad.Name + "/" + bad.Run.String() + ".outcome"
			c.replace(t, key, change)
			r := c.verify(t, VerifyConfig{ReadData: true})
			if len(r.Problems) != 1 || r.Problems[0].Object != key || r.Orphans != nil {
				t.Errorf("problems = %+v, orphans = %v, want one of %s and none known", r.Problems, r.Orphans, key)
			}
			if len(r.Backups) != 1 || !r.Backups[0].OK || r.Backups[0].Run != good.Run {
				t.Errorf("backups = %+v, want %s", r.Backups, good)
			}
			list, err := List(t.Context(), c.bucket, "")
			if err == nil || !strings.Contains(err.Error(), key) || len(list) != 1 {
				t.Errorf("List = %d backups, %v", len(list), err)
			}
		})
	}
}

func TestVerifyManifestTotals(t *testing.T) {
	t.Parallel()
	c := newFakeCluster(t)
	ref := c.push(t, t.TempDir(), func(m *Manifest) { m.Bytes++ })
	r := c.verify(t, VerifyConfig{})
	if len(r.Problems) != 1 || !strings.Contains(r.Problems[0].Object, ref.Run.String()) {
		t.Errorf("problems = %+v, want one of %s", r.Problems, ref)
	}
}

// What goes with a backup that is deleted while it is verified is no damage to it,
// but is to those that stay.
func TestVerifyBesideDelete(t *testing.T) {
	t.Parallel()
	c := newFakeCluster(t)
	deleted := c.push(t, t.TempDir(), nil)
	stays := c.push(t, t.TempDir(), nil)
	first := true
	r := c.verify(t, VerifyConfig{
		MissingWAL: func(ctx context.Context, _ string, names []string) ([]string, error) {
			if first {
				if err := chunkstore.CreateTombstone(ctx, c.bucket, deleted, chunkstore.Tombstone{}); err != nil {
					t.Fatal(err)
				}
			}
			first = false
			return names, nil
		},
	})
	if len(r.Problems) == 0 {
		t.Errorf("no problems, want those of %s", stays)
	}
	for _, p := range r.Problems {
		if !slices.Equal(p.Backups, []string{stays.String()}) {
			t.Errorf("problem %+v, want those of %s alone", p, stays)
		}
	}
	if len(r.Backups) != 1 || r.Backups[0].Run != stays.Run || r.Backups[0].OK {
		t.Errorf("backups = %+v, want %s, damaged", r.Backups, stays)
	}
	r = c.verify(t, VerifyConfig{
		MissingWAL: func(ctx context.Context, _ string, names []string) ([]string, error) {
			return names, chunkstore.CreateTombstone(ctx, c.bucket, stays, chunkstore.Tombstone{})
		},
	})
	if len(r.Problems) != 0 || len(r.Backups) != 0 {
		t.Errorf("problems = %+v, backups %+v, want none: all were deleted", r.Problems, r.Backups)
	}
}

func TestVerifyWAL(t *testing.T) {
	t.Parallel()
	c := newFakeCluster(t)
	ref := c.push(t, t.TempDir(), nil)
	r := c.verify(t, VerifyConfig{
		ReadData: true,
		MissingWAL: func(_ context.Context, system string, names []string) ([]string, error) {
			if system != fmt.Sprint(testSystem) {
				t.Errorf("system is %s", system)
			}
			return names[1:2], nil
		},
		ReadWAL: func(_ context.Context, _, name string) (damage, err error) {
			if strings.HasSuffix(name, "6") {
				return errors.New("other bytes"), nil
			}
			return nil, nil
		},
	})
	if len(r.Problems) != 2 || !slices.Contains(r.Problems[0].Backups, ref.String()) {
		t.Fatalf("problems = %+v, want a missing and an altered segment", r.Problems)
	}
	unreachable := errors.New("unreachable")
	_, err := Verify(t.Context(), VerifyConfig{
		Bucket: c.bucket, ReadData: true, TempDir: t.TempDir(),
		MissingWAL: func(context.Context, string, []string) ([]string, error) { return nil, nil },
		ReadWAL:    func(context.Context, string, string) (damage, err error) { return nil, unreachable },
	})
	if !errors.Is(err, unreachable) || errors.Is(err, ErrProblems) {
		t.Errorf("Verify of WAL that can't be read = %v, want %v", err, unreachable)
	}
	if !strings.Contains(r.Problems[0].Object, "000000010000000000000005") || !strings.Contains(r.Problems[1].Text, "other bytes") {
		t.Errorf("problems = %+v", r.Problems)
	}
}

func TestVerifyQuery(t *testing.T) {
	t.Parallel()
	c, dir := newFakeCluster(t), t.TempDir()
	if r := c.verify(t, VerifyConfig{}); len(r.Backups) != 0 {
		t.Errorf("backups of an empty archive = %v", r.Backups)
	}
	first := c.push(t, dir, nil)
	c.push(t, dir, nil)
	for _, q := range []string{first.Name, first.String()} {
		r := c.verify(t, VerifyConfig{Query: q, ReadData: true})
		if len(r.Backups) != 1 || r.Backups[0].Run != first.Run || r.Orphans != nil {
			t.Errorf("Verify(%q): backups = %v, orphans = %v", q, r.Backups, r.Orphans)
		}
	}
	_, err := Verify(t.Context(), VerifyConfig{Bucket: c.bucket, Query: "base_000000090000000000000004_00000040"})
	if !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Verify of a backup that isn't there = %v, want %v", err, storage.ErrNotExist)
	}
	if _, err := Verify(t.Context(), VerifyConfig{Bucket: c.bucket, Query: "yesterday"}); !errors.Is(err, ErrBadQuery) {
		t.Errorf("Verify(yesterday) = %v, want %v", err, ErrBadQuery)
	}
	if _, err := Verify(t.Context(), VerifyConfig{Bucket: mem.New(nil)}); err != nil {
		t.Errorf("Verify of an empty bucket = %v, want nil", err)
	}
}

// TestVerifyFailingStore fails each call in turn: Verify must never call an
// archive sound that it couldn't read.
func TestVerifyFailingStore(t *testing.T) {
	t.Parallel()
	c := newFakeCluster(t)
	delete(c.files, "base/5/16384") // fewer calls
	c.push(t, t.TempDir(), nil)
	counted := storagetest.NewFaulty(c.bucket, storagetest.Fault{})
	c.verify(t, VerifyConfig{Bucket: counted, ReadData: true, Workers: 1})
	step := 1
	if testing.Short() {
		step = 5
	}
	for n := 1; n <= counted.Calls(); n += step {
		for _, mode := range []storagetest.Mode{storagetest.FailBefore, storagetest.FailFrom, storagetest.BreakBody} {
			b := storagetest.NewFaulty(c.bucket, storagetest.Fault{Call: n, Mode: mode})
			r, err := Verify(t.Context(), VerifyConfig{Bucket: b, ReadData: true, Workers: 1, TempDir: t.TempDir()})
			if mode != storagetest.BreakBody && err == nil || errors.Is(err, ErrProblems) {
				t.Errorf("Verify with call %d in mode %s = %v, problems %+v, want the injected error", n, mode, err, r.Problems)
			}
		}
	}
}

func TestVerifyCancelled(t *testing.T) {
	t.Parallel()
	c := newFakeCluster(t)
	delete(c.files, "base/5/16384") // fewer calls
	c.push(t, t.TempDir(), nil)
	for n := 1; n < 60; n += 7 {
		ctx, cancel := context.WithCancel(t.Context())
		b := storagetest.NewFaulty(c.bucket, storagetest.Fault{Before: func(i int, _, _ string) {
			if i == n {
				cancel()
			}
		}})
		if _, err := Verify(ctx, VerifyConfig{Bucket: b, ReadData: true, TempDir: t.TempDir()}); !errors.Is(err, context.Canceled) && b.Calls() >= n {
			t.Errorf("Verify cancelled at call %d = %v, want %v", n, err, context.Canceled)
		}
		cancel()
	}
}

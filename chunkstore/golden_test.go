package chunkstore_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"wal-e/chunkstore"
	"wal-e/index"
	"wal-e/internal/chunk"
	"wal-e/internal/runid"
	"wal-e/internal/storage"
)

var update = flag.Bool("update", false, "write the golden files anew")

// What the golden packs hold. docs/format.md shows the first byte by byte.
func goldenPage() []byte {
	return bytes.Repeat([]byte("wal-e archives PostgreSQL. Page "), chunk.PageSize/32)
}

func goldenNode() []byte { return []byte{0x01, 0x02, 0x03} }

// writeGolden pushes data and a node, and returns the pack and the index object
// that came of it.
func writeGolden(t *testing.T, data []byte) (pack, indexObject []byte) {
	t.Helper()
	b := newBucket(t)
	run, err := open(t, b).Begin(t.Context(), chunkstore.PushConfig{
		Name: "base_000000010000000000000001_00000040", Intent: chunkstore.Intent{System: system, Start: "0/1000028"},
	})
	if err != nil {
		t.Fatal(err)
	}
	w, err := run.NewWriter()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Extent(data); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Node(goldenNode()); err != nil {
		t.Fatal(err)
	}
	if err := run.Commit(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	return get(t, b, keys(t, b, "chunks_006/packs/")[0]), get(t, b, keys(t, b, "chunks_006/index/")[0])
}

func golden(t *testing.T, name string, data []byte) []byte {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return want
}

// TestGolden reads what version 1 wrote, and writes it as version 1 did.
func TestGolden(t *testing.T) {
	t.Parallel()
	raw := random(6, 40)
	for _, tt := range []struct {
		name string
		data []byte
		same bool // what is written doesn't depend on zstd's encoder
	}{{"zstd", goldenPage(), false}, {"raw", raw, true}} {
		pack, object := writeGolden(t, tt.data)
		goldPack, goldObject := golden(t, tt.name+".pack.v1", pack), golden(t, tt.name+".index.v1", object)
		if tt.same && (!equal(pack, goldPack) || !equal(object, goldObject)) {
			t.Errorf("%s: the pack or the index object isn't written as in version 1", tt.name)
		}
		if len(object) != len(goldObject) {
			t.Errorf("%s: index object of %d bytes, want %d", tt.name, len(object), len(goldObject))
		}
		readGolden(t, tt.data, goldPack, nil)
		readGolden(t, tt.data, goldPack, goldObject)
	}
}

// readGolden reads a golden pack, with the index object or without.
func readGolden(t *testing.T, data, pack, object []byte) {
	t.Helper()
	b := newBucket(t)
	p := index.PackID{Run: runid.ID{1}}
	create := func(key string, data []byte) {
		if err := storage.CreateBytes(t.Context(), b, key, data, nil); err != nil {
			t.Fatal(err)
		}
	}
	create(chunkstore.PackKey(p), pack)
	if object != nil {
		create("chunks_006/index/"+p.Run.String()+"/00000000", object)
	}
	s := open(t, b)
	table, err := s.OpenTable(filepath.Join(t.TempDir(), "index.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	f := footprintOf(p)
	r, err := s.NewReader(t.Context(), &f, table)
	if err != nil {
		t.Fatal(err)
	}
	if node, err := r.Node(t.Context(), s.ID(goldenNode())); err != nil || !equal(node, goldenNode()) {
		t.Errorf("Node = %x, %v, want %x", node, err, goldenNode())
	}
	got := make([]byte, len(data))
	if err := r.Extent(t.Context(), chunkstore.List{{ID: s.ID(data), Pages: 1}}, got); err != nil || !equal(got, data) {
		t.Errorf("Extent = %v, or other bytes", err)
	}
	found := 0
	if _, err := s.CheckPack(t.Context(), p, int64(len(pack)), func(index.Record, error) { found++ }); err != nil || found != 0 {
		t.Errorf("CheckPack = %d bad records, %v", found, err)
	}
}

// TestGoldenIDs holds the ids: other ones would make every chunk new.
func TestGoldenIDs(t *testing.T) {
	t.Parallel()
	s := open(t, newBucket(t))
	for _, tt := range []struct {
		data []byte
		want string
	}{
		{nil, "418e0d26b8e76ee76dfc1d0836935eb2"},
		{[]byte("wal-e"), "32d0a99be837845e061294d1a5df7878"},
		{goldenPage(), "b557707890e7712582a90c00c07dfd02"},
		{bytes.Repeat(goldenPage(), 2)[:chunk.PageSize+1], "455c5e7b6522c2dad24ce28653d5991a"},
	} {
		if got := s.ID(tt.data).String(); got != tt.want {
			t.Errorf("id of %d bytes = %s, want %s", len(tt.data), got, tt.want)
		}
	}
}

package backup

import (
	"bytes"
	"cmp"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"wal-e/chunkstore"
	"wal-e/internal/chunk"
	"wal-e/internal/envelope"
	"wal-e/internal/postgres"
	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
)

// An archive is a bucket with backups of clusters that no server ever ran.
type archive struct {
	bucket *mem.Bucket
	store  *chunkstore.Store
	table  string
	clock  time.Time
	pack   int // size of packs; 0 means 256 KiB
}

// fetchExtent is small, so that small files have several extents.
const fetchExtent = 192 << 10

func newArchive(t *testing.T) *archive {
	t.Helper()
	a := &archive{bucket: mem.New(nil), table: filepath.Join(t.TempDir(), "index.db"), clock: time.Date(2026, 5, 1, 2, 0, 0, 0, time.UTC)}
	config, err := envelope.Encode("config", 1, &chunkstore.Prefix{
		ID:       "00112233445566778899aabbccddeeff",
		Chunking: chunk.Params{Min: 24 << 10, Bits: 13, Max: 48 << 10, Extent: fetchExtent},
		DedupKey: strings.Repeat("0123456789abcdef", 4),
		Systems:  []string{fmt.Sprint(testSystem)},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := storage.CreateBytes(t.Context(), a.bucket, "chunks_006/config/00000000", config, nil); err != nil {
		t.Fatal(err)
	}
	if a.store, err = chunkstore.Open(t.Context(), a.bucket, nil); err != nil {
		t.Fatal(err)
	}
	return a
}

// A cluster is what a backup holds.
type cluster struct {
	files   map[string][]byte
	dirs    map[string]fs.FileMode
	links   map[string]string
	control []byte
	change  func(*Manifest) // what the manifest says otherwise
	start   postgres.LSN
	order   []string // of the table; nil: as a walk
}

// newCluster returns a small cluster of PostgreSQL 15 with a tablespace.
func newCluster() *cluster {
	c := &cluster{
		files: map[string][]byte{
			"PG_VERSION":             []byte("15\n"),
			"base/5/PG_VERSION":      []byte("15\n"),
			"base/5/112":             random(112, 8192),
			"base/5/2619":            random(2619, 3*fetchExtent+8192+5),
			"base/5/2620":            make([]byte, 2*fetchExtent),
			"base/5/2621":            sparse(2621, 5*8192, 9*8192, 40*8192),
			"base/5/empty":           nil,
			"global/1262":            random(1262, 2*8192),
			"postgresql.conf":        []byte("max_connections = 20\narchive_mode = on\narchive_command = 'x'\n"),
			"postgresql.auto.conf":   []byte("# by ALTER SYSTEM\nrecovery_target_xid = '4711'\n"),
			"pg_hba.conf":            []byte("local all all trust\n"),
			"pg_xact/0000":           random(7, 8192),
			"global/pg_filenode.map": random(8, 512),
			"pg_tblspc/16390/PG_15_202209061/5/16391": random(16391, fetchExtent+8192),
		},
		dirs: map[string]fs.FileMode{
			"base": 0o700, "base/5": 0o700, "global": 0o700, "pg_wal": 0o700, "pg_wal/archive_status": 0o700,
			"pg_tblspc": 0o700, "pg_xact": 0o700, "pg_replslot": 0o700,
			"pg_tblspc/16390/PG_15_202209061": 0o700, "pg_tblspc/16390/PG_15_202209061/5": 0o700,
		},
		links:   map[string]string{"pg_tblspc/16390": "/nowhere/fast"},
		control: random(99, 8192),
		start:   0x4000028,
	}
	return c
}

// sparse returns n bytes with a run of zeros from one byte to another.
func sparse(seed uint64, from, to, n int) []byte {
	b := random(seed, n)
	clear(b[from:to])
	return b
}

// without removes tablespaces.
func (c *cluster) withoutSpaces() *cluster {
	c.links = nil
	maps.DeleteFunc(c.files, func(p string, _ []byte) bool { return strings.HasPrefix(p, "pg_tblspc/") })
	maps.DeleteFunc(c.dirs, func(p string, _ fs.FileMode) bool { return strings.HasPrefix(p, "pg_tblspc/") })
	return c
}

// push stores a backup and returns it as Find does.
func (a *archive) push(t *testing.T, c *cluster) *Backup {
	t.Helper()
	table, err := a.store.OpenTable(a.table)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = table.Close() }()
	name := Name(1, c.start, postgres.DefaultSegmentSize)
	now := a.clock // uploads ask while the archive moves on
	p, err := a.store.Begin(t.Context(), chunkstore.PushConfig{
		Name: name, Table: table, PackSize: cmp.Or(a.pack, 256<<10),
		Intent: chunkstore.Intent{System: fmt.Sprint(testSystem), Start: c.start.String()},
		Now:    func() time.Time { return now },
	})
	if err != nil {
		t.Fatal(err)
	}
	m := a.manifest(t, c, p)
	m.Name = name
	a.clock = a.clock.Add(24 * time.Hour)
	if c.change != nil {
		c.change(m)
	}
	if err := p.Commit(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	return a.find(t, p.Ref().String())
}

func (a *archive) find(t *testing.T, query string) *Backup {
	t.Helper()
	b, err := Find(t.Context(), FindConfig{Bucket: a.bucket, Query: query})
	if err != nil {
		t.Fatalf("Find(%s) = %v", query, err)
	}
	return b
}

func (a *archive) manifest(t *testing.T, c *cluster, p *chunkstore.Push) *Manifest {
	t.Helper()
	w, err := p.NewWriter()
	if err != nil {
		t.Fatal(err)
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	group, err := user.LookupGroupId(me.Gid)
	if err != nil {
		t.Fatal(err)
	}
	own := func(e Entry) Entry { e.Owner, e.Group = me.Username, group.Name; return e }
	b := &tableBuilder{writer: w}
	paths := c.order
	if paths == nil {
		paths = slices.Concat(slices.Collect(maps.Keys(c.files)), slices.Collect(maps.Keys(c.dirs)), slices.Collect(maps.Keys(c.links)))
		slices.SortFunc(paths, func(a, b string) int {
			return strings.Compare(strings.ReplaceAll(a, "/", "\x00"), strings.ReplaceAll(b, "/", "\x00"))
		})
	}
	for _, path := range paths {
		e := own(Entry{Path: path, Type: Directory, Mode: c.dirs[path]})
		if data, ok := c.files[path]; ok {
			e = own(storedFile(t, a.store, w, path, data))
		} else if to, ok := c.links[path]; ok {
			e = own(Entry{Path: path, Type: Symlink, Link: to})
		}
		if err := b.add(e); err != nil {
			t.Fatal(err)
		}
	}
	root, err := b.finish()
	if err != nil {
		t.Fatal(err)
	}
	control := own(storedFile(t, a.store, w, controlPath, c.control))
	m := &Manifest{
		Version: 1, Kind: Live, System: fmt.Sprint(testSystem), ServerVersion: 150004, Catalog: 202209061,
		Timeline: 1, StartLSN: c.start.String(), StopLSN: (c.start + 3<<24).String(), SegmentSize: 16 << 20, BlockSize: 8192,
		Started: a.clock, Stopped: a.clock.Add(time.Hour), Host: "db1", DataDirectory: "/srv/pg",
		Mode: 0o700, Owner: me.Username, Group: group.Name,
		Root: root.String(), Control: appendEntry(nil, control), Files: b.files + 1, Bytes: b.bytes + int64(len(c.control)),
		Label: []byte("START WAL LOCATION: 0/4000028 (file 000000010000000000000004)\n"), Tablespaces: []Tablespace{},
	}
	for path, to := range c.links {
		var oid uint32
		if _, err := fmt.Sscanf(path, "pg_tblspc/%d", &oid); err != nil {
			continue
		}
		m.Tablespaces = append(m.Tablespaces, Tablespace{OID: oid, Name: "fast", Location: to})
		m.TablespaceMap = fmt.Appendf(m.TablespaceMap, "%d %s\n", oid, to)
	}
	return m
}

func storedFile(t *testing.T, s *chunkstore.Store, w *chunkstore.Writer, path string, data []byte) Entry {
	t.Helper()
	e := Entry{Path: path, Type: File, Mode: 0o600, CRC: crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli))}
	if len(data) == 0 {
		return e
	}
	var first chunkstore.List
	var nodes []chunk.ID
	for rest := data; len(rest) > 0; rest = rest[min(s.ExtentSize(), len(rest)):] {
		l, err := w.Extent(rest[:min(s.ExtentSize(), len(rest))])
		if err != nil {
			t.Fatal(err)
		}
		if first = l; len(data) <= s.ExtentSize() {
			break
		}
		id, err := w.ListNode(l)
		if err != nil {
			t.Fatal(err)
		}
		nodes = append(nodes, id)
	}
	var err error
	if e.Content, err = w.Content(int64(len(data)), first, nodes); err != nil {
		t.Fatal(err)
	}
	return e
}

// A target is where a backup goes in a test: a data directory and one for the
// tablespace, both absent.
type target struct{ base, dir, fast string }

func newTarget(t *testing.T) target {
	t.Helper()
	base := t.TempDir()
	return target{base: base, dir: filepath.Join(base, "data"), fast: filepath.Join(base, "fast")}
}

func (a *archive) config(b *Backup, to target) FetchConfig {
	cfg := FetchConfig{Store: a.store, Backup: b, Dir: to.dir}
	if len(b.Manifest.Tablespaces) > 0 {
		cfg.TablespaceMap = map[string]string{"fast": to.fast}
	}
	return cfg
}

func mustFetch(t *testing.T, cfg FetchConfig) *FetchReport {
	t.Helper()
	r, err := Fetch(t.Context(), cfg)
	if err != nil {
		t.Fatalf("Fetch = %v", err)
	}
	if !r.Done {
		t.Errorf("Fetch: report isn't done")
	}
	return r
}

// check compares a restored directory with a cluster.
func (c *cluster) check(t *testing.T, to target) {
	t.Helper()
	for path, want := range c.files {
		got, err := os.ReadFile(filepath.Join(to.dir, path))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes that differ or %v, want %d bytes", path, len(got), err, len(want))
		}
		checkMode(t, filepath.Join(to.dir, path), 0o600)
	}
	for path, mode := range c.dirs {
		checkMode(t, filepath.Join(to.dir, path), mode)
	}
	if got, err := os.ReadFile(filepath.Join(to.dir, controlPath)); err != nil || !bytes.Equal(got, c.control) {
		t.Errorf("pg_control: other bytes, or %v", err)
	}
	if exists(filepath.Join(to.dir, markerDir)) {
		t.Errorf("%s is left", markerDir)
	}
	checkMode(t, to.dir, 0o700)
}

func checkMode(t *testing.T, path string, want fs.FileMode) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Errorf("%s: %v", path, err)
	} else if info.Mode().Perm() != want {
		t.Errorf("mode of %s = %o, want %o", path, info.Mode().Perm(), want)
	}
}

func read(t *testing.T, elem ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
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
	p, err := a.store.Begin(t.Context(), chunkstore.PushConfig{
		Name: name, Table: table, PackSize: 256 << 10,
		Intent: chunkstore.Intent{System: fmt.Sprint(testSystem), Start: c.start.String()},
		Now:    func() time.Time { return a.clock },
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

func TestFetch(t *testing.T) {
	t.Parallel()
	a, c, to := newArchive(t), newCluster(), newTarget(t)
	c.dirs["pg_replslot"] = 0o750
	b := a.push(t, c)
	r := mustFetch(t, a.config(b, to))
	c.check(t, to)
	if got := read(t, to.dir, "backup_label"); got != string(b.Manifest.Label) {
		t.Errorf("backup_label = %q", got)
	}
	if got, want := read(t, to.dir, "tablespace_map"), "16390 "+to.fast+"\n"; got != want {
		t.Errorf("tablespace_map = %q, want %q", got, want)
	}
	if got, err := os.Readlink(filepath.Join(to.dir, "pg_tblspc/16390")); err != nil || got != to.fast {
		t.Errorf("link of the tablespace = %q, %v, want %q", got, err, to.fast)
	}
	checkMode(t, to.fast, 0o700)
	if len(r.Tablespaces) != 1 || r.Tablespaces[0].Directory != to.fast || r.Resumed != -1 || len(r.WALFiles) != 4 {
		t.Errorf("report = %+v", r)
	}
	if !slices.ContainsFunc(r.Warnings, func(s string) bool { return strings.Contains(s, "archives WAL") }) {
		t.Errorf("warnings = %q, want one of archive_command", r.Warnings)
	}
	if !slices.ContainsFunc(r.Next, func(s string) bool { return strings.Contains(s, "restore_command") }) {
		t.Errorf("next = %q, want one of restore_command", r.Next)
	}
}

// Zeros take no room, and are zeros.
func TestFetchSparse(t *testing.T) {
	t.Parallel()
	a, c, to := newArchive(t), newCluster().withoutSpaces(), newTarget(t)
	c.files["base/5/9999"] = make([]byte, 8<<20)
	c.files["pg_wal/000000010000000000000004"] = make([]byte, 1<<20)
	r := mustFetch(t, a.config(a.push(t, c), to))
	c.check(t, to)
	for path, most := range map[string]int64{"base/5/9999": 0, "base/5/2620": 0, "base/5/2621": 36 * 8192} {
		if n := blocks(t, to.dir, path); n > most {
			t.Errorf("%s takes %d bytes, want at most %d", path, n, most)
		}
	}
	if n := blocks(t, to.dir, "pg_wal/000000010000000000000004"); n < 1<<20 {
		t.Errorf("a WAL segment takes %d bytes, want all", n)
	}
	if r.Written >= r.Bytes {
		t.Errorf("written %d of %d bytes", r.Written, r.Bytes)
	}
}

func blocks(t *testing.T, elem ...string) int64 {
	t.Helper()
	info, err := os.Stat(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Blocks * 512
}

// TestFetchUmask is alone in its process while it runs: a umask is global.
func TestFetchUmask(t *testing.T) {
	a, c := newArchive(t), newCluster()
	c.change = func(m *Manifest) { m.Mode = 0o750 }
	b := a.push(t, c)
	for _, mask := range []int{0, 0o077, 0o277} {
		to := newTarget(t)
		old := syscall.Umask(mask)
		mustFetch(t, a.config(b, to))
		syscall.Umask(old)
		for path, mode := range map[string]fs.FileMode{
			"": 0o750, "base": 0o700, "base/5/112": 0o600, "backup_label": 0o640, "tablespace_map": 0o640, "backup_manifest": 0o640, "pg_tblspc/16390": 0o750,
		} {
			checkMode(t, filepath.Join(to.dir, path), mode)
		}
	}
}

func TestFetchOffline(t *testing.T) {
	t.Parallel()
	a, c, to := newArchive(t), newCluster(), newTarget(t)
	c.files["pg_wal/000000010000000000000004"] = random(4, 1<<20)
	c.change = func(m *Manifest) {
		m.Kind, m.Label, m.TablespaceMap, m.Tablespaces[0].Name = Offline, nil, nil, ""
	}
	cfg := a.config(a.push(t, c), to)
	cfg.TablespaceMap = map[string]string{"16390": to.fast}
	r := mustFetch(t, cfg)
	c.check(t, to)
	for _, name := range []string{"backup_label", "tablespace_map"} {
		if exists(filepath.Join(to.dir, name)) {
			t.Errorf("%s was written", name)
		}
	}
	if len(r.WALFiles) != 0 || r.WithWAL {
		t.Errorf("WAL = %v, %v", r.WALFiles, r.WithWAL)
	}
}

func TestFetchDryRun(t *testing.T) {
	t.Parallel()
	a, c, to := newArchive(t), newCluster(), newTarget(t)
	cfg := a.config(a.push(t, c), to)
	cfg.DryRun = true
	r, err := Fetch(t.Context(), cfg)
	if err != nil {
		t.Fatalf("Fetch = %v", err)
	}
	if r.Done || r.Bytes == 0 || r.Packs == 0 || r.Requests < int64(r.Packs) || r.Files != int64(len(c.files))+1 {
		t.Errorf("plan = %+v", r)
	}
	if entries, err := os.ReadDir(to.base); err != nil || len(entries) != 0 {
		t.Errorf("a dry run left %v, %v", entries, err)
	}
}

// What a user put into the directory stays, and is in the manifest as it is.
func TestFetchKeepsConfiguration(t *testing.T) {
	t.Parallel()
	for _, overwrite := range []bool{false, true} {
		a, c, to := newArchive(t), newCluster().withoutSpaces(), newTarget(t)
		c.files["conf.d/a.conf"] = []byte("a = 1\n")
		c.files["conf.d/b.conf"] = []byte("b = 1\n")
		c.dirs["conf.d"] = 0o700
		cfg := a.config(a.push(t, c), to)
		cfg.OverwriteConfig = overwrite
		write(t, filepath.Join(to.dir, "postgresql.conf"), "mine = 1\n")
		write(t, filepath.Join(to.dir, "conf.d/a.conf"), "mine = 1\n")
		write(t, filepath.Join(to.dir, "server.key"), "secret")
		write(t, filepath.Join(to.dir, "log/old.log"), "once")
		write(t, filepath.Join(to.base, "elsewhere.conf"), "local all all scram-sha-256\n")
		if err := os.Symlink(filepath.Join(to.base, "elsewhere.conf"), filepath.Join(to.dir, "pg_hba.conf")); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(filepath.Join(to.dir, "lost+found"), 0o700); err != nil {
			t.Fatal(err)
		}
		r := mustFetch(t, cfg)
		if want := []string{"conf.d/a.conf", "log/old.log", "pg_hba.conf", "postgresql.conf", "server.key"}; !slices.Equal(r.KeptConfig, want) {
			t.Errorf("kept %q, want %q", r.KeptConfig, want)
		}
		if !overwrite {
			for _, p := range []string{"postgresql.conf", "conf.d/a.conf"} {
				c.files[p] = []byte("mine = 1\n")
			}
			c.files["pg_hba.conf"] = []byte("local all all scram-sha-256\n")
		}
		c.files["log/old.log"], c.files["server.key"] = []byte("once"), []byte("secret")
		c.check(t, to)
		if got := read(t, to.base, "elsewhere.conf"); got != "local all all scram-sha-256\n" {
			t.Errorf("a file that a link led to was changed: %q", got)
		}
		checkBaseManifest(t, to.dir)
	}
}

func TestFetchRefuses(t *testing.T) {
	t.Parallel()
	a, c := newArchive(t), newCluster()
	b := a.push(t, c)
	for name, tc := range map[string]struct {
		prepare func(t *testing.T, to target, cfg *FetchConfig)
		want    string
	}{
		"live server":     {func(t *testing.T, to target, _ *FetchConfig) { write(t, to.dir+"/postmaster.pid", "1") }, "attempting to overwrite a live data directory"},
		"PG_VERSION":      {func(t *testing.T, to target, _ *FetchConfig) { write(t, to.dir+"/PG_VERSION", "15") }, "holds a cluster already"},
		"global":          {func(t *testing.T, to target, _ *FetchConfig) { write(t, to.dir+"/global/1", "") }, "holds a cluster already"},
		"base":            {func(t *testing.T, to target, _ *FetchConfig) { write(t, to.dir+"/base/1", "") }, "holds a cluster already"},
		"another file":    {func(t *testing.T, to target, _ *FetchConfig) { write(t, to.dir+"/letters.doc", "") }, "letters.doc"},
		"pg_wal in use":   {func(t *testing.T, to target, _ *FetchConfig) { write(t, to.dir+"/pg_wal/000000010000000000000004", "") }, "isn't empty"},
		"pg_xlog":         {func(t *testing.T, to target, _ *FetchConfig) { mkdir(t, to.dir, "pg_xlog") }, "pg_xlog"},
		"folder of space": {func(t *testing.T, to target, _ *FetchConfig) { mkdir(t, to.dir, "pg_tblspc/16390") }, "isn't the link of a tablespace"},
		"dangling link": {func(t *testing.T, to target, _ *FetchConfig) {
			mkdir(t, to.dir, "pg_tblspc")
			link(t, to.base+"/gone", to.dir, "pg_tblspc/16390")
		}, "doesn't lead to a directory"},
		"space in use": {func(t *testing.T, to target, _ *FetchConfig) { write(t, to.fast+"/x", "") }, "isn't empty"},
		"space in dir": {func(_ *testing.T, to target, cfg *FetchConfig) {
			cfg.TablespaceMap = map[string]string{"fast": to.dir + "/ts"}
		}, "can't be in one another"},
		"space is dir": {func(_ *testing.T, to target, cfg *FetchConfig) { cfg.TablespaceMap = map[string]string{"fast": to.dir} }, "can't share"},
		"space through link": {func(t *testing.T, to target, cfg *FetchConfig) {
			link(t, to.base, to.base, "alias")
			cfg.TablespaceMap = map[string]string{"fast": to.base + "/alias/data"}
		}, "can't share"},
		"relative space": {func(_ *testing.T, _ target, cfg *FetchConfig) { cfg.TablespaceMap = map[string]string{"fast": "ts"} }, "absolute"},
		"unknown space":  {func(_ *testing.T, _ target, cfg *FetchConfig) { cfg.TablespaceMap = map[string]string{"slow": "/x"} }, `no tablespace "slow"`},
		"link and map": {func(t *testing.T, to target, _ *FetchConfig) {
			mkdir(t, to.base, "other")
			mkdir(t, to.dir, "pg_tblspc")
			link(t, to.base+"/other", to.dir, "pg_tblspc/16390")
		}, "remove it, or leave the option away"},
		"original not mounted": {func(_ *testing.T, _ target, cfg *FetchConfig) { cfg.TablespaceMap = nil }, "--tablespace-map 16390=DIR"},
		"WAL in use": {func(t *testing.T, to target, cfg *FetchConfig) {
			write(t, to.base+"/wal/x", "")
			cfg.WALDir = to.base + "/wal"
		}, "isn't empty"},
		"relative WAL": {func(_ *testing.T, _ target, cfg *FetchConfig) { cfg.WALDir = "wal" }, "absolute"},
		"WAL in dir":   {func(_ *testing.T, to target, cfg *FetchConfig) { cfg.WALDir = to.dir + "/wal" }, "can't be in one another"},
		"WAL and link": {func(t *testing.T, to target, cfg *FetchConfig) {
			mkdir(t, to.dir, "pg_wal")
			cfg.WALDir = to.base + "/wal"
		}, "is there already"},
		"owner":         {func(_ *testing.T, _ target, cfg *FetchConfig) { cfg.Owner = "nobody-of-that-name" }, "nobody-of-that-name"},
		"no spec":       {func(_ *testing.T, to target, cfg *FetchConfig) { cfg.RestoreSpec = to.base + "/spec.json" }, "restore specification does not exist"},
		"a file as DIR": {func(t *testing.T, to target, _ *FetchConfig) { write(t, to.dir, "") }, "not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			to := newTarget(t)
			cfg := a.config(b, to)
			tc.prepare(t, to, &cfg)
			before := tree(t, to.base)
			_, err := Fetch(t.Context(), cfg)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Fetch = %v, want an error with %q", err, tc.want)
			}
			if after := tree(t, to.base); !slices.Equal(after, before) {
				t.Errorf("a refused fetch changed %q to %q", before, after)
			}
		})
	}
}

func mkdir(t *testing.T, elem ...string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(elem...), 0o700); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, to string, elem ...string) {
	t.Helper()
	if err := os.Symlink(to, filepath.Join(elem...)); err != nil {
		t.Fatal(err)
	}
}

// tree lists what is under a directory.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		names = append(names, p)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// A table may be damaged, or made by an enemy: nothing leaves the directory.
func TestFetchHostileTable(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*cluster){
		"dotdot":         func(c *cluster) { c.files["../evil"] = []byte("x") },
		"absolute":       func(c *cluster) { c.files["/tmp/evil"] = []byte("x") },
		"inner dotdot":   func(c *cluster) { c.files["base/../../evil"] = []byte("x") },
		"link":           func(c *cluster) { c.links = map[string]string{"base/5/link": "/etc"} },
		"link of pg_wal": func(c *cluster) { delete(c.dirs, "pg_wal"); c.links = map[string]string{"pg_wal": "/etc"} },
		"pg_control":     func(c *cluster) { c.files[controlPath] = []byte("x") },
		"marker":         func(c *cluster) { c.files[markerDir+"/fetch.json"] = []byte("x") },
		"postmaster":     func(c *cluster) { c.files["postmaster.pid"] = []byte("x") },
		"count":          func(c *cluster) { c.change = func(m *Manifest) { m.Files++ } },
		"bytes":          func(c *cluster) { c.change = func(m *Manifest) { m.Bytes-- } },
		"control entry":  func(c *cluster) { c.change = func(m *Manifest) { m.Control = m.Control[:20] } },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, c, to := newArchive(t), newCluster().withoutSpaces(), newTarget(t)
			change(c)
			_, err := Fetch(t.Context(), a.config(a.push(t, c), to))
			if !errors.Is(err, chunkstore.ErrDamaged) {
				t.Errorf("Fetch = %v, want %v", err, chunkstore.ErrDamaged)
			}
			if names := tree(t, to.base); len(names) != 1 {
				t.Errorf("Fetch left %q", names)
			}
		})
	}
}

func TestFetchWAL(t *testing.T) {
	t.Parallel()
	a, c, to := newArchive(t), newCluster().withoutSpaces(), newTarget(t)
	cfg := a.config(a.push(t, c), to)
	cfg.WALDir = filepath.Join(to.base, "wal")
	cfg.FetchWAL = func(_ context.Context, system, name, dest string) error {
		if system != fmt.Sprint(testSystem) {
			return fmt.Errorf("system %s", system)
		}
		return os.WriteFile(dest, []byte(name), 0o666)
	}
	r := mustFetch(t, cfg)
	c.check(t, to)
	if got, err := os.Readlink(filepath.Join(to.dir, "pg_wal")); err != nil || got != cfg.WALDir {
		t.Errorf("pg_wal = %q, %v, want a link to %s", got, err, cfg.WALDir)
	}
	if len(r.WALFiles) != 4 || !r.WithWAL {
		t.Fatalf("WAL files = %q", r.WALFiles)
	}
	for _, name := range r.WALFiles {
		if got := read(t, cfg.WALDir, name); got != name {
			t.Errorf("%s = %q", name, got)
		}
		checkMode(t, filepath.Join(cfg.WALDir, name), 0o600)
	}
	checkMode(t, cfg.WALDir, 0o700)
	checkMode(t, filepath.Join(cfg.WALDir, "archive_status"), 0o700)
}

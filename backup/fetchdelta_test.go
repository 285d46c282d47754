package backup

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"wal-e/chunkstore"
	"wal-e/internal/storage"
	"wal-e/internal/storage/storagetest"
)

// realControl returns a pg_control of PostgreSQL 15 of that system; other ones
// with another time.
func realControl(t *testing.T, system uint64, time byte) []byte {
	t.Helper()
	b := []byte(read(t, "../internal/postgres/testdata/pg_control.15"))
	sum := func(n int) uint32 { return crc32.Checksum(b[:n], crc32.MakeTable(crc32.Castagnoli)) }
	end := -1
	for n := 64; n < 512; n++ {
		if binary.LittleEndian.Uint32(b[n:]) == sum(n) {
			end = n
		}
	}
	if end < 0 {
		t.Fatal("pg_control has no checksum")
	}
	binary.LittleEndian.PutUint64(b, system)
	b[24] = time // state is at 16, time at 24
	binary.LittleEndian.PutUint32(b[end:], sum(end))
	return b
}

// twoNights returns backups of a cluster and of what became of it, and that.
func twoNights(t *testing.T) (a *archive, before, after *Backup, later *cluster) {
	t.Helper()
	a = newArchive(t)
	c := newCluster()
	c.control = realControl(t, testSystem, 1)
	c.files["base/5/grows"] = random(31, 3*8192)
	c.files["base/5/shrinks"] = random(32, fetchExtent+5*8192)
	c.files["base/5/emptied"] = random(33, 8192)
	c.files["base/5/dropped"] = random(34, 8192)
	c.files["base/6/gone"] = random(35, 8192)
	c.files["base/5/turns"] = random(36, 100)
	c.files["base/5/big"] = random(37, 20*fetchExtent)
	c.dirs["base/6"] = 0o700
	before = a.push(t, c)

	c.files["base/5/2619"] = slices.Clone(c.files["base/5/2619"])
	copy(c.files["base/5/2619"][2*fetchExtent+8192:], random(41, 8192))
	c.files["base/5/big"] = slices.Clone(c.files["base/5/big"])
	copy(c.files["base/5/big"][7*fetchExtent:], random(42, 2*8192))
	c.files["base/5/2621"] = sparse(2621, 9*8192, 20*8192, 40*8192)
	c.files["base/5/grows"] = random(31, fetchExtent+9*8192)
	c.files["base/5/shrinks"] = c.files["base/5/shrinks"][:2*8192]
	c.files["base/5/emptied"] = nil
	c.files["base/5/new"] = random(43, 8192)
	c.files["base/5/turns/inner"] = []byte("a folder now")
	c.dirs["base/5/turns"] = 0o700
	c.control = realControl(t, testSystem, 2)
	c.start += 16 << 20
	for _, p := range []string{"base/5/dropped", "base/5/turns", "base/6/gone"} {
		delete(c.files, p)
	}
	delete(c.dirs, "base/6")
	return a, before, a.push(t, c), c
}

// shape lists what is under directories: types, modes, sizes and links.
func shape(t *testing.T, to target) []string {
	t.Helper()
	var list []string
	for _, p := range tree(t, to.base) {
		info, err := os.Lstat(p)
		if err != nil {
			t.Fatal(err)
		}
		line := fmt.Sprintf("%s %v", strings.TrimPrefix(p, to.base), info.Mode())
		if info.Mode().IsRegular() {
			line += fmt.Sprint(" ", info.Size())
		}
		if at, err := os.Readlink(p); err == nil {
			line += " to " + strings.TrimPrefix(at, to.base)
		}
		list = append(list, line)
	}
	return list
}

// checkShape compares a directory with a fresh restore, but for names that stay.
func checkShape(t *testing.T, got, want target, but ...string) {
	t.Helper()
	stays := func(line string) bool {
		return slices.ContainsFunc(but, func(b string) bool { return strings.HasPrefix(line, "/"+b) })
	}
	g, w := slices.DeleteFunc(shape(t, got), stays), slices.DeleteFunc(shape(t, want), stays)
	for _, line := range w {
		if !slices.Contains(g, line) {
			t.Errorf("missing: %s", line)
		}
	}
	for _, line := range g {
		if !slices.Contains(w, line) {
			t.Errorf("too much: %s", line)
		}
	}
}

// A cluster that went on, in every way that files can, becomes that of the backup
// again; what stays wasn't written, what isn't the backup's is gone, and only
// configuration, logs and what others have is left.
func TestDelta(t *testing.T) {
	t.Parallel()
	a, before, after, c := twoNights(t)
	fresh, to := newTarget(t), newTarget(t)
	mustFetch(t, a.config(after, fresh))
	mustFetch(t, a.config(before, to))

	untouched := filepath.Join(to.dir, "base/5/112")
	old, err := os.Stat(untouched)
	noError(t, err)
	// Same size, same times, one other byte.
	sly := filepath.Join(to.dir, "base/5/2620")
	info, err := os.Stat(sly)
	noError(t, err)
	data := []byte(read(t, sly))
	data[fetchExtent+17] = 1
	write(t, sly, string(data))
	noError(t, os.Chtimes(sly, info.ModTime(), info.ModTime()))
	// Another name of a file, as a copy made of links has.
	shared := filepath.Join(to.base, "shared")
	noError(t, os.Link(filepath.Join(to.dir, "base/5/big"), shared))
	noError(t, os.Remove(filepath.Join(to.dir, "global/1262")))
	noError(t, os.Mkdir(filepath.Join(to.dir, "global/1262"), 0o700))
	write(t, filepath.Join(to.dir, "global/1262/x"), "x")
	for _, p := range []string{
		"standby.signal", "backup_label.old", "stray/folder/file", "base/5/2619_fsm", "base/5/t3_1", "base/777/1",
		"pg_wal/000000010000000000000009", "pg_wal/archive_status/000000010000000000000009.done", "pg_wal/00000002.history",
		"pg_replslot/slot/state", "pg_tblspc/readme", "log/server.log", "conf.d/extra.conf", "server.crt",
	} {
		write(t, filepath.Join(to.dir, p), "stray")
	}
	write(t, filepath.Join(to.dir, "postgresql.conf"), "port = 1\n")
	write(t, filepath.Join(to.fast, "PG_14_202107181/5/1"), "another server's")
	write(t, filepath.Join(to.fast, "PG_15_202209061/5/9"), "stray")
	elsewhere := filepath.Join(to.base, "elsewhere")
	noError(t, os.Mkdir(elsewhere, 0o700))
	write(t, filepath.Join(elsewhere, "keep"), "keep")
	link(t, elsewhere, to.dir, "pg_tblspc/99999")
	link(t, "/etc", to.dir, "base/link")

	cfg := a.config(after, to)
	cfg.TablespaceMap = nil // the link says where
	cfg.Delta = true
	r := mustFetch(t, cfg)

	c.files["postgresql.conf"] = []byte("port = 1\n")
	c.check(t, to)
	checkShape(t, to, fresh, "shared", "elsewhere", "data/log", "data/conf.d", "data/server.crt", "data/postgresql.conf",
		"data/pg_tblspc/99999", "fast/PG_14", "data/backup_manifest")
	if now, err := os.Stat(untouched); err != nil || !now.ModTime().Equal(old.ModTime()) || !os.SameFile(now, old) {
		t.Errorf("a file that was as in the backup was written: %v, %v", now, err)
	}
	if got := read(t, shared); got != string(random(37, 20*fetchExtent)) {
		t.Error("the other name of a file changed with it")
	}
	for p, want := range map[string]string{
		filepath.Join(elsewhere, "keep"): "keep", filepath.Join(to.fast, "PG_14_202107181/5/1"): "another server's",
		filepath.Join(to.dir, "log/server.log"): "stray", filepath.Join(to.dir, "conf.d/extra.conf"): "stray",
	} {
		if got := read(t, p); got != want {
			t.Errorf("%s holds %q, want %q", p, got, want)
		}
	}
	d := r.Delta
	if d == nil || d.Files != 7 || d.Removed != 20 || r.Resumed != -1 {
		t.Fatalf("report %+v, delta %+v", r, d)
	}
	// The file with another name was made anew, the others cost what changed.
	if most := int64(20*fetchExtent + 3*fetchExtent); r.Written > most {
		t.Errorf("%d bytes written, want at most %d", r.Written, most)
	}
}

// One page of a large file: its chunk is read and its page is written.
func TestDeltaReadsLittle(t *testing.T) {
	t.Parallel()
	a, _, after, c := twoNights(t)
	to := newTarget(t)
	mustFetch(t, a.config(after, to))
	data := []byte(read(t, to.dir, "base/5/big"))
	copy(data[11*fetchExtent+8192:], random(77, 8192))
	write(t, filepath.Join(to.dir, "base/5/big"), string(data))
	bytes := func(delta bool, to target) (int64, *FetchReport) {
		counted := &countedBucket{Bucket: a.bucket}
		cfg := a.config(after, to).through(t, counted)
		cfg.Delta = delta
		if delta {
			cfg.TablespaceMap = nil
		}
		r := mustFetch(t, cfg)
		return counted.read.Load(), r
	}
	whole, _ := bytes(false, newTarget(t))
	part, r := bytes(true, to)
	c.check(t, to)
	if r.Written != 8192 || r.Delta.Files != int64(len(c.files))-1-3 {
		t.Errorf("%d bytes written, %d files of %d unchanged", r.Written, r.Delta.Files, len(c.files))
	}
	if part*10 > whole {
		t.Errorf("a delta read %d bytes, a whole fetch %d", part, whole)
	}
}

// What a directory's name may have been mistaken for, and what would be lost, is
// refused before anything is touched.
func TestDeltaRefuses(t *testing.T) {
	t.Parallel()
	a, before, after, _ := twoNights(t)
	for name, tc := range map[string]struct {
		change func(t *testing.T, to target, cfg *FetchConfig)
		want   string
	}{
		"without the option": {func(_ *testing.T, _ target, cfg *FetchConfig) { cfg.Delta = false }, "holds a cluster already"},
		"another cluster": {func(t *testing.T, to target, _ *FetchConfig) {
			write(t, filepath.Join(to.dir, controlPath), string(realControl(t, testSystem+1, 1)))
		}, "holds another cluster, 7234567890123456790"},
		"another version": {func(t *testing.T, to target, _ *FetchConfig) { write(t, filepath.Join(to.dir, "PG_VERSION"), "14\n") }, "is of PostgreSQL 14"},
		"no pg_control": {func(t *testing.T, to target, _ *FetchConfig) {
			noError(t, os.Remove(filepath.Join(to.dir, controlPath)))
		}, "whose cluster"},
		"damaged pg_control": {func(t *testing.T, to target, _ *FetchConfig) {
			write(t, filepath.Join(to.dir, controlPath), string(random(1, 8192)))
		}, "whose cluster"},
		"server": {func(t *testing.T, to target, _ *FetchConfig) {
			write(t, filepath.Join(to.dir, "postmaster.pid"), "1\n")
		}, "live data directory"},
		"unarchived WAL": {func(t *testing.T, to target, _ *FetchConfig) {
			write(t, filepath.Join(to.dir, "pg_wal/archive_status/000000010000000000000009.ready"), "")
		}, "never archived (000000010000000000000009)"},
		"WAL of a crashed server": {func(t *testing.T, to target, _ *FetchConfig) {
			// Only one has what nobody else has: the others were archived, used before
			// under another name, and never written.
			noError(t, os.Remove(filepath.Join(to.dir, labelFile)))
			write(t, filepath.Join(to.dir, "pg_wal/000000010000000000000009"), segmentHead(9))
			write(t, filepath.Join(to.dir, "pg_wal/archive_status/000000010000000000000009.done"), "")
			write(t, filepath.Join(to.dir, "pg_wal/00000001000000000000000A"), segmentHead(10))
			write(t, filepath.Join(to.dir, "pg_wal/00000001000000000000000B"), segmentHead(3))
			write(t, filepath.Join(to.dir, "pg_wal/00000001000000000000000C"), string(make([]byte, 8192)))
		}, "never archived (00000001000000000000000A)"},
		"folder that is a link": {func(t *testing.T, to target, _ *FetchConfig) {
			noError(t, os.Rename(filepath.Join(to.dir, "pg_xact"), filepath.Join(to.base, "pg_xact")))
			link(t, filepath.Join(to.base, "pg_xact"), to.dir, "pg_xact")
		}, "is a link"},
		"dangling tablespace": {func(t *testing.T, to target, _ *FetchConfig) {
			noError(t, os.Rename(to.fast, to.fast+".away"))
		}, "doesn't lead to a directory"},
		"tablespace elsewhere": {func(_ *testing.T, to target, cfg *FetchConfig) {
			cfg.TablespaceMap = map[string]string{"fast": to.base + "/other"}
		}, "remove it, or leave the option away"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			to := newTarget(t)
			mustFetch(t, a.config(before, to))
			cfg := a.config(after, to)
			cfg.Delta, cfg.TablespaceMap = true, nil
			tc.change(t, to, &cfg)
			was := shape(t, to)
			_, err := Fetch(t.Context(), cfg)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Fetch = %v, want an error with %q", err, tc.want)
			}
			if now := shape(t, to); !slices.Equal(was, now) {
				t.Errorf("it changed from\n%s\nto\n%s", strings.Join(was, "\n"), strings.Join(now, "\n"))
			}
		})
	}
}

// segmentHead returns the first page of WAL segment n.
func segmentHead(n uint64) string {
	b := make([]byte, 8192)
	binary.LittleEndian.PutUint16(b, 0xD110)
	binary.LittleEndian.PutUint16(b[2:], 2)
	binary.LittleEndian.PutUint32(b[4:], 1)
	binary.LittleEndian.PutUint64(b[8:], n*16<<20)
	binary.LittleEndian.PutUint64(b[24:], testSystem)
	binary.LittleEndian.PutUint32(b[32:], 16<<20)
	binary.LittleEndian.PutUint32(b[36:], 8192)
	return string(b)
}

func TestDeltaDiscardsWAL(t *testing.T) {
	t.Parallel()
	a, before, after, c := twoNights(t)
	to := newTarget(t)
	mustFetch(t, a.config(before, to))
	write(t, filepath.Join(to.dir, "pg_wal/archive_status/000000010000000000000009.ready"), "")
	cfg := a.config(after, to)
	cfg.Delta, cfg.DiscardWAL, cfg.TablespaceMap = true, true, nil
	mustFetch(t, cfg)
	c.check(t, to)
}

// An empty directory is restored to as without the option.
func TestDeltaOfNothing(t *testing.T) {
	t.Parallel()
	a, _, after, c := twoNights(t)
	to := newTarget(t)
	cfg := a.config(after, to)
	cfg.Delta = true
	if r := mustFetch(t, cfg); r.Delta != nil {
		t.Errorf("report of a delta: %+v", r.Delta)
	}
	c.check(t, to)
}

// Tablespaces that are directories in pg_tblspc stay there.
func TestDeltaInPlace(t *testing.T) {
	t.Parallel()
	a, before, after, c := twoNights(t)
	fresh, to := newTarget(t), newTarget(t)
	for at, b := range map[target]*Backup{fresh: after, to: before} {
		cfg := a.config(b, at)
		cfg.TablespaceMap, cfg.BlindRestore = nil, true
		mustFetch(t, cfg)
	}
	write(t, filepath.Join(to.dir, "pg_tblspc/16390/PG_15_202209061/5/9"), "stray")
	cfg := a.config(after, to)
	cfg.TablespaceMap, cfg.Delta = nil, true
	mustFetch(t, cfg)
	c.check(t, to)
	checkShape(t, to, fresh)
}

// Whatever request fails, no server could start on what is left, and the same
// command completes it.
func TestDeltaFailing(t *testing.T) {
	t.Parallel()
	a, before, after, c := twoNights(t)
	again := func(t *testing.T, to target, calls *storagetest.Faulty) error {
		cfg := a.config(after, to)
		cfg.Delta, cfg.TablespaceMap, cfg.Workers = true, nil, 1
		var err error
		if cfg.Store, err = chunkstore.Open(t.Context(), calls, nil); err == nil {
			_, err = Fetch(t.Context(), cfg)
		}
		return err
	}
	start := func(t *testing.T) target {
		to := newTarget(t)
		mustFetch(t, a.config(before, to))
		write(t, filepath.Join(to.dir, "base/5/stray"), "x")
		return to
	}
	counted := storagetest.NewFaulty(a.bucket, storagetest.Fault{})
	noError(t, again(t, start(t), counted))
	failed := 0
	for n := 1; n <= counted.Calls(); n++ {
		to := start(t)
		err := again(t, to, storagetest.NewFaulty(a.bucket, storagetest.Fault{Call: n, Mode: storagetest.FailFrom}))
		if err == nil {
			continue
		}
		failed++
		if marked := exists(filepath.Join(to.dir, markerDir, "fetch.json")); marked == exists(filepath.Join(to.dir, controlPath)) {
			t.Errorf("call %d: the directory is marked: %v, and that a server could start is as true", n, marked)
		}
		noError(t, again(t, to, storagetest.NewFaulty(a.bucket, storagetest.Fault{})))
		c.check(t, to)
		if exists(filepath.Join(to.dir, "base/5/stray")) {
			t.Error("a stray file is left")
		}
	}
	if failed < 5 {
		t.Errorf("%d calls of %d failed a fetch", failed, counted.Calls())
	}
}

// The directory was marked, and then the machine failed, before pg_control was
// away; on the way a server may even have run.
func TestDeltaMarkedOnly(t *testing.T) {
	t.Parallel()
	a, before, after, c := twoNights(t)
	to := newTarget(t)
	mustFetch(t, a.config(before, to))
	cfg := a.config(after, to)
	cfg.Delta, cfg.TablespaceMap = true, nil
	cfg.FetchWAL = func(context.Context, string, string, string) error { return errors.New("stop") }
	control := read(t, to.dir, controlPath)
	if _, err := Fetch(t.Context(), cfg); err == nil {
		t.Fatal("Fetch = nil")
	}
	cfg.FetchWAL, cfg.Delta = nil, false // that it is one is known
	write(t, filepath.Join(to.dir, controlPath), string(realControl(t, testSystem, 3)))
	if _, err := Fetch(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "a server has been started") {
		t.Errorf("Fetch after a start = %v", err)
	}
	write(t, filepath.Join(to.dir, controlPath), control)
	write(t, filepath.Join(to.dir, "base/5/stray"), "x")
	if r := mustFetch(t, cfg); r.Delta == nil || r.Resumed < 0 {
		t.Errorf("report %+v", r)
	}
	c.check(t, to)
	if _, err := os.Stat(filepath.Join(to.dir, "base/5/stray")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("stray file: %v", err)
	}
}

// What lies beside each other in a pack is read at once, whichever file it is of; what
// is needed here and there is all that is read.
func TestFetchReadsAhead(t *testing.T) {
	t.Parallel()
	a, c := newArchive(t), newCluster()
	a.pack = 8 << 20
	for i := range 200 {
		c.files[fmt.Sprintf("base/5/%d", 5000+i)] = random(uint64(5000+i), 3*8192)
	}
	c.files["base/5/big"] = random(1, 80*fetchExtent)
	b := a.push(t, c)
	whole := &countedBucket{Bucket: a.bucket}
	to := newTarget(t)
	mustFetch(t, a.config(b, to).through(t, whole))
	c.check(t, to)
	if gets, mb := whole.gets.Load(), whole.read.Load()>>20; gets > 40 || mb < 20 {
		t.Errorf("%d reads of %d MiB, of 80 extents and 200 files", gets, mb)
	}

	for i := range 200 {
		if i%40 != 0 {
			c.files[fmt.Sprintf("base/5/%d", 5000+i)] = nil
		}
	}
	c.files["base/5/big"] = nil
	c.start += 16 << 20
	b = a.push(t, c)
	part := &countedBucket{Bucket: a.bucket}
	to = newTarget(t)
	mustFetch(t, a.config(b, to).through(t, part))
	c.check(t, to)
	if part.read.Load()*3 > whole.read.Load() {
		t.Errorf("%d bytes read of a few files, %d of all", part.read.Load(), whole.read.Load())
	}
}

// A countedBucket counts what is read of packs, and in how many requests.
type countedBucket struct {
	storage.Bucket
	read, gets atomic.Int64
}

func (b *countedBucket) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	body, err := b.Bucket.Get(ctx, key, offset, length)
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(key, "chunks_006/packs/") {
		return body, nil
	}
	b.gets.Add(1)
	return &countedBody{body, &b.read}, nil
}

type countedBody struct {
	io.ReadCloser
	read *atomic.Int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.read.Add(int64(n))
	return n, err
}

func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

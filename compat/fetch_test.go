package compat_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"wal-e/compat"
	"wal-e/compat/lzop"
)

// tree lists what is below a directory: files with their content, links with
// where they lead.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		switch {
		case d.IsDir():
			rel += "/"
		case d.Type() == fs.ModeSymlink:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			rel += " -> " + to
		default:
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			rel += "=" + string(b)
		}
		list = append(list, rel)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func wantTree(t *testing.T, dir string, want ...string) {
	t.Helper()
	slices.Sort(want)
	got := tree(t, dir)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("restored\n%q, want\n%q", got, want)
	}
}

var plain = []string{
	"./", "PG_VERSION=13\n", "backup_label=START", "base/", "base/1/", "base/1/112=relation", "global/", "global/pg_control=control", "pg_tblspc/", "pg_wal/",
}

func with(more ...string) []string { return append(slices.Clone(plain), more...) }

func mustFetch(t *testing.T, a *classicArchive, cfg compat.FetchConfig) *compat.FetchReport {
	t.Helper()
	r, err := a.fetch(t, cfg)
	if err != nil || !r.Done {
		t.Fatalf("Fetch = %+v, %v", r, err)
	}
	return r
}

// GNU and pax archives, members that depend on other partitions, hard links, long
// and strange names.
func TestFetch(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("long/", 40) + "file"
	for _, format := range []tar.Format{tar.FormatGNU, tar.FormatPAX} {
		a := newClassic(t)
		members := cluster(file(long, "x"), file("base/1/ü \n", "y"))
		a.partition(t, 0, format, hardLink("base/1/twin", "base/1/112"), link("base/short", "1/112"))
		a.partition(t, 1, format, members...)
		a.sentinel(t, size(members))
		dir := filepath.Join(t.TempDir(), "a", "b")
		r := mustFetch(t, a, compat.FetchConfig{Dir: dir})
		want := with("base/1/twin=relation", "base/short -> 1/112", "base/1/ü \n=y", long+"=x")
		for p := filepath.Dir(long); p != "."; p = filepath.Dir(p) {
			want = append(want, p+"/")
		}
		wantTree(t, dir, want...)
		if r.Files != 6 || r.Bytes != size(members) || r.Partitions != 2 || len(r.Warnings) > 0 {
			t.Errorf("report %+v", r)
		}
		for name, mode := range map[string]fs.FileMode{"": 0o700, "PG_VERSION": 0o600, "global": 0o700} {
			info, err := os.Stat(filepath.Join(dir, name))
			if err != nil || info.Mode().Perm() != mode {
				t.Errorf("%s: %v, %v, want %v", name, info.Mode(), err, mode)
			}
		}
		if info, err := os.Stat(filepath.Join(dir, "PG_VERSION")); err != nil || !info.ModTime().Equal(modTime) {
			t.Errorf("PG_VERSION is of %v, %v", info.ModTime(), err)
		}
	}
}

// What an archive should not hold: an error that names it, and nothing outside.
func TestHostile(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		members []*tar.Header
		want    string
	}{
		{"parent", []*tar.Header{file("../x", "x")}, `"../x"`},
		{"parent within", []*tar.Header{file("base/../../x", "x")}, `"base/../../x"`},
		{"absolute", []*tar.Header{file("/tmp/x", "x")}, `"/tmp/x"`},
		{"dot", []*tar.Header{file("./x", "x")}, `"./x"`},
		{"double slash", []*tar.Header{file("base//x", "x")}, `"base//x"`},
		{"a file for the root", []*tar.Header{file("", "x")}, "takes the place"},
		{"device", []*tar.Header{{Typeflag: tar.TypeChar, Name: "null", Devmajor: 1, Devminor: 3}}, `"null"`},
		{"hard link out", []*tar.Header{hardLink("x", "../y")}, `hard link to "../y"`},
		{"hard link to an absolute path", []*tar.Header{hardLink("x", "/etc/passwd")}, `hard link to "/etc/passwd"`},
		{"hard link to nothing", []*tar.Header{hardLink("x", "y")}, "restore x"},
		{"hard link to itself", []*tar.Header{hardLink("base/1/112", "base/1/112")}, "restore base/1/112"},
		{"a file twice", []*tar.Header{file("base/1/112", "x")}, "restore base/1/112"},
		{"pg_control twice", []*tar.Header{file("global/pg_control", "x")}, "there are two of it"},
		{"a file for a directory", []*tar.Header{file("base/1", "x")}, "restore base/1"},
		{"a file for a parent", []*tar.Header{file("PG_VERSION/x", "x")}, "restore PG_VERSION/x"},
		{"a link in place of a file", []*tar.Header{link("base/1/112", "/etc")}, "restore base/1/112"},
		{"a tablespace without number", []*tar.Header{file("pg_tblspc/x/y", "x")}, "pg_tblspc/x"},
		{"the marker", []*tar.Header{file(".wal-e-fetch/fetch.json", "x")}, "a fetch's own"},
		{"the map is no map", []*tar.Header{file("tablespace_map", "x")}, "tablespace_map"},
		{"a map too large", []*tar.Header{file("tablespace_map", strings.Repeat("x", 5<<20))}, "more than"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			a := live(t, tc.members...)
			parent := t.TempDir()
			_, err := a.fetch(t, compat.FetchConfig{Dir: filepath.Join(parent, "data")})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Fetch = %v, want %s", err, tc.want)
			}
			if entries, _ := os.ReadDir(parent); len(entries) != 1 {
				t.Errorf("beside the directory is %v", entries)
			}
			if _, err := os.Lstat(filepath.Join(parent, "data/global/pg_control")); err == nil {
				t.Error("a server would start")
			}
		})
	}
}

// Links are made last, so nothing goes through them, also not where one stands
// for a directory of other members.
func TestLinksLeadNowhere(t *testing.T) {
	t.Parallel()
	outside := t.TempDir()
	a := live(t, link("sub", outside), file("sub/x", "x"))
	if _, err := a.fetch(t, compat.FetchConfig{Dir: filepath.Join(t.TempDir(), "data")}); err == nil || !strings.Contains(err.Error(), "restore sub") {
		t.Errorf("Fetch = %v", err)
	}
	// A link that is there already doesn't lead out either.
	a = live(t, file("sub.conf/x", "x"))
	dir := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, "sub.conf")); err != nil {
		t.Fatal(err)
	}
	if _, err := a.fetch(t, compat.FetchConfig{Dir: dir}); err == nil || !strings.Contains(err.Error(), "restore sub.conf/x") {
		t.Errorf("Fetch = %v", err)
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 {
		t.Errorf("outside is %v, %v", entries, err)
	}
	// A link that nothing goes through is restored, with a warning.
	a = live(t, link("server.crt", "/etc/ssl/x.pem"), link("base/up", "../../x"), link("pg_wal", outside), link("pg_log", outside))
	a.replace(t, a.name.Partition(0), partition(t, tar.FormatPAX, slices.DeleteFunc(cluster(
		link("server.crt", "/etc/ssl/x.pem"), link("base/up", "../../x"), link("pg_wal", outside), link("pg_log", outside),
	), func(h *tar.Header) bool { return h.Name == "pg_wal/" })...))
	dir = filepath.Join(t.TempDir(), "data")
	r := mustFetch(t, a, compat.FetchConfig{Dir: dir})
	wantTree(t, dir, with("server.crt -> /etc/ssl/x.pem", "base/up -> ../../x", "pg_log/")...)
	if len(r.Warnings) != 4 {
		t.Errorf("warnings %q", r.Warnings)
	}
}

// What must not be in a restored cluster.
func TestLeftOut(t *testing.T) {
	t.Parallel()
	fifo := &tar.Header{Typeflag: tar.TypeFifo, Name: "pipe"}
	a := live(t, file("standby.signal", ""), file("recovery.signal", ""), fifo)
	dir := t.TempDir()
	if r := mustFetch(t, a, compat.FetchConfig{Dir: dir}); len(r.Warnings) != 3 {
		t.Errorf("warnings %q", r.Warnings)
	}
	wantTree(t, dir, plain...)
}

// Backups that are not whole.
func TestIncomplete(t *testing.T) {
	t.Parallel()
	without := func(names ...string) func(*testing.T, *classicArchive) {
		return func(t *testing.T, a *classicArchive) {
			a.replace(t, a.name.Partition(0), partition(t, tar.FormatGNU, slices.DeleteFunc(cluster(), func(h *tar.Header) bool { return slices.Contains(names, h.Name) })...))
		}
	}
	damage := func(change func([]byte) []byte) func(*testing.T, *classicArchive) {
		return func(t *testing.T, a *classicArchive) {
			key := a.name.Partition(0)
			a.replace(t, key, change(bytes.Clone(a.read(t, key))))
		}
	}
	sentinel := func(s string) func(*testing.T, *classicArchive) {
		return func(t *testing.T, a *classicArchive) { a.replace(t, a.name.Sentinel(), []byte(s)) }
	}
	for _, tc := range []struct {
		name   string
		change func(*testing.T, *classicArchive)
		err    error // nil: any
		text   string
		early  bool // refused before anything is written
	}{
		{"no partition", func(t *testing.T, a *classicArchive) { _ = a.Delete(t.Context(), a.name.Partition(0)) }, compat.ErrIncomplete, "tar_partitions", true},
		{"a gap", func(t *testing.T, a *classicArchive) { a.put(t, a.name.Partition(2), nil) }, compat.ErrIncomplete, "part_00000001", true},
		{"no first", func(t *testing.T, a *classicArchive) {
			a.put(t, a.name.Partition(1), nil)
			_ = a.Delete(t.Context(), a.name.Partition(0))
		}, compat.ErrIncomplete, "part_00000000", true},
		{"no pg_control", without("global/pg_control"), compat.ErrIncomplete, "global/pg_control", false},
		{"no PG_VERSION", without("PG_VERSION"), compat.ErrIncomplete, "PG_VERSION", false},
		{"no backup_label", without("backup_label"), compat.ErrIncomplete, "backup_label", false},
		{"cut short", damage(func(b []byte) []byte { return b[:len(b)-5] }), lzop.ErrDamaged, "part_00000000", false},
		{"empty", damage(func(b []byte) []byte { return nil }), compat.ErrNotClassic, "it is empty", false},
		{"a bit", damage(func(b []byte) []byte { b[100] ^= 1; return b }), lzop.ErrDamaged, "part_00000000", false},
		{"no lzop file", damage(func(b []byte) []byte { return []byte("hello, world") }), compat.ErrNotClassic, "part_00000000", false},
		{"encrypted, no key", damage(func(b []byte) []byte { return []byte("\x85\x01\x0c\x03xxxxxxxxx") }), compat.ErrUndecipherable, "part_00000000", false},
		{"sentinel of nothing", sentinel(""), nil, "sentinel", true},
		{"sentinel of a list", sentinel("[]"), nil, "sentinel", true},
		{"sentinel without stop", sentinel("{}"), nil, "wal_segment_backup_stop", true},
		{"sentinel with a strange tablespace", sentinel(`{"wal_segment_backup_stop": "000000010000000000000004", "spec": {"tablespaces": ["../x"], "../x": {"loc": "/", "link": "x"}}}`), nil, "want an OID", true},
		{"sentinel with a strange link", sentinel(`{"wal_segment_backup_stop": "000000010000000000000004", "spec": {"tablespaces": ["1"], "1": {"loc": "/x", "link": "../x"}}}`), nil, "pg_tblspc/1", true},
		{"sentinel with a relative place", sentinel(`{"wal_segment_backup_stop": "000000010000000000000004", "spec": {"tablespaces": ["1"], "1": {"loc": "x"}}}`), nil, "absolute path", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			a := live(t)
			tc.change(t, a)
			dir := filepath.Join(t.TempDir(), "data")
			_, err := a.fetch(t, compat.FetchConfig{Dir: dir})
			if err == nil || tc.err != nil && !errors.Is(err, tc.err) || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("Fetch = %v, want %v, %s", err, tc.err, tc.text)
			}
			if _, err := os.Lstat(dir); tc.early != errors.Is(err, fs.ErrNotExist) {
				t.Errorf("directory: %v", err)
			}
			if _, err := os.Lstat(filepath.Join(dir, "global/pg_control")); err == nil {
				t.Error("a server would start")
			}
			backup := compat.Backup{Name: a.name}
			v, err := compat.Verify(t.Context(), compat.VerifyConfig{Bucket: a, ReadData: true}, backup)
			if tc.err == compat.ErrUndecipherable {
				if !errors.Is(err, tc.err) {
					t.Errorf("Verify = %v, want %v", err, tc.err)
				}
				return
			}
			if err != nil || v.OK || !strings.Contains(v.Problems[0].Object+v.Problems[0].Text, tc.text) {
				t.Errorf("Verify = %+v, %v", v, err)
			}
		})
	}
}

// A fetch that failed goes on with the same backup, and with no other.
func TestFetchAgain(t *testing.T) {
	t.Parallel()
	a := live(t, file("base/1/113", "more"), link("base/short", "1"), hardLink("base/1/twin", "base/1/112"))
	good := a.read(t, a.name.Partition(0))
	a.replace(t, a.name.Partition(0), good[:len(good)-4])
	dir := filepath.Join(t.TempDir(), "data")
	if _, err := a.fetch(t, compat.FetchConfig{Dir: dir}); !errors.Is(err, lzop.ErrDamaged) {
		t.Fatal(err)
	}
	a.replace(t, a.name.Partition(0), good)
	other := live(t)
	other.name.Offset = "00000217"
	other.sentinel(t, 0)
	other.partition(t, 0, tar.FormatGNU, cluster()...)
	if _, err := other.fetch(t, compat.FetchConfig{Dir: dir}); err == nil || !strings.Contains(err.Error(), "unfinished fetch of backup "+liveName) {
		t.Errorf("Fetch of another = %v", err)
	}
	mustFetch(t, a, compat.FetchConfig{Dir: dir})
	wantTree(t, dir, with("base/1/113=more", "base/short -> 1", "base/1/twin=relation")...)
	if _, err := a.fetch(t, compat.FetchConfig{Dir: dir}); err == nil || !strings.Contains(err.Error(), "holds a cluster already") {
		t.Errorf("Fetch over a cluster = %v", err)
	}
}

// Directories that a restore could destroy something in are refused; what a user
// prepares is used.
func TestTarget(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"postmaster.pid": "live data directory", "PG_VERSION": "holds a cluster already", "notes.txt": "isn't empty: it holds notes.txt",
		"pg_wal/000000010000000000000001": "isn't empty", "pg_tblspc/1/x": "isn't the link of a tablespace",
	} {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		before := tree(t, dir)
		if _, err := live(t).fetch(t, compat.FetchConfig{Dir: dir}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
		wantTree(t, dir, before...)
	}
	dir, wal := t.TempDir(), t.TempDir()
	for name, content := range map[string]string{"postgresql.conf": "mine", "extra.conf": "mine"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(wal, filepath.Join(dir, "pg_wal")); err != nil {
		t.Fatal(err)
	}
	r := mustFetch(t, live(t, file("extra.conf", "theirs"), file("other.conf", "theirs")), compat.FetchConfig{Dir: dir})
	wantTree(t, dir, slices.DeleteFunc(with("postgresql.conf=mine", "extra.conf=mine", "other.conf=theirs", "pg_wal -> "+wal), func(s string) bool { return s == "pg_wal/" })...)
	if len(r.Warnings) != 1 { // of the file that stays
		t.Errorf("warnings %q", r.Warnings)
	}
	dir, wal = filepath.Join(t.TempDir(), "data"), filepath.Join(t.TempDir(), "wal")
	mustFetch(t, live(t), compat.FetchConfig{Dir: dir, WALDir: wal})
	if to, err := os.Readlink(filepath.Join(dir, "pg_wal")); err != nil || to != wal {
		t.Errorf("pg_wal leads to %s, %v", to, err)
	}
}

// Tablespaces go where options, links or the backup say, and the map with them.
func TestTablespaces(t *testing.T) {
	t.Parallel()
	original := filepath.Join(t.TempDir(), "original")
	archive := func(t *testing.T) *classicArchive {
		a := newClassic(t)
		members := cluster(file("pg_tblspc/16842/PG_13_202007201/5/1", "spaced"), dir("pg_tblspc/16842/PG_13_202007201"), file("tablespace_map", "16842 "+original+"\n"))
		a.partition(t, 0, tar.FormatPAX, members...)
		a.sentinel(t, size(members), "16842="+original+"/")
		return a
	}
	spaced := []string{"./", "PG_13_202007201/", "PG_13_202007201/5/", "PG_13_202007201/5/1=spaced"}
	elsewhere := func() string { return filepath.Join(t.TempDir(), "elsewhere") }
	check := func(t *testing.T, dir, want string) {
		t.Helper()
		wantTree(t, want, spaced...)
		wantTree(t, dir, with("tablespace_map=16842 "+want+"\n", "pg_tblspc/16842 -> "+want)...)
	}
	t.Run("map", func(t *testing.T) {
		dir, to := filepath.Join(t.TempDir(), "data"), elsewhere()
		mustFetch(t, archive(t), compat.FetchConfig{Dir: dir, TablespaceMap: map[string]string{"16842": to}})
		check(t, dir, to)
	})
	t.Run("restore specification", func(t *testing.T) {
		dir, to := filepath.Join(t.TempDir(), "data"), elsewhere()
		spec := `{"16842": {"loc": "` + to + `/", "link": "pg_tblspc/16842"}, "tablespaces": ["16842"], "base_prefix": "/nowhere"}`
		mustFetch(t, archive(t), compat.FetchConfig{Dir: dir, RestoreSpec: []byte(spec)})
		check(t, dir, to)
	})
	t.Run("link", func(t *testing.T) {
		dir, to := t.TempDir(), t.TempDir()
		if err := errors.Join(os.Mkdir(filepath.Join(dir, "pg_tblspc"), 0o700), os.Symlink(to, filepath.Join(dir, "pg_tblspc/16842"))); err != nil {
			t.Fatal(err)
		}
		mustFetch(t, archive(t), compat.FetchConfig{Dir: dir})
		check(t, dir, to)
	})
	t.Run("blind", func(t *testing.T) {
		dir := t.TempDir()
		mustFetch(t, archive(t), compat.FetchConfig{Dir: dir, BlindRestore: true})
		wantTree(t, dir, with("pg_tblspc/16842/", "pg_tblspc/16842/PG_13_202007201/", "pg_tblspc/16842/PG_13_202007201/5/", "pg_tblspc/16842/PG_13_202007201/5/1=spaced")...)
	})
	t.Run("original", func(t *testing.T) {
		dir := t.TempDir()
		mustFetch(t, archive(t), compat.FetchConfig{Dir: dir})
		check(t, dir, original)
		// Now it isn't empty.
		dir = filepath.Join(t.TempDir(), "data")
		if _, err := archive(t).fetch(t, compat.FetchConfig{Dir: dir}); err == nil || !strings.Contains(err.Error(), "--tablespace-map 16842=DIR") {
			t.Errorf("Fetch = %v", err)
		}
	})
	for name, m := range map[string]map[string]string{
		"unknown": {"1": "/x"}, "by name": {"fast": "/x"}, "relative": {"16842": "x"},
	} {
		if _, err := archive(t).fetch(t, compat.FetchConfig{Dir: elsewhere(), TablespaceMap: m}); err == nil || !strings.Contains(err.Error(), "tablespace map") {
			t.Errorf("%s: %v", name, err)
		}
	}
	dir := filepath.Join(t.TempDir(), "data")
	if _, err := archive(t).fetch(t, compat.FetchConfig{Dir: dir, TablespaceMap: map[string]string{"16842": dir + "/in"}}); err == nil || !strings.Contains(err.Error(), "in one another") {
		t.Errorf("within: %v", err)
	}
}

// A plan changes nothing.
func TestDryRun(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	r, err := live(t).fetch(t, compat.FetchConfig{Dir: dir, DryRun: true})
	if err != nil || r.Done || r.Partitions != 1 {
		t.Errorf("Fetch = %+v, %v", r, err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("directory: %v", err)
	}
}

// What was there before the first try is the user's in each further one.
func TestFetchAgainKeepsFiles(t *testing.T) {
	t.Parallel()
	a := live(t, file("server.key", "of the backup"))
	key := a.name.Partition(0)
	whole := a.read(t, key)
	dir := t.TempDir()
	mine := filepath.Join(dir, "server.key")
	if err := os.WriteFile(mine, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	a.replace(t, key, whole[:len(whole)-5])
	for range 2 {
		if _, err := a.fetch(t, compat.FetchConfig{Dir: dir}); !errors.Is(err, lzop.ErrDamaged) {
			t.Fatalf("Fetch = %v", err)
		}
	}
	a.replace(t, key, whole)
	r := mustFetch(t, a, compat.FetchConfig{Dir: dir})
	if b, err := os.ReadFile(mine); err != nil || string(b) != "mine" || len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "server.key was there") {
		t.Errorf("server.key is %q, %v; warnings %q", b, err, r.Warnings)
	}
}

// A fetch that was killed at its very end has put pg_control in its place. While the
// next one works, and when it fails, no server may start there.
func TestFetchAgainWithoutControl(t *testing.T) {
	t.Parallel()
	a := live(t)
	key := a.name.Partition(0)
	whole := a.read(t, key)
	dir := filepath.Join(t.TempDir(), "data")
	a.replace(t, key, whole[:len(whole)-5])
	if _, err := a.fetch(t, compat.FetchConfig{Dir: dir}); !errors.Is(err, lzop.ErrDamaged) {
		t.Fatalf("Fetch = %v", err)
	}
	control := filepath.Join(dir, "global/pg_control")
	if err := os.MkdirAll(filepath.Dir(control), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(control, []byte("control"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := a.fetch(t, compat.FetchConfig{Dir: dir}); !errors.Is(err, lzop.ErrDamaged) {
		t.Fatalf("Fetch = %v", err)
	}
	if _, err := os.Stat(control); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a server would start: %v", err)
	}
	a.replace(t, key, whole)
	mustFetch(t, a, compat.FetchConfig{Dir: dir})
	wantTree(t, dir, plain...)
}

// A damaged backup doesn't become a good one by trying again.
func TestFetchAgainTwice(t *testing.T) {
	t.Parallel()
	a := live(t)
	a.partition(t, 1, tar.FormatPAX, file("base/1/112", "another"))
	dir := filepath.Join(t.TempDir(), "data")
	for range 3 {
		if _, err := a.fetch(t, compat.FetchConfig{Dir: dir}); err == nil || !strings.Contains(err.Error(), "base/1/112") || !errors.Is(err, compat.ErrBadMember) {
			t.Errorf("Fetch = %v", err)
		}
	}
	v, err := compat.Verify(t.Context(), compat.VerifyConfig{Bucket: a, ReadData: true}, compat.Backup{Name: a.name})
	if err != nil || v.OK {
		t.Errorf("Verify = %+v, %v", v, err)
	}
}

// WAL goes in a further try to where it went in the first.
func TestFetchAgainWALDir(t *testing.T) {
	t.Parallel()
	a := live(t)
	key := a.name.Partition(0)
	whole := a.read(t, key)
	dir, wal, other := filepath.Join(t.TempDir(), "data"), filepath.Join(t.TempDir(), "wal"), filepath.Join(t.TempDir(), "other")
	a.replace(t, key, whole[:len(whole)-5])
	if _, err := a.fetch(t, compat.FetchConfig{Dir: dir, WALDir: wal}); !errors.Is(err, lzop.ErrDamaged) {
		t.Fatalf("Fetch = %v", err)
	}
	a.replace(t, key, whole)
	if _, err := a.fetch(t, compat.FetchConfig{Dir: dir, WALDir: other}); err == nil || !strings.Contains(err.Error(), wal) {
		t.Errorf("Fetch with WAL elsewhere = %v", err)
	}
	if r := mustFetch(t, a, compat.FetchConfig{Dir: dir}); r.WALDir != wal {
		t.Errorf("WAL is reported in %q", r.WALDir)
	}
	wantTree(t, dir, append(slices.DeleteFunc(with(), func(s string) bool { return s == "pg_wal/" }), "pg_wal -> "+wal)...)
}

// An archive that ends without the end that tar writes, or goes on behind it, may lack
// members.
func TestPartitionEnd(t *testing.T) {
	t.Parallel()
	repack := func(t *testing.T, a *classicArchive, change func(plain []byte) []byte) {
		key := a.name.Partition(0)
		plain, err := io.ReadAll(lzop.NewReader(bytes.NewReader(a.read(t, key)), 1))
		if err != nil {
			t.Fatal(err)
		}
		a.replace(t, key, packed(t, change(plain)))
	}
	for name, tc := range map[string]struct {
		change func(plain []byte) []byte
		ok     bool
	}{
		"as it is":     {func(b []byte) []byte { return b }, true},
		"filled up":    {func(b []byte) []byte { return append(b, make([]byte, 10240)...) }, true},
		"no end":       {func(b []byte) []byte { return b[:len(b)-1024] }, false},
		"half an end":  {func(b []byte) []byte { return b[:len(b)-512] }, false},
		"more members": {func(b []byte) []byte { return append(b, b...) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := live(t)
			repack(t, a, tc.change)
			_, err := a.fetch(t, compat.FetchConfig{Dir: filepath.Join(t.TempDir(), "data")})
			if tc.ok && err != nil || !tc.ok && !errors.Is(err, compat.ErrBadMember) {
				t.Errorf("Fetch = %v", err)
			}
			v, err := compat.Verify(t.Context(), compat.VerifyConfig{Bucket: a, ReadData: true}, compat.Backup{Name: a.name})
			if err != nil || v.OK != tc.ok {
				t.Errorf("Verify = %+v, %v", v, err)
			}
		})
	}
}

// A path that isn't UTF-8 is the same one in the next try.
func TestFetchAgainNotUTF8(t *testing.T) {
	t.Parallel()
	a := newClassic(t)
	members := cluster(file("pg_tblspc/16400/PG_13_202007201/x", "x"))
	a.partition(t, 0, tar.FormatPAX, members...)
	a.sentinel(t, size(members), "16400=/srv/x")
	key := a.name.Partition(0)
	whole := a.read(t, key)
	base := t.TempDir()
	dir, space, wal := filepath.Join(base, "data"), filepath.Join(base, "sch\xf6n"), filepath.Join(base, "w\xe4l")
	a.replace(t, key, whole[:len(whole)-5])
	cfg := compat.FetchConfig{Dir: dir, WALDir: wal, TablespaceMap: map[string]string{"16400": space}}
	if _, err := a.fetch(t, cfg); !errors.Is(err, lzop.ErrDamaged) {
		t.Fatalf("Fetch = %v", err)
	}
	a.replace(t, key, whole)
	mustFetch(t, a, cfg)
	if b, err := os.ReadFile(filepath.Join(space, "PG_13_202007201/x")); err != nil || string(b) != "x" {
		t.Errorf("in the tablespace is %q, %v", b, err)
	}
	if entries, err := os.ReadDir(base); err != nil || len(entries) != 3 {
		t.Errorf("made %v, %v", entries, err)
	}
}

// Of several fetches at once into a directory one restores, and none marks what that
// made as unfinished.
func TestFetchBesideAnother(t *testing.T) {
	t.Parallel()
	a := live(t)
	for range 20 {
		dir := filepath.Join(t.TempDir(), "data")
		var wg sync.WaitGroup
		var done atomic.Int32
		for range 4 {
			wg.Go(func() {
				if r, err := a.fetch(t, compat.FetchConfig{Dir: dir}); err == nil && r.Done {
					done.Add(1)
				}
			})
		}
		wg.Wait()
		if done.Load() != 1 {
			t.Errorf("%d of them restored", done.Load())
		}
		wantTree(t, dir, plain...)
	}
}

package backup

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"wal-e/chunkstore"
)

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

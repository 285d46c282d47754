package backup

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"wal-e/internal/storage"
)

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
	for _, mask := range []int{0, 0o027, 0o077} {
		to := newTarget(t)
		old := syscall.Umask(mask)
		_, err := Fetch(t.Context(), a.config(b, to))
		syscall.Umask(old)
		if err != nil {
			t.Fatalf("Fetch with umask %03o = %v", mask, err)
		}
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

// The history of a timeline goes along, if there is one.
func TestFetchWALHistory(t *testing.T) {
	t.Parallel()
	a, c := newArchive(t), newCluster().withoutSpaces()
	c.change = func(m *Manifest) { m.Timeline = 3 }
	b := a.push(t, c)
	for _, there := range []bool{true, false} {
		to := newTarget(t)
		cfg := a.config(b, to)
		asked := 0
		cfg.FetchWAL = func(_ context.Context, _, name, dest string) error {
			if strings.HasSuffix(name, ".history") {
				asked++
				if !there {
					return fmt.Errorf("%s: %w", name, storage.ErrNotExist)
				}
			}
			return os.WriteFile(dest, []byte(name), 0o666)
		}
		r := mustFetch(t, cfg)
		warned := slices.ContainsFunc(r.Warnings, func(w string) bool { return strings.Contains(w, "00000003.history isn't there") })
		if asked != 1 || warned == there {
			t.Errorf("there %t: asked %d times, warnings %q", there, asked, r.Warnings)
		}
		path := filepath.Join(to.dir, "pg_wal/00000003.history")
		if exists(path) != there {
			t.Errorf("there %t: history in pg_wal: %t", there, exists(path))
		} else if there {
			checkMode(t, path, 0o600)
		}
	}
}

// Links that a user made for WAL and for configuration are used, and stay.
func TestFetchKeepsLinks(t *testing.T) {
	t.Parallel()
	for _, overwrite := range []bool{false, true} {
		a, c, to := newArchive(t), newCluster().withoutSpaces(), newTarget(t)
		c.files["conf.d/a.conf"], c.dirs["conf.d"] = []byte("a = 1\n"), 0o700
		cfg := a.config(a.push(t, c), to)
		cfg.OverwriteConfig = overwrite
		mkdir(t, to.base, "wal/archive_status")
		write(t, filepath.Join(to.base, "etc/mine.conf"), "mine = 1\n")
		mkdir(t, to.dir)
		link(t, filepath.Join(to.base, "wal"), to.dir, "pg_wal")
		link(t, filepath.Join(to.base, "etc"), to.dir, "conf.d")
		r := mustFetch(t, cfg)
		delete(c.files, "conf.d/a.conf")
		c.check(t, to)
		if r.WALDir != filepath.Join(to.base, "wal") {
			t.Errorf("WAL directory = %q", r.WALDir)
		}
		if got, err := os.Readlink(filepath.Join(to.dir, "pg_wal")); err != nil || got != r.WALDir {
			t.Errorf("pg_wal = %q, %v, want a link to %s", got, err, r.WALDir)
		}
		if names := tree(t, filepath.Join(to.base, "etc")); len(names) != 2 {
			t.Errorf("a linked folder has %q, want mine.conf only", names)
		}
		checkBaseManifest(t, to.dir)
	}
}

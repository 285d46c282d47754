package backup

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"wal-e/internal/storage/storagetest"
)

// moved returns a cluster whose tablespace was in a directory of the test.
func moved(to string) *cluster {
	c := newCluster()
	c.links = map[string]string{"pg_tblspc/16390": to}
	return c
}

// Without a word, a tablespace goes back to where it was, as long as nothing is
// there: absent, or empty.
func TestFetchSpaceToItsPlace(t *testing.T) {
	t.Parallel()
	for _, present := range []bool{false, true} {
		a, to := newArchive(t), newTarget(t)
		c := moved(to.fast)
		cfg := a.config(a.push(t, c), to)
		cfg.TablespaceMap = nil
		if present {
			mkdir(t, to.fast, "lost+found")
		}
		r := mustFetch(t, cfg)
		c.check(t, to)
		if got := r.Tablespaces[0].Directory; got != to.fast {
			t.Errorf("tablespace is in %s, want %s", got, to.fast)
		}
		if got, want := read(t, to.dir, "tablespace_map"), "16390 "+to.fast+"\n"; got != want {
			t.Errorf("tablespace_map = %q, want %q", got, want)
		}
	}
}

// A path is bytes: a tablespace goes back to where it was, whatever the encoding of
// its name, and an unfinished fetch goes on there.
func TestFetchSpaceNotUTF8(t *testing.T) {
	t.Parallel()
	a, to := newArchive(t), newTarget(t)
	to.fast = filepath.Join(to.base, "sch\xf6n")
	c := moved(to.fast)
	b := a.push(t, c)
	counted := storagetest.NewFaulty(a.bucket, storagetest.Fault{})
	mustFetch(t, a.config(b, newTarget(t)).through(t, counted))
	cfg := a.config(b, to).through(t, storagetest.NewFaulty(a.bucket, storagetest.Fault{Call: counted.Calls(), Mode: storagetest.FailFrom}))
	cfg.TablespaceMap = nil
	if _, err := Fetch(t.Context(), cfg); err == nil {
		t.Fatal("Fetch = nil from a store that ends")
	}
	if m, err := readMarker(to.dir); err != nil || m == nil || m.Spaces[16390] != to.fast {
		t.Fatalf("marker = %+v, %v", m, err)
	}
	cfg = a.config(b, to)
	cfg.TablespaceMap = nil
	mustFetch(t, cfg)
	c.check(t, to)
	if got, want := read(t, to.dir, "tablespace_map"), "16390 "+to.fast+"\n"; got != want {
		t.Errorf("tablespace_map = %q, want %q", got, want)
	}
}

// The original still runs: nothing is written there.
func TestFetchSpaceInUse(t *testing.T) {
	t.Parallel()
	a, to := newArchive(t), newTarget(t)
	c := moved(to.fast)
	cfg := a.config(a.push(t, c), to)
	cfg.TablespaceMap = nil
	write(t, filepath.Join(to.fast, "PG_15_202209061/5/16391"), "the original")
	_, err := Fetch(t.Context(), cfg)
	if err == nil || !strings.Contains(err.Error(), "--tablespace-map 16390=DIR") {
		t.Errorf("Fetch = %v, want a way out", err)
	}
	if got := read(t, to.fast, "PG_15_202209061/5/16391"); got != "the original" {
		t.Errorf("the original's file is %q", got)
	}
}

// A link that the user made leads, as it did in the classic program.
func TestFetchSpaceByLink(t *testing.T) {
	t.Parallel()
	a, to := newArchive(t), newTarget(t)
	c := newCluster()
	cfg := a.config(a.push(t, c), to)
	cfg.TablespaceMap = nil
	cfg.BlindRestore = true // doesn't count where there is a link
	mkdir(t, to.fast)
	mkdir(t, to.dir, "pg_tblspc")
	mkdir(t, to.base, "stray")
	link(t, to.fast, to.dir, "pg_tblspc/16390")
	link(t, filepath.Join(to.base, "stray"), to.dir, "pg_tblspc/17000")
	r := mustFetch(t, cfg)
	c.check(t, to)
	if r.Tablespaces[0].Directory != to.fast || r.Tablespaces[0].Blind {
		t.Errorf("tablespace = %+v, want %s", r.Tablespaces[0], to.fast)
	}
	if got, want := read(t, to.dir, "tablespace_map"), "16390 "+to.fast+"\n"; got != want {
		t.Errorf("tablespace_map = %q, want %q", got, want)
	}
	if !slices.ContainsFunc(r.Warnings, func(s string) bool { return strings.Contains(s, "pg_tblspc/17000") }) {
		t.Errorf("warnings = %q, want one of the stray link", r.Warnings)
	}
}

func TestFetchBlind(t *testing.T) {
	t.Parallel()
	a, c, to := newArchive(t), newCluster(), newTarget(t)
	c.links["pg_tblspc/16400"] = "/nowhere/slow"
	b := a.push(t, c)
	b.Manifest.Tablespaces[0].Name, b.Manifest.Tablespaces[1].Name = "", ""
	cfg := a.config(b, to)
	cfg.BlindRestore = true
	cfg.TablespaceMap = map[string]string{"16400": to.fast}
	r := mustFetch(t, cfg)
	c.check(t, to)
	if info, err := os.Lstat(filepath.Join(to.dir, "pg_tblspc/16390")); err != nil || !info.IsDir() {
		t.Errorf("pg_tblspc/16390 = %v, %v, want a directory", info, err)
	}
	if got, want := read(t, to.dir, "tablespace_map"), "16400 "+to.fast+"\n"; got != want {
		t.Errorf("tablespace_map = %q, want %q", got, want)
	}
	if !slices.ContainsFunc(r.Next, func(s string) bool { return strings.Contains(s, "allow_in_place_tablespaces = on") }) {
		t.Errorf("next = %q, want allow_in_place_tablespaces", r.Next)
	}

	// With a recovery it is written; without a mapped one there is no map.
	to = newTarget(t)
	cfg = a.config(b, to)
	cfg.BlindRestore, cfg.TablespaceMap = true, nil
	cfg.Recover = &RecoverConfig{RestoreCommand: "cp %f %p"}
	r = mustFetch(t, cfg)
	if exists(filepath.Join(to.dir, "tablespace_map")) {
		t.Error("tablespace_map was written")
	}
	if !strings.Contains(read(t, to.dir, "postgresql.auto.conf"), "allow_in_place_tablespaces = 'on'") {
		t.Errorf("recovery = %+v, want allow_in_place_tablespaces", r.Recovery)
	}
	checkBaseManifest(t, to.dir)
}

// In-place tablespaces are folders like others.
func TestFetchInPlace(t *testing.T) {
	t.Parallel()
	a, c, to := newArchive(t), newCluster(), newTarget(t)
	c.links = nil
	c.dirs["pg_tblspc/16390"] = 0o700
	c.change = func(m *Manifest) {
		m.Tablespaces = []Tablespace{{OID: 16390, Name: "inside", Location: "pg_tblspc/16390"}}
	}
	cfg := a.config(a.push(t, c), to)
	cfg.TablespaceMap = nil
	r := mustFetch(t, cfg)
	c.check(t, to)
	if len(r.Tablespaces) != 0 {
		t.Errorf("tablespaces = %+v, want none", r.Tablespaces)
	}
}

// A tablespace that came and went during the backup has no place to go to, and
// recovery needs none of its files.
func TestFetchPassingSpace(t *testing.T) {
	t.Parallel()
	a, c, to := newArchive(t), newCluster(), newTarget(t)
	c.change = func(m *Manifest) { m.Tablespaces, m.TablespaceMap = []Tablespace{}, nil }
	r := mustFetch(t, a.config(a.push(t, c), to))
	if exists(filepath.Join(to.dir, "pg_tblspc/16390")) {
		t.Error("its link was made")
	}
	if !slices.ContainsFunc(r.Warnings, func(s string) bool { return strings.Contains(s, "16390") }) {
		t.Errorf("warnings = %q, want one of 16390", r.Warnings)
	}
	checkBaseManifest(t, to.dir)
}

// Before 14 the map has other escapes.
func TestFetchMapEscapes(t *testing.T) {
	t.Parallel()
	for version, want := range map[int]string{130005: "16390 %s/a b\\c\\\nd\n", 140005: "16390 %s/a b\\\\c\\\nd\n"} {
		a, c, to := newArchive(t), newCluster(), newTarget(t)
		c.change = func(m *Manifest) { m.ServerVersion = version }
		cfg := a.config(a.push(t, c), to)
		dir := filepath.Join(to.base, "a b\\c\nd")
		cfg.TablespaceMap = map[string]string{"fast": dir}
		mustFetch(t, cfg)
		if got, want := read(t, to.dir, "tablespace_map"), strings.Replace(want, "%s", to.base, 1); got != want {
			t.Errorf("version %d: tablespace_map = %q, want %q", version, got, want)
		}
		c.check(t, to)
	}
}

func TestFetchRestoreSpec(t *testing.T) {
	t.Parallel()
	a, c := newArchive(t), newCluster()
	b := a.push(t, c)
	for name, tc := range map[string]struct{ spec, want string }{
		"good":          {`{"16390": {"loc": "FAST/", "link": "pg_tblspc/16390"}, "tablespaces": ["16390"], "base_prefix": "/var/lib/pg"}`, ""},
		"without link":  {`{"16390": {"loc": "FAST"}, "tablespaces": ["16390"]}`, ""},
		"another link":  {`{"16390": {"loc": "FAST", "link": "../x"}, "tablespaces": ["16390"]}`, "link"},
		"relative":      {`{"16390": {"loc": "fast"}, "tablespaces": ["16390"]}`, "absolute"},
		"not described": {`{"tablespaces": ["16390"]}`, "16390"},
		"unknown":       {`{"16391": {"loc": "FAST"}, "tablespaces": ["16391"]}`, "no tablespace 16391"},
		"not mounted":   {`{"16390": {"loc": "FAST/below"}, "tablespaces": ["16390"]}`, "mounted"},
		"no OID":        {`{"x": {"loc": "FAST"}, "tablespaces": ["x"]}`, "OID"},
		"no JSON":       {`tablespaces`, "invalid"},
		"another type":  {`{"tablespaces": 5}`, "tablespaces"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			to := newTarget(t)
			cfg := a.config(b, to)
			cfg.TablespaceMap, cfg.RestoreSpec = nil, filepath.Join(to.base, "spec.json")
			write(t, cfg.RestoreSpec, strings.ReplaceAll(tc.spec, "FAST", to.fast))
			_, err := Fetch(t.Context(), cfg)
			if tc.want != "" {
				if err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("Fetch = %v, want an error with %q", err, tc.want)
				}
				return
			}
			if err != nil {
				t.Fatalf("Fetch = %v", err)
			}
			c.check(t, to)
		})
	}
}

package main_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"wal-e/internal/pgtest"
)

// export writes a backup of a to another archive, in the classic layout, and returns
// its name.
func (a *archive) export(t *testing.T, to *archive, args ...string) string {
	t.Helper()
	r := a.must(t, nil, append([]string{"export", "--json", "--to", "file://localhost" + to.prefix}, args...)...)
	var p struct {
		Name, Layout string
		WALFiles     int `json:"wal_files"`
	}
	if err := json.Unmarshal([]byte(r.stdout), &p); err != nil || p.Layout != "classic" || p.Name == "" {
		t.Fatalf("export --json printed %q, %v", r.stdout, err)
	}
	return p.Name
}

// What is exported lzop, tar and we restore to the same rows: a live backup with a
// tablespace, and an offline one, which needs no WAL.
func TestExport(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, major int) {
		a, to := newArchive(t), newArchive(t)
		c := a.start(t, pgtest.Options{Major: major, SegmentSizeMB: 1, DataChecksums: true})
		c.Pgbench(t, "-i", "-q", "-s", "2")
		inTablespace(t, c)
		oid := filepath.Base(onlyEntry(t, filepath.Join(c.Dir, "pg_tblspc")))
		stop := load(t, c)
		pushed := a.push(t, c)
		stop()
		want := c.Query(t, contents)
		c.WaitArchived(t, c.SwitchWAL(t))
		name := a.export(t, to, "--wal", "LATEST")
		if name != pushed.Name {
			t.Errorf("%s was exported as %s", pushed.Name, name)
		}
		to.must(t, nil, "verify", "--all", "--read-data", "--wal")
		to.checkWithOriginals(t)
		check := func(how, dir, space string) {
			t.Helper()
			r := to.recovered(t, dir, classicRestore{Timeline: "latest"})
			if got := r.Query(t, contents); got != want {
				t.Errorf("%s: contents:\n%s\nwant:\n%s", how, got, want)
			}
			if got := r.Query(t, "SELECT pg_tablespace_location("+oid+")"); got != space {
				t.Errorf("%s: tablespace is in %s, want %s", how, got, space)
			}
			r.AmCheck(t)
			r.Stop(t, pgtest.Fast)
		}
		space := target(t)
		check("original", to.restoreAsOriginal(t, name, map[string]string{oid: space}), space)
		dir, space := target(t), target(t)
		to.must(t, nil, "backup-fetch", "--tablespace-map", oid+"="+space, dir, "LATEST")
		to.configure(t, dir)
		check("ours", dir, space)
		a.fails(t, nil, 1, []string{"is in file://localhost" + to.prefix + " already", "WALE-1109"}, "export", "--to", to.prefix, name)
		a.fails(t, nil, 1, []string{"holds an archive in the new layout", "WALE-1801"}, "export", "--to", a.prefix, name)

		c.Stop(t, pgtest.Fast)
		name = a.export(t, to, a.push(t, c, "--while-offline").Name)
		a.must(t, nil, "wal-verify") // it needs no WAL
		to.must(t, nil, "verify", "--read-data", name)
		dir = to.restoreAsOriginal(t, name, map[string]string{oid: target(t)})
		a.sh(t, "rm "+dir+"/recovery.signal")
		r := pgtest.Adopt(t, dir, pgtest.Options{Conf: map[string]string{"archive_mode": "off"}})
		if got := r.Query(t, contents); got != want {
			t.Errorf("offline: contents:\n%s\nwant:\n%s", got, want)
		}
	})
}

// Nothing of one cluster is written into the classic archive of another.
func TestExportToAnother(t *testing.T) {
	t.Parallel()
	tc := classicRestores(t)[0]
	a, to := newArchive(t), writableFixture(t, tc.Prefix)
	if tc.GPG != "" {
		a.importKey(t, tc.GPG)
	}
	c := a.start(t, pgtest.Options{SegmentSizeMB: 1})
	c.Stop(t, pgtest.Fast)
	a.push(t, c, "--while-offline")
	before := to.keys(t)
	a.fails(t, nil, 1, []string{"holds the WAL of system", "WALE-1205"}, "export", "--to", to.prefix, "LATEST")
	if after := to.keys(t); !slices.Equal(before, after) {
		t.Errorf("the destination changed: %v to %v", before, after)
	}
	// Without any WAL the backups say whose the archive is.
	to.sh(t, "rm -r "+to.prefix+"/wal_005")
	before = to.keys(t)
	a.fails(t, nil, 1, []string{"holds backups of system", "WALE-1205"}, "export", "--to", to.prefix, "LATEST")
	if after := to.keys(t); !slices.Equal(before, after) {
		t.Errorf("the destination changed: %v to %v", before, after)
	}
}

// What was imported of an archive of the original is exported again, and restores to
// the rows to which the original restored it.
func TestExportOfImport(t *testing.T) {
	t.Parallel()
	for _, tc := range classicRestores(t) {
		if tc.Case != "plain-latest" && tc.Case != "encrypted-latest" {
			continue
		}
		t.Run(tc.Case, func(t *testing.T) {
			t.Parallel()
			a, _ := importFixture(t, tc.Prefix, tc.GPG)
			to := newArchive(t)
			name := a.export(t, to, "--wal", tc.Resolves)
			to.checkWithOriginals(t)
			spaces := make(map[string]string)
			for oid := range tc.Tablespaces {
				spaces[oid] = target(t)
			}
			c := to.recovered(t, to.restoreAsOriginal(t, name, spaces), tc)
			checkRows(t, c, tc)
		})
	}
}

// An export of an encrypted backup is encrypted to whom is named.
func TestExportEncrypted(t *testing.T) {
	t.Parallel()
	k := newKeyPair(t, "dba@example.com")
	plain, to := newArchive(t), newArchive(t)
	host, owner := k.host(plain), k.owner(t, plain)
	c := host.start(t, pgtest.Options{SegmentSizeMB: 1})
	c.Exec(t, "CREATE TABLE t AS SELECT 'marker-in-a-table-' || i AS v FROM generate_series(1, 2000) i")
	first := host.push(t, c)
	host.fails(t, nil, 1, []string{"private key"}, "export", "--to", to.prefix, first.Name)
	if entries, err := os.ReadDir(to.prefix); len(entries) > 0 || err != nil && !os.IsNotExist(err) {
		t.Errorf("an export without a private key left %v, %v", entries, err)
	}
	owner.env = append(owner.env, "WALE_GPG_PUBLIC_KEY_FILE="+k.public)
	name := owner.export(t, to, first.Name)
	hidden(t, to.prefix, "marker-in-a-table", "PG_VERSION")
	dir := target(t)
	reader := k.owner(t, to)
	reader.must(t, nil, "verify", "--all", "--read-data", "--wal")
	reader.must(t, nil, "backup-fetch", dir, name)
	reader.configure(t, dir)
	r := reader.recovered(t, dir, classicRestore{Timeline: "latest"})
	if got := r.Query(t, "SELECT count(*) FROM t"); got != "2000" {
		t.Errorf("restored %s rows", got)
	}
}

// Without its WAL a backup isn't exported, and a damaged one leaves nothing that looks
// like a backup.
func TestExportRefuses(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	c := a.start(t, pgtest.Options{SegmentSizeMB: 1})
	pushed := a.push(t, c)
	packs, err := filepath.Glob(filepath.Join(a.prefix, "chunks_006/packs/*/*"))
	if err != nil || len(packs) == 0 {
		t.Fatalf("packs: %v, %v", packs, err)
	}
	sentinel := func(to *archive) string {
		return filepath.Join(to.prefix, "basebackups_005", pushed.Name+"_backup_stop_sentinel.json")
	}
	to := newArchive(t)
	a.fails(t, nil, 2, []string{"say where to"}, "export", "LATEST")
	a.fails(t, nil, 1, []string{"no backup base_000000010000000000000009_00000040 in"}, "export", "--to", to.prefix, "base_000000010000000000000009_00000040")

	whole, err := os.ReadFile(packs[0])
	if err != nil {
		t.Fatal(err)
	}
	damaged := append([]byte(nil), whole...)
	for i := 100; i < len(damaged)-100; i += 50 {
		damaged[i] ^= 1
	}
	overwrite(t, packs[0], damaged)
	a.fails(t, nil, 1, []string{"export"}, "export", "--to", to.prefix, "LATEST")
	if _, err := os.Stat(sentinel(to)); err == nil {
		t.Error("an export of a damaged backup has a sentinel")
	}
	overwrite(t, packs[0], whole)
	a.must(t, nil, "export", "--to", to.prefix, "LATEST")

	segment := strings.Split(pushed.Name, "_")[1]
	a.removeStored(t, segment)
	again := newArchive(t)
	a.fails(t, nil, 1, []string{segment, "is not in", "WALE-1307"}, "export", "--to", again.prefix, "LATEST")
	if _, err := os.Stat(sentinel(again)); err == nil {
		t.Error("an export without WAL has a sentinel")
	}
}

// overwrite puts a stored object in its place, which nobody may write to.
func overwrite(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// A classic backup of a stopped cluster that we wrote carries its WAL, which no archive
// has. It is imported with that, and goes where WAL is to go.
func TestClassicOfflineOfOurs(t *testing.T) {
	t.Parallel()
	a, to, back := newArchive(t), newArchive(t), newArchive(t)
	c := a.start(t, pgtest.Options{SegmentSizeMB: 1})
	c.Exec(t, "CREATE TABLE t AS SELECT generate_series(1, 2000) i")
	c.Stop(t, pgtest.Fast)
	name := a.export(t, to, a.push(t, c, "--while-offline").Name)
	rows := func(from *archive, dir string) {
		t.Helper()
		from.configure(t, dir)
		r := from.recovered(t, dir, classicRestore{Timeline: "latest"})
		if got := r.Query(t, "SELECT count(*) FROM t"); got != "2000" {
			t.Errorf("restored %s rows", got)
		}
	}
	t.Run("import", func(t *testing.T) {
		back.must(t, nil, "import", "--from", "file://localhost"+to.prefix, "--all")
		back.must(t, nil, "verify", "--all", "--read-data", "--wal")
		dir := target(t)
		back.must(t, nil, "backup-fetch", dir, "LATEST")
		rows(back, dir)
	})
	t.Run("waldir", func(t *testing.T) {
		for range 3 { // whichever partition comes first
			dir, wal := target(t), target(t)
			to.must(t, nil, "backup-fetch", "--waldir", wal, dir, name)
			if at, err := os.Readlink(filepath.Join(dir, "pg_wal")); err != nil || at != wal {
				t.Fatalf("pg_wal is %q, %v; want a link to %s", at, err, wal)
			}
			if segments, err := filepath.Glob(filepath.Join(wal, "0000*")); err != nil || len(segments) == 0 {
				t.Errorf("WAL: %v, %v", segments, err)
			}
		}
		dir, wal := target(t), target(t)
		to.must(t, nil, "backup-fetch", "--waldir", wal, dir, name)
		rows(to, dir)
	})
}

// That all WAL was exported is not said of WAL with a gap.
func TestExportGap(t *testing.T) {
	t.Parallel()
	const second = "base_000000010000000000000007_00000216"
	a, _ := importFixture(t, "prefixes/plain", "")
	for _, gap := range []bool{false, true} {
		if gap {
			a.removeStored(t, "000000010000000000000009")
		}
		r := a.must(t, nil, "export", "--json", "--wal", "--to", newArchive(t).prefix, second)
		if got := strings.Contains(r.stdout, `"wal_complete":true`); got == gap {
			t.Errorf("a gap %v: %s", gap, r.stdout)
		}
		if got := strings.Contains(r.stderr, "000000010000000000000009 is missing"); got != gap {
			t.Errorf("a gap %v:\n%s", gap, r.stderr)
		}
	}
}

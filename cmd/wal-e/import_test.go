package main_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"wal-e/compat/lzop"
)

// importFixture imports a fixture into a prefix of its own, and removes the source.
func importFixture(t *testing.T, prefix, key string) (a *archive, printed string) {
	t.Helper()
	from := writableFixture(t, prefix)
	a = newArchive(t)
	if key != "" {
		a.importKey(t, key)
	}
	before := from.keys(t)
	args := []string{"import", "--from", "file://localhost" + from.prefix, "--all", "--wal"}
	printed = a.must(t, nil, args...).stdout
	again := a.must(t, nil, args...)
	if !strings.Contains(again.stderr, "passing over a backup that is there already") || !strings.Contains(again.stdout, "0 WAL files of system") {
		t.Errorf("a second import did something:\n%s%s", again.stdout, again.stderr)
	}
	if after := from.keys(t); !slices.Equal(before, after) {
		t.Errorf("the source changed: %v to %v", before, after)
	}
	a.sh(t, "rm -rf "+from.prefix)
	a.must(t, nil, "verify", "--all", "--read-data", "--wal")
	return a, printed
}

// What the original restored from its archives we restore from what was imported of
// them, to the same rows.
func TestImport(t *testing.T) {
	t.Parallel()
	groups := make(map[string][]classicRestore)
	for _, tc := range classicRestores(t) {
		if strings.HasPrefix(tc.Case, "plain-b1-") && tc.Target == "" {
			continue // as others, with a tablespace in a place of its own
		}
		groups[tc.Prefix] = append(groups[tc.Prefix], tc)
	}
	for prefix, cases := range groups {
		t.Run(filepath.Base(prefix), func(t *testing.T) {
			t.Parallel()
			a, printed := importFixture(t, prefix, cases[0].GPG)
			t.Logf("imported %s:\n%s", prefix, printed)
			for _, tc := range cases {
				t.Run(tc.Case, func(t *testing.T) {
					dir, query := target(t), tc.Backup
					if strings.Contains(prefix, "offline") {
						query = "LATEST" // its name is the right one now
					}
					args := []string{"backup-fetch"}
					for oid := range tc.Tablespaces {
						args = append(args, "--tablespace-map", oid+"="+target(t))
					}
					a.must(t, nil, append(args, dir, query)...)
					a.configure(t, dir)
					c := a.recovered(t, dir, tc)
					checkRows(t, c, tc)
					c.AmCheck(t)
				})
			}
		})
	}
}

// A second backup of a cluster costs what changed, and so does a push after it.
func TestImportDeduplicates(t *testing.T) {
	t.Parallel()
	_, printed := importFixture(t, "prefixes/plain", "")
	stored := regexp.MustCompile(`([0-9.]+) (KiB|MiB) new`).FindAllStringSubmatch(printed, -1)
	if len(stored) != 2 || stored[0][2] != "MiB" || stored[1][2] != "KiB" && stored[1][1] > "9" {
		t.Errorf("new in the two imports: %v\n%s", stored, printed)
	}
}

// What a push leaves out for its name, an import does, too: a restored cluster would
// keep WAL for a slot, or be a standby.
func TestImportLeavesOut(t *testing.T) {
	t.Parallel()
	const first = "base_000000010000000000000004_00000216"
	from, a := writableFixture(t, "prefixes/plain"), newArchive(t)
	var b bytes.Buffer
	z := lzop.NewWriter(&b, lzop.Header{}, 1)
	w := tar.NewWriter(z)
	for _, name := range []string{"recovery.conf", "recovery.done", "promote", "standby.signal", "postmaster.pid", "backup_label.old", "core.1",
		"pg_replslot/gone/state", "base/1/pg_internal.init", "base/1/pgsql_tmp1.1", "stays.conf"} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: 1, Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	parts := filepath.Join(from.prefix, "basebackups_005", first, "tar_partitions")
	there, err := os.ReadDir(parts)
	if err != nil {
		t.Fatal(err)
	}
	last := filepath.Join(parts, fmt.Sprintf("part_%08d.tar.lzo", len(there)))
	if err := os.WriteFile(last, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	before := a.must(t, nil, "import", "--from", "file://localhost"+from.prefix, "--backup", first).stdout
	list := a.must(t, nil, "--terse", "ls", "--recursive", first).stdout
	if !strings.Contains(list, "stays.conf") {
		t.Fatalf("imported %s, listed:\n%s", before, list)
	}
	for _, name := range []string{"recovery.", "promote", "standby.signal", "postmaster.pid", "backup_label.old", "core.1", "gone", "pg_internal.init", "pgsql_tmp"} {
		if strings.Contains(list, name) {
			t.Errorf("imported %s", name)
		}
	}
}

// Bad sources: nothing looks imported, and the object is named.
func TestImportRefuses(t *testing.T) {
	t.Parallel()
	const first = "base_000000010000000000000004_00000216"
	const partition = "basebackups_005/" + first + "/tar_partitions/part_00000000.tar.lzo"
	for _, tc := range []struct {
		name, script string
		words        []string
	}{
		{"damaged partition", "printf x | dd of=P/" + partition + " bs=1 seek=100000 conv=notrunc 2>/dev/null", []string{partition}},
		{"cut partition", "truncate -s 100000 P/" + partition, []string{partition}},
		{"no partition", "rm P/" + partition, []string{"tar_partitions"}},
		{"hostile sentinel", "echo '[]' >P/basebackups_005/" + first + "_backup_stop_sentinel.json", []string{first + "_backup_stop_sentinel.json", "sentinel"}},
		{"missing WAL", "rm P/wal_005/000000010000000000000004.lzo", []string{"000000010000000000000004", "can't be restored by anybody"}},
		{"another WAL", "cp P/wal_005/000000010000000000000005.lzo P/wal_005/000000010000000000000004.lzo", []string{"000000010000000000000004"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			from, a := writableFixture(t, "prefixes/plain"), newArchive(t)
			from.sh(t, strings.ReplaceAll(tc.script, "P/", from.prefix+"/"))
			a.fails(t, nil, 1, tc.words, "import", "--from", "file://localhost"+from.prefix, "--backup", first)
			if _, err := os.Stat(a.prefix); err == nil {
				if list := a.must(t, nil, "--terse", "backup-list").stdout; strings.Contains(list, "base_") {
					t.Errorf("half an import is listed:\n%s", list)
				}
			}
		})
	}
	// That the last partition is gone, only the size tells.
	const second = "base_000000010000000000000007_00000216"
	from, cut := writableFixture(t, "prefixes/plain"), newArchive(t)
	args := []string{"import", "--from", "file://localhost" + from.prefix, "--backup", second}
	if r := from.must(t, nil, "backup-list", second); r.stdout == "" {
		t.Fatal("the fixture has no second backup")
	}
	if err := os.Remove(filepath.Join(from.prefix, "basebackups_005", second, "tar_partitions/part_00000005.tar.lzo")); err != nil {
		t.Fatal(err)
	}
	if r := cut.must(t, nil, args...); !strings.Contains(r.stderr, "another size than its sentinel says") || !strings.Contains(r.stderr, "loss of the last partitions") {
		t.Errorf("an import without the last partition says nothing of it:\n%s", r.stderr)
	}

	a := writableFixture(t, "prefixes/plain")
	a.fails(t, nil, 1, []string{"is a classic prefix", "upgrade-layout"}, "import", "--all")
	a.fails(t, nil, 2, []string{"--backup NAME, --all, or --wal"}, "import")
	a.must(t, nil, "upgrade-layout", "--confirm")
	a.fails(t, nil, 1, []string{"no classic backup base_0000000100000000000000FF_00000040"}, "import", "--backup", "base_0000000100000000000000FF_00000040")
	a.must(t, nil, "import", "--all", "--wal")
	a.must(t, nil, "delete", "--confirm", "old-versions")
	a.must(t, nil, "verify", "--all", "--read-data", "--wal")
}

// A backup that can't be imported keeps neither the others nor WAL.
func TestImportAllButOne(t *testing.T) {
	t.Parallel()
	const first, second = "base_000000010000000000000004_00000216", "base_000000010000000000000007_00000216"
	for name, script := range map[string]string{
		"damaged partition": "truncate -s 100000 P/basebackups_005/" + first + "/tar_partitions/part_00000000.tar.lzo",
		"hostile sentinel":  "echo '[]' >P/basebackups_005/" + first + "_backup_stop_sentinel.json",
		"missing WAL":       "rm P/wal_005/000000010000000000000004.lzo",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			from, a := writableFixture(t, "prefixes/plain"), newArchive(t)
			// The one that fails is the first to be imported.
			from.sh(t, strings.ReplaceAll(script+"; touch -d 2001-01-01 P/basebackups_005/"+first+"_backup_stop_sentinel.json", "P/", from.prefix+"/"))
			a.fails(t, nil, 1, []string{"1 of 2 classic backups could not be imported", first, "WALE-1804"},
				"import", "--from", "file://localhost"+from.prefix, "--all", "--wal")
			list := a.must(t, nil, "--terse", "backup-list").stdout
			if strings.Contains(list, first) || !strings.Contains(list, second) {
				t.Errorf("imported:\n%s", list)
			}
			a.must(t, nil, "verify", "--all", "--read-data", "--wal")
			a.must(t, nil, "wal-fetch", "00000002000000000000000D", target(t))
		})
	}
}

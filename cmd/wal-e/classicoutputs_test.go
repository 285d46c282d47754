package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// fixturePrefix returns a copy of the archive on which the outputs in
// testdata/classic were made, with the times of its sentinels.
func fixturePrefix(t *testing.T) string {
	t.Helper()
	const fixtures = "../../compat/testdata/classic"
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(fixtures, "prefixes/plain"))); err != nil {
		t.Fatal(err)
	}
	manifest, err := os.ReadFile(filepath.Join(fixtures, "MANIFEST.tsv"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(manifest)) {
		f := strings.Split(strings.TrimSpace(line), "\t")
		name, ok := strings.CutPrefix(f[3], "prefixes/plain/")
		if !ok {
			continue
		}
		whole, fraction, _ := strings.Cut(f[2], ".")
		seconds, err := strconv.ParseInt(whole, 10, 64)
		nanoseconds, err2 := strconv.ParseInt(fraction, 10, 64)
		if err != nil || err2 != nil || len(fraction) != 9 {
			t.Fatalf("time %s of %s", f[2], name)
		}
		at := time.Unix(seconds, nanoseconds)
		if err := os.Chtimes(filepath.Join(dir, name), at, at); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// What classic WAL-E printed about its own archive, we print about it, but for
// what docs/differences.md says.
func TestOutputsOnClassicArchive(t *testing.T) {
	t.Parallel()
	rows := differenceRows(t)
	detail := difference{"list-detail", `base_.*\t\t|base_.*\t\d+\t`}
	cases := map[string][]difference{
		"backup-list":             nil,
		"backup-list-latest":      nil,
		"backup-list-name":        nil,
		"backup-list-name-absent": nil,
		"backup-list-terse":       nil,
		"odd-keys-backup-list":    nil,
		"backup-list-detail":      {detail},
		"backup-list-name-detail": {detail},
		"backup-list-bad-query":   {{"error-hints", `\+.*(HINT: Want LATEST|MORE: wal-e explain WALE-)`}, {"query-detail", `DETAIL: The submitted query operator was "nonsense`}},
	}
	index, err := os.ReadFile("testdata/classic/INDEX.tsv")
	if err != nil {
		t.Fatal(err)
	}
	plain, odd := fixturePrefix(t), fixturePrefix(t)
	for _, key := range []string{
		"wal_005/README", "wal_005/sub/000000010000000000000002.lzo", "wal_005/000000010000000000000002.partial.lzo", "basebackups_005/notes.txt",
		"basebackups_005/base_000000010000000000000001_00000040/extended_version.txt", "basebackups_005/base_000000010000000000000004_00000216/other.txt",
		"basebackups_005/base_000000010000000000000004_00000216/tar_partitions/zzz",
	} {
		writeObject(t, filepath.Join(odd, key), []byte("odd"))
	}
	lines := string(index) + "odd-keys-backup-list\t0\twal-e backup-list\n"
	for line := range strings.Lines(lines) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		name := f[0]
		explained, ok := cases[name]
		if !ok {
			continue
		}
		delete(cases, name)
		dir := plain
		if strings.HasPrefix(name, "odd") {
			dir = odd
		}
		stdout, stderr, code := runAsClassic(t, name, dir, strings.Fields(f[2])[1:])
		if strconv.Itoa(code) != f[1] {
			t.Errorf("%s: exit status %d, classic WAL-E's is %s\n%s", name, code, f[1], stderr)
		}
	lines:
		for _, line := range append(diff(readClassic(t, name+".stdout"), stdout), diff(readClassic(t, name+".stderr"), stderr)...) {
			for _, d := range explained {
				if rows[d.id] && regexp.MustCompile(d.pattern).MatchString(line) {
					continue lines
				}
			}
			t.Errorf("%s: nothing in docs/differences.md explains %q", name, line)
		}
	}
	for name := range cases {
		t.Errorf("testdata/classic/INDEX.tsv lacks %s", name)
	}
}

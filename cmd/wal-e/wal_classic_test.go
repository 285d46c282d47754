package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"wal-e/internal/pgtest"
)

// WAL in the classic layout counts, too: what is missing of it is said, unless it is
// older than all backups, or known.
func TestClassicWALVerify(t *testing.T) {
	t.Parallel()
	a := classicFixture(t, "prefixes/plain")
	a.must(t, nil, "wal-verify", "--read-data")
	shown := a.must(t, nil, "wal-show").stdout
	if want := "classic layout, timeline 1: 9 segments, 000000010000000000000002 to 00000001000000000000000A\n"; !strings.Contains(shown, want) {
		t.Errorf("wal-show lacks %q:\n%s", want, shown)
	}
	for _, name := range []string{"000000010000000000000003", "000000010000000000000006", "000000010000000000000007"} {
		if err := os.Remove(filepath.Join(a.prefix, "wal_005", name+".lzo")); err != nil {
			t.Fatal(err)
		}
	}
	lost := "000000010000000000000006-000000010000000000000007"
	a.fails(t, nil, 1, []string{"2 segments are missing: 000000010000000000000006 to 000000010000000000000007"}, "wal-verify")
	r := a.must(t, nil, "wal-verify", "--known-gap", lost)
	if want := "missing: 000000010000000000000003, 1 segment; no backup needs it"; !strings.Contains(r.stdout, want) {
		t.Errorf("wal-verify lacks %q:\n%s", want, r.stdout)
	}
	path := filepath.Join(a.prefix, "wal_005", "000000010000000000000008.lzo")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	overwrite(t, path, b)
	a.fails(t, nil, 1, []string{"000000010000000000000008.lzo"}, "wal-verify", "--known-gap", lost, "--read-data")
}

// The classic layout is written on clusters with other segments than those of 16 MB,
// too, of which the names of 64 MB end at 3F.
func TestClassicWALVerifySizes(t *testing.T) {
	t.Parallel()
	for _, mb := range []int{1, 64} {
		a := newArchive(t)
		a.env = append(a.env, "WALE_LAYOUT=classic")
		c := a.start(t, pgtest.Options{SegmentSizeMB: mb})
		c.WaitArchived(t, c.SwitchWAL(t))
		found, err := filepath.Glob(filepath.Join(a.prefix, "wal_005", "0*.lzo"))
		if err != nil || len(found) == 0 {
			t.Fatalf("WAL: %v, %v", found, err)
		}
		// As if it went on to the last and the first of two logs.
		data, err := os.ReadFile(found[len(found)-1])
		if err != nil {
			t.Fatal(err)
		}
		last := fmt.Sprintf("%08X", 1<<32/(mb<<20)-1)
		for _, name := range []string{"0000000100000007" + last, "000000010000000800000000"} {
			overwrite(t, filepath.Join(a.prefix, "wal_005", name+".lzo"), data)
		}
		r := a.run(t, nil, "wal-verify")
		if r.code != 0 || strings.Contains(r.stdout, "0000000100000007"+last+" to ") || !strings.Contains(r.stdout, " to 0000000100000007"+fmt.Sprintf("%08X", 1<<32/(mb<<20)-2)) {
			t.Errorf("%d MB:\n%s%s", mb, r.stdout, r.stderr)
		}
	}
}

package main_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// WAL in the classic layout counts, too: what is missing of it is said, unless it is
// older than all backups, or known.
func TestClassicWALVerify(t *testing.T) {
	t.Parallel()
	a := classicFixture(t, "prefixes/plain")
	a.must(t, nil, "wal-verify")
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
	if want := "missing: 000000010000000000000003 to 000000010000000000000003, 1 segments; no backup needs it"; !strings.Contains(r.stdout, want) {
		t.Errorf("wal-verify lacks %q:\n%s", want, r.stdout)
	}
}

package main_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"wal-e/internal/pgtest"
)

// keys lists the objects of an archive.
func (a *archive) keys(t *testing.T) []string {
	t.Helper()
	var keys []string
	err := filepath.WalkDir(a.prefix, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			keys = append(keys, strings.TrimPrefix(path, a.prefix+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(keys)
	return keys
}

// gone returns what is in before and not in after.
func gone(before, after []string) []string {
	return slices.DeleteFunc(slices.Clone(before), func(k string) bool { return slices.Contains(after, k) })
}

func under(keys []string, folder string) []string {
	return slices.DeleteFunc(slices.Clone(keys), func(k string) bool { return !strings.HasPrefix(k, folder) })
}

// Delete in an archive of the original's: what it keeps, what goes, and in which
// words.
func TestClassicDelete(t *testing.T) {
	t.Parallel()
	const first, second = "base_000000010000000000000004_00000216", "base_000000010000000000000007_00000216"
	plain := func(t *testing.T) *archive { return writableFixture(t, "prefixes/plain") }
	segments := func(names ...string) []string {
		var keys []string
		for _, n := range names {
			keys = append(keys, "wal_005/"+n+".lzo")
		}
		return keys
	}
	tests := []struct {
		name   string
		args   []string
		backup string   // that goes
		wal    []string // that goes
		words  []string
	}{
		{"retain", []string{"retain", "1"}, first, segments(
			"000000010000000000000002", "000000010000000000000003", "000000010000000000000004.000000D8.backup",
			"000000010000000000000004", "000000010000000000000005", "000000010000000000000006"),
			[]string{
				"MSG: Deleting 1 oldest base backups.\n        DETAIL: Found 2 total base backups.\n        HINT: Deleting keys older than file://localhost",
				"MSG: deleting a base backup sentinel file", "MSG: deleting a extended version metadata file", "MSG: deleting a base backup volume",
				"MSG: deleting a wal file", "MSG: deleting a backup history file",
			}},
		{"retain all", []string{"retain", "2"}, "", segments("000000010000000000000002", "000000010000000000000003"),
			[]string{"MSG: Retaining all 2 base backups."}},
		{"before", []string{"before", second}, first, segments(
			"000000010000000000000002", "000000010000000000000003", "000000010000000000000004.000000D8.backup",
			"000000010000000000000004", "000000010000000000000005", "000000010000000000000006"), nil},
		{"before the first", []string{"before", first}, "", segments("000000010000000000000002", "000000010000000000000003"), nil},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			a := plain(t)
			before := a.keys(t)
			a.fails(t, nil, 0, append(tc.words, "MSG: performing dry run of data deletion", "HINT: This is only a dry run"), append([]string{"delete"}, tc.args...)...)
			if after := a.keys(t); !slices.Equal(before, after) {
				t.Fatalf("a dry run changed the archive: %v to %v", before, after)
			}
			a.fails(t, nil, 0, append(tc.words, "MSG: deleting data in the store"), append([]string{"delete", "--confirm"}, tc.args...)...)
			went := gone(before, a.keys(t))
			if wal := under(went, "wal_005/"); !slices.Equal(wal, tc.wal) {
				t.Errorf("of WAL went %v, want %v", wal, tc.wal)
			}
			want := under(before, "basebackups_005/"+tc.backup)
			if tc.backup == "" {
				want = nil
			}
			if got := under(went, "basebackups_005/"); !slices.Equal(got, want) || tc.backup != "" && len(got) < 3 {
				t.Errorf("of backups went %v, want %v", got, want)
			}
			a.must(t, nil, "verify", "--all", "--read-data", "--wal")
			// Once more: nothing is left to do.
			a.must(t, nil, append([]string{"delete", "--confirm"}, tc.args...)...)
			if again := gone(before, a.keys(t)); !slices.Equal(again, went) {
				t.Errorf("deleted again, also %v went", gone(again, went))
			}
		})
	}
	t.Run("everything", func(t *testing.T) {
		t.Parallel()
		a := plain(t)
		a.sh(t, "mkdir "+a.prefix+"/mine; touch "+a.prefix+"/mine/own "+a.prefix+"/basebackups_005/strange")
		a.fails(t, nil, 0, []string{"MSG: deleting part of a base backup", "MSG: deleting part of wal logs"}, "delete", "--confirm", "everything")
		if left := a.keys(t); !slices.Equal(left, []string{"mine/own"}) {
			t.Errorf("left: %v", left)
		}
	})
}

// writableFixture returns a copy of a fixture that its owner may change.
func writableFixture(t *testing.T, prefix string) *archive {
	t.Helper()
	a := classicFixture(t, prefix)
	a.sh(t, "chmod -R u+rwX "+a.prefix)
	return a
}

// What has no sentinel may be a push under way: it and its WAL stay until it is
// stalled. Strange keys stay.
func TestClassicDeleteBesidePushes(t *testing.T) {
	t.Parallel()
	a := writableFixture(t, "prefixes/plain")
	const running = "basebackups_005/base_000000010000000000000005_00000040"
	a.sh(t, strings.ReplaceAll("mkdir -p P/"+running+"/tar_partitions; cp P/basebackups_005/base_000000010000000000000004_00000216/tar_partitions/* P/"+running+
		"/tar_partitions; touch P/basebackups_005/strange P/wal_005/000000010000000000000002.lzo.tmp", "P", a.prefix))
	before := a.keys(t)
	a.fails(t, nil, 0, []string{
		"WARNING  MSG: skipping non-qualifying key in 'delete before'\n        DETAIL: The key is file://localhost" + a.prefix + "/basebackups_005/strange.",
		"wal_005/000000010000000000000002.lzo.tmp.",
	}, "delete", "--confirm", "retain", "1")
	went := gone(before, a.keys(t))
	if wal := under(went, "wal_005/"); slices.Contains(wal, "wal_005/000000010000000000000005.lzo") || !slices.Contains(wal, "wal_005/000000010000000000000003.lzo") {
		t.Errorf("of WAL went %v", wal)
	}
	if len(under(went, running)) > 0 || len(under(went, "basebackups_005/base_000000010000000000000004")) == 0 {
		t.Errorf("went %v", went)
	}
	// Two days later it is garbage.
	old := time.Now().Add(-48 * time.Hour)
	for _, k := range under(before, running) {
		if err := os.Chtimes(filepath.Join(a.prefix, k), old, old); err != nil {
			t.Fatal(err)
		}
	}
	a.fails(t, nil, 0, []string{"1 of them never completed"}, "delete", "--confirm", "retain", "1")
	went = gone(before, a.keys(t))
	if len(under(went, running)) == 0 || !slices.Contains(went, "wal_005/000000010000000000000006.lzo") {
		t.Errorf("went %v", went)
	}
}

// A name of the original's may have a wrong segment: the WAL that an offline
// backup really needs stays.
func TestClassicDeleteOffline(t *testing.T) {
	t.Parallel()
	a := writableFixture(t, "prefixes/offline")
	a.sh(t, strings.ReplaceAll("cd P/basebackups_005; for f in base_0000000100000000000000A1_000000A1*; do mv $f base_000000010000000000000050_00000050${f#base_0000000100000000000000A1_000000A1}; done; "+
		"sed -i 's/0000000100000000000000A1/000000010000000000000050/; s/000000A1/00000050/' base_000000010000000000000050_00000050_backup_stop_sentinel.json; "+
		"cd ../wal_005; s=$(ls | grep '^[0-9A-F]*.lzo$' | head -1); for n in 04 05 06 4F 50; do cp $s 0000000100000000000000$n.lzo; done; rm -f 0000000100000000000000A*", "P", a.prefix))
	before := a.keys(t)
	a.must(t, nil, "delete", "--confirm", "retain", "1")
	if went := gone(before, a.keys(t)); !slices.Equal(went, []string{"wal_005/000000010000000000000004.lzo"}) {
		t.Errorf("went %v", went)
	}
}

// After the layout was changed, one retention holds for both, and WAL in the new
// layout stays that a classic backup needs.
func TestDeleteBothLayouts(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	a.env = append(a.env, "WALE_LAYOUT=classic")
	c := a.start(t, pgtest.Options{Major: 15})
	c.Exec(t, "CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) i")
	a.must(t, c, "backup-push", "--checkpoint", "fast", c.Dir)
	c.WaitArchived(t, c.SwitchWAL(t))
	a.env = append(a.env, "WALE_LAYOUT=")
	c.Exec(t, "ALTER SYSTEM SET archive_command = '"+strings.Join(a.env, " ")+" "+a.bin+" --terse wal-push %p'")
	c.Exec(t, "SELECT pg_reload_conf()")
	a.must(t, c, "upgrade-layout", "--confirm")
	for range 3 {
		c.Exec(t, "INSERT INTO t VALUES (0)")
		c.WaitArchived(t, c.SwitchWAL(t))
	}
	a.must(t, c, "backup-push", "--checkpoint", "fast", c.Dir)
	c.Exec(t, "INSERT INTO t VALUES (0)")
	c.WaitArchived(t, c.SwitchWAL(t))
	a.must(t, c, "delete", "old-versions") // a dry run: there is a backup in the new layout
	before := a.keys(t)
	for _, args := range [][]string{{"gc"}, {"delete", "--confirm", "retain", "2"}} {
		a.must(t, c, args...)
		if went := under(gone(before, a.keys(t)), "wal_006/"); len(went) > 0 {
			t.Errorf("%v removed WAL that the classic backup needs: %v", args, went)
		}
	}
	a.fails(t, c, 0, []string{"Deleting 1 oldest base backups.", "deleted from the classic layout"}, "delete", "--confirm", "retain", "1")
	after := a.keys(t)
	if left := under(after, "basebackups_005/"); len(left) > 0 {
		t.Errorf("left of the classic backup: %v", left)
	}
	if went := under(gone(before, after), "wal_006/"); len(went) == 0 {
		t.Error("WAL before the oldest backup stayed")
	}
	a.verified(t, c)
}

// What is old depends on what the prefix holds: in a classic one what the original
// called old; beside the new layout the classic one, once that has a backup.
func TestOldVersions(t *testing.T) {
	t.Parallel()
	a := writableFixture(t, "prefixes/plain")
	a.sh(t, strings.ReplaceAll("mkdir P/wal_004; touch P/wal_004/x.lzo", "P", a.prefix))
	before := a.keys(t)
	a.must(t, nil, "delete", "old-versions")
	if went := gone(before, a.keys(t)); len(went) > 0 {
		t.Errorf("a dry run removed %v", went)
	}
	a.must(t, nil, "delete", "--confirm", "old-versions")
	if went := gone(before, a.keys(t)); !slices.Equal(went, []string{"wal_004/x.lzo"}) {
		t.Errorf("of a classic archive went %v", went)
	}
	a.must(t, nil, "upgrade-layout", "--confirm")
	words := []string{"has no base backup in the new layout", "wal-e backup-push", "--force"}
	a.fails(t, nil, 1, words, "delete", "--confirm", "old-versions")
	if len(under(a.keys(t), "basebackups_005/")) == 0 {
		t.Fatal("the classic backups went without a new one")
	}
	a.must(t, nil, "delete", "--confirm", "old-versions", "--force")
	if left := append(under(a.keys(t), "basebackups_005/"), under(a.keys(t), "wal_005/")...); len(left) > 0 {
		t.Errorf("left with --force: %v", left)
	}
}

// A backup that was imported can be rolled forward with WAL that is in the classic
// layout: without --force that stays until it was imported, too.
func TestOldVersionsNeeded(t *testing.T) {
	t.Parallel()
	a := writableFixture(t, "prefixes/plain")
	a.must(t, nil, "upgrade-layout", "--confirm")
	a.must(t, nil, "import", "--backup", "base_000000010000000000000004_00000216")
	before := a.keys(t)
	words := []string{"000000010000000000000005", "only in the classic layout", "wal-e import --wal", "--force"}
	a.fails(t, nil, 1, words, "delete", "old-versions")
	a.fails(t, nil, 1, words, "delete", "--confirm", "old-versions")
	if went := gone(before, a.keys(t)); len(went) > 0 {
		t.Errorf("went %v", went)
	}
	a.must(t, nil, "import", "--wal")
	a.must(t, nil, "delete", "--confirm", "old-versions")
	if left := append(under(a.keys(t), "basebackups_005/"), under(a.keys(t), "wal_005/")...); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	a.must(t, nil, "verify", "--all", "--wal")
}

// Backups of another cluster don't replace the classic ones.
func TestOldVersionsOfAnother(t *testing.T) {
	t.Parallel()
	a := writableFixture(t, "prefixes/plain")
	other, _ := importFixture(t, "prefixes/offline", "")
	a.sh(t, "cp -r "+other.prefix+"/*_006 "+a.prefix)
	before := a.keys(t)
	a.fails(t, nil, 1, []string{"of other systems", "WALE-1603"}, "delete", "--confirm", "old-versions")
	if went := gone(before, a.keys(t)); len(went) > 0 {
		t.Errorf("went %v", went)
	}
}

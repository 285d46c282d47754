package main_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"wal-e/internal/pgtest"
)

// An archive that classic WAL-E wrote, and its cluster that goes on, move to the new
// layout, back, and forth again. After each step what is stored is restored, where
// the page says that the classic program could, with lzop and tar.
func TestMovingFromClassic(t *testing.T) {
	t.Parallel()
	const space = "16842" // OID of the fixture's tablespace
	a := writableFixture(t, "prefixes/plain")
	p := newPage(t, "moving-from-classic.md", "/srv/archive", a.prefix)
	bindir := "wal-e drill --pg-bindir=" + pgtest.Require(t, 13).Bin + " --scratch=" + pgtest.TempDir(t)
	settings := filepath.Join(p.dir, "etc/wal-e.d/env")
	a.sh(t, "mkdir -p "+settings+" "+p.dir+"/srv; echo file://localhost"+a.prefix+" >"+settings+"/WALE_FILE_PREFIX")
	p.env = append(p.env, "WALE_ENVDIR="+settings)

	// The cluster, as classic WAL-E archived it.
	dir := target(t)
	a.must(t, nil, "backup-fetch", "--tablespace-map", space+"="+target(t), dir, "LATEST")
	a.configure(t, dir)
	c := pgtest.Adopt(t, dir, pgtest.Options{Env: p.env, ArchiveCommand: p.archiveCommand(t), Conf: map[string]string{
		"restore_command": "wal-e --terse wal-fetch %f %p", "recovery_target_action": "promote", "recovery_target_timeline": "latest",
	}})
	c.WaitRecovered(t)
	c.Exec(t, "CREATE TABLE step (i int)")
	write := func() (rows string) {
		t.Helper()
		c.Exec(t, "INSERT INTO step SELECT max(i) + 1 FROM (SELECT 0 UNION ALL SELECT i FROM step) s(i)")
		c.WaitArchived(t, c.SwitchWAL(t))
		return c.Query(t, "SELECT count(*) FROM step")
	}
	// holds fails the test unless a server on dir recovers to all rows.
	holds := func(after, dir, want string, env []string) {
		t.Helper()
		r := pgtest.Adopt(t, dir, pgtest.Options{Env: env, Conf: map[string]string{
			"restore_command": "wal-e --terse wal-fetch %f %p", "recovery_target_action": "promote", "recovery_target_timeline": "latest", "archive_mode": "off",
		}})
		r.WaitRecovered(t)
		if got := r.Query(t, "SELECT count(*) FROM step"); got != want {
			t.Errorf("after %s %s rows are restored, want %s", after, got, want)
		}
		r.Stop(t, pgtest.Immediate)
	}

	if out := p.next(t, c, "backup-list", ""); !strings.Contains(out, "base_000000010000000000000004_00000216\t") || !strings.Contains(out, "base_000000010000000000000007_00000216\t") {
		t.Errorf("backup-list doesn't show the two classic backups:\n%s", out)
	}
	write()
	p.next(t, c, "/srv/trial", "", " LATEST", " --tablespace-map "+space+"="+target(t)+" LATEST")
	if _, err := os.Stat(filepath.Join(p.dir, "srv/trial/global/pg_control")); err != nil {
		t.Errorf("the trial restored nothing: %v", err) // TestClassicRestores starts servers
	}

	p.next(t, c, "backup-push", "")
	want := write()
	if _, err := os.Stat(filepath.Join(a.prefix, "chunks_006")); err == nil {
		t.Error("exchanging the program has begun the new layout")
	}
	name := filepath.Base(lastOf(t, a.prefix+"/basebackups_005/*.json"))
	name = strings.TrimSuffix(name, "_backup_stop_sentinel.json")
	holds("exchange", a.restoreAsOriginal(t, name, map[string]string{space: target(t)}), want, p.env)

	p.next(t, c, "upgrade-layout --confirm", "")
	write()
	p.next(t, c, "drill", "", "wal-e drill", bindir)

	// Back: what comes is where the classic program looks, and that alone is read here.
	p.next(t, c, "echo classic", "")
	want = write()
	back := filepath.Base(lastOf(t, a.prefix+"/basebackups_005/*.json"))
	if back = strings.TrimSuffix(back, "_backup_stop_sentinel.json"); back == name {
		t.Fatalf("there is no classic backup after %s", name)
	}
	classic := newArchive(t)
	a.sh(t, "mkdir -p "+classic.prefix+"; cp -r "+a.prefix+"/*_005 "+classic.prefix)
	holds("going back", classic.restoreAsOriginal(t, back, map[string]string{space: target(t)}), want, append(classic.env, p.env[0]))

	p.next(t, c, "rm ", "")
	want = write()
	p.next(t, c, "wal-e export", "")
	exported := newArchive(t)
	exported.prefix = filepath.Join(p.dir, "srv/classic")
	name = strings.TrimSuffix(filepath.Base(lastOf(t, exported.prefix+"/basebackups_005/*.json")), "_backup_stop_sentinel.json")
	env := []string{"WALE_FILE_PREFIX=file://localhost" + exported.prefix, p.env[0]}
	holds("export", exported.restoreAsOriginal(t, name, map[string]string{space: target(t)}), want, env)

	p.next(t, c, "import --all --wal", "")
	if out := p.next(t, c, "old-versions", ""); strings.Contains(out, "ERROR") {
		t.Errorf("delete old-versions:\n%s", out)
	}
	if left, err := filepath.Glob(a.prefix + "/basebackups_005/*"); err != nil || len(left) > 0 {
		t.Errorf("left of the classic layout: %v, %v", left, err)
	}
	last := target(t)
	a.must(t, nil, "backup-fetch", "--recover", "--tablespace-map", space+"="+target(t), last, "LATEST")
	holds("all of it", last, write(), p.env)
	p.next(t, c, "--from", "", a.prefix, exported.prefix) // what is left of a classic archive here
	p.end(t)
}

// lastOf returns the file that was written last of those that match.
func lastOf(t *testing.T, pattern string) (newest string) {
	t.Helper()
	var at int64
	for _, name := range glob(t, pattern) {
		if info, err := os.Stat(name); err != nil {
			t.Fatal(err)
		} else if now := info.ModTime().UnixNano(); now > at {
			newest, at = name, now
		}
	}
	if newest == "" {
		t.Fatalf("nothing is named %s", pattern)
	}
	return newest
}

// While two archivers are asked for each WAL file, none passes one of them by, also
// after one of them was away and files have piled up.
func TestMovingWithoutGap(t *testing.T) {
	t.Parallel()
	for doc, other := range map[string]string{
		"moving-from-wal-g.md": "wal-g wal-push %p", "moving-from-pgbackrest.md": "pgbackrest --stanza=main archive-push %p",
	} {
		t.Run(doc, func(t *testing.T) {
			t.Parallel()
			a := newArchive(t)
			old := filepath.Join(pgtest.TempDir(t), "old")
			p := newPage(t, doc, other, "cp %p "+old+"/%f")
			settings := filepath.Join(p.dir, "etc/wal-e.d/env")
			a.sh(t, "mkdir -p "+settings+"; echo file://localhost"+a.prefix+" >"+settings+"/WALE_FILE_PREFIX")
			command := p.archiveCommand(t)
			if !strings.HasPrefix(command, "cp ") {
				t.Fatalf("%s has no command for both: %s", doc, command)
			}
			c := pgtest.Start(t, pgtest.Options{SegmentSizeMB: 1, ArchiveCommand: command, Env: p.env})
			c.Exec(t, "CREATE TABLE written (i int)")
			for range 4 {
				c.Exec(t, "INSERT INTO written VALUES (0)")
				c.SwitchWAL(t) // nothing to copy to
			}
			a.sh(t, "mkdir "+old)
			c.Exec(t, "INSERT INTO written VALUES (0)")
			c.WaitArchived(t, c.SwitchWAL(t))
			for _, stored := range glob(t, a.prefix+"/wal_006/*/*") {
				if _, err := os.Stat(filepath.Join(old, filepath.Base(stored))); err != nil {
					t.Errorf("the other archiver wasn't asked for %s: %v", filepath.Base(stored), err)
				}
			}
			a.must(t, c, "backup-push", "--checkpoint", "fast", c.Dir)
			a.must(t, c, "wal-verify")
			p.end(t)
		})
	}
}

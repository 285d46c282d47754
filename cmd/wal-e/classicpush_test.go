package main_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"wal-e/internal/pgtest"
)

// classicPush takes a classic base backup and returns its name.
func (a *archive) classicPush(t *testing.T, c *pgtest.Cluster, args ...string) string {
	t.Helper()
	r := a.must(t, c, append(append([]string{"backup-push", "--checkpoint", "fast", "--json"}, args...), c.Dir)...)
	var p struct{ Name, Layout string }
	if err := json.Unmarshal([]byte(r.stdout), &p); err != nil || p.Layout != "classic" {
		t.Fatalf("backup-push --json printed %q, %v", r.stdout, err)
	}
	return p.Name
}

// checkWithOriginals runs Debian's lzop and GNU tar over everything that we wrote.
func (a *archive) checkWithOriginals(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("lzop"); err != nil {
		t.Fatalf("%v; run: .ci/install-engines classic", err)
	}
	objects, err := filepath.Glob(a.prefix + "/wal_005/*.lzo")
	partitions, err2 := filepath.Glob(a.prefix + "/basebackups_005/*/tar_partitions/*.lzo")
	if err != nil || err2 != nil || len(objects) == 0 || len(partitions) == 0 {
		t.Fatalf("%d WAL files, %d partitions", len(objects), len(partitions))
	}
	if out, err := exec.CommandContext(t.Context(), "lzop", append(append([]string{"-t"}, objects...), partitions...)...).CombinedOutput(); err != nil {
		t.Errorf("lzop -t: %v\n%s", err, out)
	}
	for _, p := range partitions {
		if out, err := exec.CommandContext(t.Context(), "sh", "-c", "lzop -dc "+p+" | tar -tvf - >/dev/null").CombinedOutput(); err != nil ||
			strings.TrimSpace(strings.ReplaceAll(string(out), "tar: Removing leading `/' from member names", "")) != "" {
			t.Errorf("tar -t of %s: %v\n%s", p, err, out)
		}
	}
}

// restoreAsOriginal restores a backup by the steps that classic WAL-E takes, with
// other programs than ours: links to tablespaces by the user, each partition through lzop and
// tar.
func (a *archive) restoreAsOriginal(t *testing.T, name string, spaces map[string]string) string {
	t.Helper()
	dir := target(t)
	script := "mkdir -m 700 " + dir + " " + dir + "/pg_tblspc\n"
	for oid, to := range spaces {
		script += fmt.Sprintf("mkdir -m 700 %s; ln -s %s %s/pg_tblspc/%s\n", to, to, dir, oid)
	}
	script += fmt.Sprintf("for p in %s/basebackups_005/%s/tar_partitions/*; do lzop -dc $p | tar -xf - -C %s; done\n", a.prefix, name, dir)
	for oid, to := range spaces {
		script += fmt.Sprintf("if [ -f %[1]s/tablespace_map ]; then sed -i 's#^%[2]s .*#%[2]s %[3]s#' %[1]s/tablespace_map; fi\n", dir, oid, to)
	}
	a.sh(t, script)
	a.configure(t, dir)
	return dir
}

// A prefix that is to be classic gets WAL and base backups that lzop, tar and we
// restore to the same rows, live ones under load and offline ones.
func TestClassicPush(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, major int) {
		a := newArchive(t)
		a.env = append(a.env, "WALE_LAYOUT=classic")
		c := a.start(t, pgtest.Options{Major: major, DataChecksums: true})
		c.Pgbench(t, "-i", "-q", "-s", "2")
		inTablespace(t, c)
		oid := filepath.Base(onlyEntry(t, filepath.Join(c.Dir, "pg_tblspc")))
		stop := load(t, c)
		name := a.classicPush(t, c)
		stop()
		want := c.Query(t, contents)
		c.WaitArchived(t, c.SwitchWAL(t))
		if entries, err := os.ReadDir(a.prefix); err != nil || len(entries) != 2 {
			t.Errorf("the prefix holds %v, %v", entries, err)
		}
		a.must(t, c, "verify", "--all", "--read-data", "--wal")
		a.checkWithOriginals(t)
		check := func(how, dir, space string) {
			t.Helper()
			r := a.recovered(t, dir, classicRestore{Timeline: "latest"})
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
		check("original", a.restoreAsOriginal(t, name, map[string]string{oid: space}), space)
		dir, space := target(t), target(t)
		a.must(t, nil, "backup-fetch", "--tablespace-map", oid+"="+space, dir, "LATEST")
		a.configure(t, dir)
		check("ours", dir, space)

		// Offline, which needs no WAL from the archive.
		c.Stop(t, pgtest.Fast)
		offline := a.classicPush(t, c, "--while-offline")
		a.must(t, nil, "verify", "--read-data", offline)
		space = target(t)
		dir = a.restoreAsOriginal(t, offline, map[string]string{oid: space})
		a.sh(t, "rm "+dir+"/recovery.signal")
		r := pgtest.Adopt(t, dir, pgtest.Options{Conf: map[string]string{"archive_mode": "off"}})
		if got := r.Query(t, contents); got != want {
			t.Errorf("offline: contents:\n%s\nwant:\n%s", got, want)
		}
		if list := a.must(t, nil, "backup-list").stdout; strings.Count(list, "\r\n") != 3 {
			t.Errorf("list:\n%s", list)
		}
	})
}

// A classic prefix stays one: what another program wrote there goes on in the same
// layout, and a file that was archived before is success, another one is not.
func TestClassicPrefixStays(t *testing.T) {
	t.Parallel()
	a := classicFixture(t, "prefixes/plain")
	if out, err := exec.CommandContext(t.Context(), "chmod", "-R", "a+rwX", a.prefix).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c := a.start(t, pgtest.Options{Major: 13})
	c.Exec(t, "CREATE TABLE t AS SELECT 1")
	first := c.SwitchWAL(t)
	// Our cluster's first segments have names that are taken by another's.
	if !slices.Contains([]string{"000000010000000000000001"}, first) {
		t.Fatalf("first segment is %s", first)
	}
	c.WaitArchived(t, first)
	path := filepath.Join(c.Dir, "pg_wal", first)
	before, err := os.ReadFile(filepath.Join(a.prefix, "wal_005", first+".lzo"))
	if err != nil {
		t.Fatal(err)
	}
	r := a.must(t, c, "wal-push", path, "-p", "1")
	if !strings.Contains(r.stderr, "was archived before, with the same content") {
		t.Errorf("pushed again:\n%s", r.stderr)
	}
	a.sh(t, "cp "+path+" "+path+"x; mv "+path+"x "+filepath.Dir(path)+"/000000010000000000000004")
	a.fails(t, c, 1, []string{"WALE-1502", "holds the WAL from 0/1000000 on"}, "wal-push", filepath.Join(filepath.Dir(path), "000000010000000000000004"), "-p", "1")
	segment, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	binary.LittleEndian.PutUint64(segment[8:], 4<<24) // the position that its name says
	if err := os.WriteFile(filepath.Join(filepath.Dir(path), "000000010000000000000004"), segment, 0o644); err != nil {
		t.Fatal(err)
	}
	a.fails(t, c, 1, []string{"holds another file of that name", "wal_005/000000010000000000000004.lzo"}, "wal-push", filepath.Join(filepath.Dir(path), "000000010000000000000004"), "-p", "1")
	after, err := os.ReadFile(filepath.Join(a.prefix, "wal_005", first+".lzo"))
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("the stored object changed: %v", err)
	}
	if _, err := os.Stat(filepath.Join(a.prefix, "chunks_006")); err == nil {
		t.Error("the prefix has objects of the other layout")
	}
}

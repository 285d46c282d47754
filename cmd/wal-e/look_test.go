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

// What a backup holds, and what changed from one to the next, with the names of
// relations, in a database of its own, a tablespace and the shared catalogs.
func TestLook(t *testing.T) {
	t.Parallel()
	eachVersion(t, func(t *testing.T, major int) {
		a := newArchive(t)
		c := a.start(t, pgtest.Options{Major: major})
		inTablespace(t, c)
		c.Exec(t, "CREATE SCHEMA shop")
		c.Exec(t, "CREATE TABLE shop.orders AS SELECT i, md5(i::text) AS v FROM generate_series(1, 30000) i")
		c.Exec(t, "CREATE TABLE gone (v int)")
		a.push(t, c)
		orders := "base/" + c.Query(t, "SELECT oid FROM pg_database WHERE datname = 'postgres'") + "/" + c.Query(t, "SELECT pg_relation_filenode('shop.orders')")
		gone := strings.TrimSpace(c.Query(t, "SELECT pg_relation_filepath('gone')"))
		first := a.firstBackup(t, c)
		c.Exec(t, "UPDATE shop.orders SET v = 'x' WHERE i = 1")
		c.Exec(t, "DROP TABLE gone")
		c.Exec(t, "CREATE TABLE fresh AS SELECT i, md5(i::text) FROM generate_series(1, 20000) i")
		fresh := c.Query(t, "SELECT pg_relation_filepath('fresh')")
		a.push(t, c)

		for _, tc := range []struct {
			args []string
			want []string
			not  string
		}{
			{[]string{"ls", first}, []string{"base/\n", "PG_VERSION\n", "global/\n"}, "base/1/\n"},
			{[]string{"ls", first, "global"}, []string{"global/pg_control\n", "  pg_database\n"}, "PG_VERSION"},
			{[]string{"ls", first, orders}, []string{orders + "  postgres: shop.orders\n"}, "gone"},
			{[]string{"ls", "-R", "LATEST", "pg_tblspc"}, []string{" -> /", "  postgres: public.spaced\n", "  postgres: public.spaced (fsm)\n"}, "base"},
			{[]string{"diff", first, "LATEST"}, []string{
				"added      " + fresh + " (", "  postgres: public.fresh\n",
				"removed    " + gone, "  postgres: public.gone\n",
				"changed    " + orders + " (", " new)  postgres: shop.orders\n",
			}, "spaced"},
		} {
			out := a.must(t, c, append([]string{"--terse"}, tc.args...)...).stdout
			for _, w := range tc.want {
				if !strings.Contains(out, w) {
					t.Errorf("%v lacks %q:\n%s", tc.args, w, out)
				}
			}
			if strings.Contains(out, tc.not) {
				t.Errorf("%v has %q:\n%s", tc.args, tc.not, out)
			}
		}
		// Everything is listed once, with the size that was on disk, in order.
		var size int64
		var paths []string
		for line := range strings.Lines(a.must(t, c, "--terse", "ls", "-R", "--json", "LATEST").stdout) {
			var e struct {
				Path, Type string
				Bytes      int64
			}
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatal(err)
			}
			paths, size = append(paths, e.Path), size+e.Bytes
		}
		var listed []struct {
			Bytes int64 `json:"expanded_size_bytes"`
		}
		if err := json.Unmarshal([]byte(a.must(t, c, "--terse", "backup-list", "--json", "LATEST").stdout), &listed); err != nil {
			t.Fatal(err)
		}
		if !slices.IsSortedFunc(paths, func(a, b string) int { return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/")) }) {
			t.Errorf("not in order: %q", paths)
		}
		if len(listed) != 1 || listed[0].Bytes != size || len(slices.Compact(slices.Clone(paths))) != len(paths) {
			t.Errorf("%d paths with %d bytes, backup-list says %+v", len(paths), size, listed)
		}
		if out := a.must(t, c, "--terse", "diff", "LATEST", "LATEST").stdout; !strings.HasPrefix(out, "0 paths differ") {
			t.Errorf("a backup differs from itself:\n%s", out)
		}

		conf, err := os.ReadFile(filepath.Join(c.Dir, "postgresql.conf"))
		if err != nil {
			t.Fatal(err)
		}
		if got := a.must(t, c, "--terse", "cat", "LATEST", "postgresql.conf").stdout; got != string(conf) {
			t.Errorf("cat wrote %d bytes, the file has %d", len(got), len(conf))
		}
		control := a.must(t, c, "--terse", "cat", first, "global/pg_control").stdout
		if len(control) != 8192 {
			t.Errorf("pg_control has %d bytes", len(control))
		}
		a.fails(t, c, 1, []string{"no base/nothing in backup " + first, "`wal-e ls`"}, "cat", first, "base/nothing")
		a.fails(t, c, 1, []string{"no nothing in backup"}, "ls", first, "nothing")
		a.fails(t, c, 1, []string{"leads out of the data directory"}, "cat", first, "../../etc/passwd")
		a.fails(t, c, 1, []string{"is no file"}, "cat", first, "base")
		a.fails(t, c, 1, []string{"no backup base_0000000100000000000000FF_00000028 in file://", "This prefix holds 2 backups: ", first}, "ls", "base_0000000100000000000000FF_00000028")

		// A pack that is lost is named; nothing is said to be whole.
		packs, err := filepath.Glob(filepath.Join(a.prefix, "chunks_006", "packs", "*", "*"))
		if err != nil || len(packs) == 0 {
			t.Fatalf("no packs: %v", err)
		}
		for _, p := range packs {
			if err := os.Remove(p); err != nil {
				t.Fatal(err)
			}
		}
		a.fails(t, c, 1, []string{"pack file://", "is missing"}, "cat", first, orders)
	})
}

// firstBackup returns the name of the oldest backup.
func (a *archive) firstBackup(t *testing.T, c *pgtest.Cluster) string {
	t.Helper()
	_, rest, _ := strings.Cut(a.must(t, c, "--terse", "backup-list").stdout, "\r\n")
	name, _, _ := strings.Cut(rest, "\t")
	return name
}

package main_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"wal-e/internal/pgtest"
)

// report writes a page about what there is: nothing, backups with a gap and a mark,
// a drill, tables of which somebody chose the names.
func TestReport(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	c := a.start(t, pgtest.Options{Major: 15})
	a.sh(t, "mkdir -p "+a.prefix)
	path := filepath.Join(pgtest.TempDir(t), "report.html")
	page := func() string {
		t.Helper()
		a.must(t, c, "--terse", "report", "-o", path)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 {
			t.Errorf("beside the page there are %v, %v", left, err)
		}
		return string(data)
	}
	has := func(page string, patterns ...string) {
		t.Helper()
		for _, p := range patterns {
			if !regexp.MustCompile(p).MatchString(page) {
				t.Errorf("the page lacks %s:\n%s", p, page)
			}
		}
	}
	a.fails(t, c, 2, []string{"-o is required"}, "report")
	has(page(), "there is no base backup in the new layout", "holds no WAL at all", "None is recorded")

	c.Exec(t, `CREATE DATABASE "<script>alert(1)</script>"`)
	c.Exec(t, `CREATE TABLE "<b>&large" AS SELECT i, repeat('x', 900) FROM generate_series(1, 20000) i`)
	first := a.push(t, c)
	c.Exec(t, "CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) i")
	gap := c.SwitchWAL(t)
	second := a.push(t, c)
	last := c.SwitchWAL(t)
	c.WaitArchived(t, last)
	a.must(t, c, "backup-mark", "--keep", first.Name)
	a.sh(t, "rm "+filepath.Join(a.prefix, "wal_006", "*", gap))
	got := page()
	has(got, "<code>"+first.Name+"</code> <span class=\"tag\">kept until released", "<code>"+second.Name+"</code>", `1 missing</span>: <code>`+gap,
		`postgres: public.&lt;b&gt;&amp;large</td>`, `&lt;script&gt;alert\(1\)&lt;/script&gt;</td>`, "no drill has measured it", "<b>Timeline 1</b>", "2 backups. ")
	if strings.Contains(got, "<script") || strings.Contains(got, "What this page doesn't know") {
		t.Errorf("the page is\n%s", got)
	}

	a.must(t, nil, "drill", "--scratch", pgtest.TempDir(t), "--pg-bindir", pgtest.Require(t, 15).Bin, "--no-amcheck")
	has(page(), "at the speed of the drill of 20", `class="green">ok`)
	a.sh(t, "rm -r "+filepath.Join(a.prefix, "chunks_006", "packs"))
	has(page(), "backup "+first.Name+" needs .* that the archive doesn&#39;t hold", "missing packs?</span>")
	a.fails(t, c, 1, []string{"the report is not written", "with -o"}, "report", "-o", "/no/such/folder/report.html")
}

package main

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// docPages returns the documents of the repository that people read, by their path in
// it.
func docPages(t *testing.T) map[string]string {
	t.Helper()
	pages := map[string]string{"README.md": readDoc(t, "README.md"), "bench/README.md": readDoc(t, "bench/README.md")}
	err := fs.WalkDir(os.DirFS("../.."), "docs", func(name string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(name, ".md") && err == nil {
			pages[name] = readDoc(t, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return pages
}

var (
	fence = regexp.MustCompile("(?ms)^[ \t]*```.*?^[ \t]*```[ \t]*$")
	link  = regexp.MustCompile(`\]\(([^)\s]+)\)`)
)

// Each link within the repository leads to a file that is there, and to a heading of
// it.
func TestDocsLinks(t *testing.T) {
	t.Parallel()
	pages := docPages(t)
	linked := map[string]bool{"README.md": true}
	for name, text := range pages {
		for _, m := range link.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			file, anchor, _ := strings.Cut(m[1], "#")
			to := name
			if file != "" {
				to = path.Join(path.Dir(name), file)
			}
			info, err := os.Stat(filepath.Join("../..", to))
			if err != nil {
				t.Errorf("%s: the link %s leads nowhere: %v", name, m[1], err)
				continue
			}
			if name != to && !info.IsDir() {
				linked[to] = true
			}
			if page, ok := pages[to]; anchor != "" && (!ok || !anchors(page)[anchor]) {
				t.Errorf("%s: %s has no heading for the link %s", name, to, m[1])
			}
		}
	}
	for name := range pages {
		if !linked[name] {
			t.Errorf("no page links to %s", name)
		}
	}
}

// The index leads to every page.
func TestDocsIndex(t *testing.T) {
	t.Parallel()
	index := readDoc(t, "docs/README.md")
	for name := range docPages(t) {
		to, err := filepath.Rel("docs", name)
		if err != nil {
			t.Fatal(err)
		}
		if to != "README.md" && !strings.Contains(index, "("+to+")") {
			t.Errorf("docs/README.md has no link to %s", to)
		}
	}
}

// anchors returns the names under which a page's headings can be linked to, as GitHub
// and others make them.
func anchors(page string) map[string]bool {
	names := make(map[string]bool)
	drop := regexp.MustCompile(`[^\p{L}\p{N} _-]`)
	for line := range strings.Lines(fence.ReplaceAllString(page, "")) {
		if title, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && strings.HasPrefix(line, "#") {
			title = strings.ToLower(strings.TrimSpace(title))
			names[strings.ReplaceAll(drop.ReplaceAllString(title, ""), " ", "-")] = true
		}
	}
	return names
}

// What blocks that no test runs have of wal-e can be called so: those of a console, of
// cron, of files of settings. Units of systemd that they name come with the packages,
// and make has the targets. To cron a percent sign is the end of a line.
func TestDocsCalls(t *testing.T) {
	t.Parallel()
	block := regexp.MustCompile("(?ms)^[ \t]*```(?:console|cron|conf|ini|sh|)\n(.*?)^[ \t]*```[ \t]*$")
	call := regexp.MustCompile(`(?:^|[ /])wal-e ([^|;&>)` + "`" + `\n]*)`)
	unit := regexp.MustCompile(`\b(wal-e-[a-z]+@)[a-z0-9-]*(\.timer|\.service)?`)
	target := regexp.MustCompile(`(?m)^\$ make ([a-z-]+)`)
	makefile, calls := readDoc(t, "Makefile"), 0
	inner := regexp.MustCompile(`\$\([^()]*\)`) // another command's output
	for name, page := range docPages(t) {
		switch name {
		case "docs/design.md", "docs/format.md", "docs/reference.md": // no calls, but formats and usages
			continue
		}
		for _, m := range block.FindAllStringSubmatch(page, -1) {
			text := inner.ReplaceAllString(strings.ReplaceAll(m[1], "\\\n", " "), "X")
			for _, c := range call.FindAllStringSubmatch(text, -1) {
				checkCall(t, name, c[1])
				calls++
			}
			for _, g := range target.FindAllStringSubmatch(text, -1) {
				if !strings.Contains(makefile, "\n"+g[1]+": ") {
					t.Errorf("%s: the Makefile has no target %s", name, g[1])
				}
			}
			if strings.Contains(text, "* * *") && strings.Contains(text, "%") {
				t.Errorf("%s: a line of cron has a percent sign:\n%s", name, text)
			}
			for _, u := range unit.FindAllStringSubmatch(text, -1) {
				suffix := u[2]
				if suffix == "" {
					suffix = ".service"
				}
				if _, err := os.Stat(filepath.Join("../../internal/packaging/systemd", u[1]+suffix)); err != nil {
					t.Errorf("%s names the unit %s: %v", name, u[0], err)
				}
			}
		}
	}
	if calls < 100 {
		t.Errorf("only %d calls found in all documents: did the form of their blocks change?", calls)
	}
}

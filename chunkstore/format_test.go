package chunkstore_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"wal-e/chunkstore"
	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
)

// The page that stands in an archive names every object that docs/format.md does.
func TestFormatPage(t *testing.T) {
	t.Parallel()
	b := mem.New(nil)
	if _, err := chunkstore.Admit(t.Context(), b, 1, false); err != nil {
		t.Fatal(err)
	}
	page, err := storage.ReadAll(t.Context(), b, "chunks_006/FORMAT.txt", 1<<16)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile("../docs/format.md")
	if err != nil {
		t.Fatal(err)
	}
	_, names, _ := strings.Cut(string(doc), "\n## 1. Names\n")
	names, _, _ = strings.Cut(names, "\n## 2.")
	spelled := strings.NewReplacer("<NAME>", "base_<SEGMENT>_<OFFSET>", "<R>", "<RUN>", "<epoch>", "<EPOCH>")
	count := 0
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z]+_006/[^`]*)`").FindAllStringSubmatch(names, -1) {
		if m[1] == "chunks_006/FORMAT.txt" {
			continue
		}
		count++
		if name := spelled.Replace(m[1]); !strings.Contains(string(page), "\n"+name+" ") {
			t.Errorf("the page lacks %s", name)
		}
	}
	if count < 15 {
		t.Errorf("docs/format.md names %d objects", count)
	}
	for line := range strings.Lines(string(page)) {
		if len(line) > 110 {
			t.Errorf("a line of %d bytes: %s", len(line), line)
		}
	}
}

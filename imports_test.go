package wale_test

import (
	"bytes"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// allowed is the picture in docs/design.md, section 3: what each package may
// import of the others. A package that is not here fails the test. internal/fault,
// the numbers of errors, is for all.
func allowed() map[string][]string {
	postgresAndStorage := []string{"internal/postgres", "internal/storage"}
	return map[string][]string{
		"internal/fault":               nil,
		"docs":                         nil,
		"internal/chunk":               nil,
		"internal/runid":               nil,
		"internal/seal":                nil,
		"internal/openpgp":             nil,
		"internal/envelope":            nil,
		"internal/postgres":            nil,
		"internal/storage":             nil,
		"internal/storage/azure":       {"internal/storage", "internal/storage/driver", "internal/storage/httpx"},
		"internal/storage/driver":      {"internal/storage"},
		"internal/storage/file":        {"internal/storage"},
		"internal/storage/gcs":         {"internal/storage", "internal/storage/driver", "internal/storage/httpx"},
		"internal/storage/httpx":       {"internal/storage"},
		"internal/storage/mem":         {"internal/storage"},
		"internal/storage/s3":          {"internal/storage", "internal/storage/driver", "internal/storage/httpx"},
		"internal/storage/storagetest": {"internal/storage"},
		"internal/storage/swift":       {"internal/storage", "internal/storage/driver", "internal/storage/httpx"},
		"internal/logging":             nil,
		"internal/progress":            nil,
		"internal/htmlreport":          nil,
		"internal/pgtest":              {"internal/postgres"},
		"internal/enginetest":          nil,
		"internal/drill":               {"internal/postgres"},
		"internal/checkup":             append([]string{"internal/runid"}, postgresAndStorage...),

		"index":       {"internal/chunk", "internal/runid"},
		"chunkstore":  append([]string{"index", "internal/chunk", "internal/envelope", "internal/runid", "internal/seal"}, postgresAndStorage...),
		"backup":      append([]string{"chunkstore", "index", "internal/chunk", "internal/envelope", "internal/progress", "internal/runid", "internal/seal"}, postgresAndStorage...),
		"wal":         postgresAndStorage,
		"compat/lzop": nil,
		"compat":      append([]string{"compat/lzop", "internal/progress"}, postgresAndStorage...),
		"cmd/wal-e": {"backup", "chunkstore", "compat", "compat/lzop", "docs", "gc", "index", "wal", "internal/checkup", "internal/drill", "internal/envelope", "internal/htmlreport", "internal/logging", "internal/openpgp", "internal/postgres", "internal/progress", "internal/runid", "internal/seal",
			"internal/storage", "internal/storage/azure", "internal/storage/file", "internal/storage/gcs", "internal/storage/s3", "internal/storage/swift"},
		"gc":                {"chunkstore", "index", "internal/envelope", "internal/progress", "internal/runid", "internal/postgres", "internal/storage"},
		"internal/simstore": postgresAndStorage,
		"bench":             nil, // its tests may import any; nothing imports it
		"bench/nightly":     nil, // the same
	}
}

// Packages point one way.
func TestImports(t *testing.T) {
	t.Parallel()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), "go", "list", "-f", "{{.ImportPath}}{{range .Imports}} {{.}}{{end}}", "./...")
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.Bytes())
	}
	picture := allowed()
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		pkg := strings.TrimPrefix(strings.TrimPrefix(fields[0], "wal-e"), "/")
		if pkg == "" {
			continue // this test
		}
		may, known := picture[pkg]
		if !known {
			t.Errorf("package %s is not in the table of this test: say there what it may import", pkg)
		}
		for _, imported := range fields[1:] {
			ours, ok := strings.CutPrefix(imported, "wal-e/")
			if ok && ours != "internal/fault" && !slices.Contains(may, ours) {
				t.Errorf("package %s imports %s", pkg, ours)
			}
		}
	}
}

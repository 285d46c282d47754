package main

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"wal-e/internal/fault"
)

// kindsInSource returns the constants of package fault by name.
func kindsInSource(t *testing.T) map[string]fault.Kind {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "../../internal/fault/fault.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]fault.Kind{}
	ast.Inspect(f, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || len(v.Values) != 1 {
			return true
		}
		if number, ok := v.Values[0].(*ast.BasicLit); ok {
			k, err := strconv.Atoi(number.Value)
			if err != nil {
				t.Fatalf("%s: %v", v.Names[0], err)
			}
			kinds[v.Names[0].Name] = fault.Kind(k)
		}
		return true
	})
	if len(kinds) < 50 {
		t.Fatalf("found %d kinds only", len(kinds))
	}
	return kinds
}

// Every number has a section in docs/troubleshooting.md, every section a number,
// and every number an error that gets it.
func TestExplanations(t *testing.T) {
	t.Parallel()
	kinds := kindsInSource(t)
	sections := map[string]bool{}
	for _, s := range explanations() {
		if sections[s.code] {
			t.Errorf("%s has two sections", s.code)
		}
		if len(s.text) < 60 {
			t.Errorf("%s: %q is no explanation", s.code, s.text)
		}
		sections[s.code] = true
	}
	var source strings.Builder
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go") && !strings.Contains(path, "internal/fault/") {
			text, rerr := os.ReadFile(path)
			source.Write(text)
			return rerr
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, k := range kinds {
		if !sections[k.String()] {
			t.Errorf("docs/troubleshooting.md has no section on %s (%s)", k, name)
		}
		delete(sections, k.String())
		if !regexp.MustCompile(`\bfault\.` + name + `\b`).MatchString(source.String()) {
			t.Errorf("no error is a fault.%s", name)
		}
	}
	for code := range sections {
		t.Errorf("docs/troubleshooting.md has a section on %s, which no error has", code)
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	for _, code := range []string{"WALE-1104", "1104", "wale-1104"} {
		var out bytes.Buffer
		err := run(t.Context(), []string{"explain", code}, nil, nil, &out, &out)
		if err != nil || !strings.HasPrefix(out.String(), "WALE-1104: the store doesn't answer\n\n") || !strings.Contains(out.String(), "wal-e check") {
			t.Errorf("explain %s = %v, %s", code, err, out.String())
		}
		if i := slices.IndexFunc(strings.Split(out.String(), "\n"), func(l string) bool { return len(l) > 80 }); i >= 0 {
			t.Errorf("explain %s has long lines:\n%s", code, out.String())
		}
	}
	var out bytes.Buffer
	if err := run(t.Context(), []string{"explain"}, nil, nil, &out, &out); err != nil || strings.Count(out.String(), "\nWALE-") < 50 {
		t.Errorf("explain = %v, %s", err, out.String())
	}
	if err := run(t.Context(), []string{"explain", "WALE-99"}, nil, nil, &out, &out); exitCode(err) != exitUsage {
		t.Errorf("explain WALE-99 = %v", err)
	}
}

// The number is in the record that reports an error, in each format.
func TestCodeIsReported(t *testing.T) {
	t.Parallel()
	missing := filepath.Join(t.TempDir(), "no", "archive")
	for _, tc := range []struct {
		name string
		args []string
		env  []string
		want string
	}{
		{"no prefix", []string{"backup-list"}, nil, "MORE: wal-e explain WALE-1002\n"},
		{"json", []string{"backup-list"}, []string{"WALE_LOG_FORMAT=json"}, `"code":"WALE-1002"`},
		{"usage", []string{"backup-list", "--such"}, nil, "(WALE-1001)"},
		{"unmounted", []string{"--file-prefix", "file://localhost" + missing, "verify", "--all"}, []string{"WALE_RETRIES=1"}, "MORE: wal-e explain WALE-1108\n"},
		{"no server", []string{"wal-push", "kind.go"}, []string{
			"WALE_S3_PREFIX=s3://b/p", "WALE_S3_ENDPOINT=http+path://127.0.0.1:1", "WALE_RETRIES=1", "WALE_PUSH_TIMEOUT=2s", "AWS_ACCESS_KEY_ID=a", "AWS_SECRET_ACCESS_KEY=b",
		}, "MORE: wal-e explain WALE-1104\n"},
		{"no cluster", []string{"--file-prefix", "file://localhost" + t.TempDir(), "backup-push", t.TempDir()}, nil, "MORE: wal-e explain WALE-1301\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			env := append([]string{"WALE_STATE_DIR=" + t.TempDir()}, tc.env...)
			if err := run(t.Context(), tc.args, env, nil, &out, &out); err == nil {
				t.Error("it succeeds")
			}
			if !strings.Contains(out.String(), tc.want) {
				t.Errorf("want %q in:\n%s", tc.want, out.String())
			}
		})
	}
}

package main_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"wal-e/internal/pgtest"
)

func TestDamagedPackRunbook(t *testing.T) {
	t.Parallel()
	r := newRunbook(t, "damaged_pack.md")
	c := r.start(t, pgtest.Options{})
	c.Exec(t, "CREATE TABLE t AS SELECT i, md5(i::text) FROM generate_series(1, 20000) i")
	r.must(t, c, "backup-push", "--checkpoint", "fast", c.Dir)
	dir := pgtest.TempDir(t)
	r.vars = append(r.vars, "PGDATA="+c.Dir, "COPY="+filepath.Join(dir, "copy"))
	r.sh(t, "cp -a "+r.prefix+" "+filepath.Join(dir, "copy"))

	packs := glob(t, filepath.Join(r.prefix, "chunks_006/packs/*/*"))
	indexes := glob(t, filepath.Join(r.prefix, "chunks_006/index/*/*"))
	whole, err := os.ReadFile(packs[0])
	if err != nil {
		t.Fatal(err)
	}
	spoil := func(path string) {
		t.Helper()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)/2] ^= 4
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	spoil(packs[0])
	spoil(indexes[0])
	key := strings.TrimPrefix(packs[0], r.prefix+"/")
	if out := r.next(t, c, "verify --all"); !strings.Contains(out, "PROBLEM "+key) || !strings.Contains(out, "files: ") {
		t.Errorf("verify doesn't name %s and its files:\n%s", key, out)
	}
	if out := r.next(t, c, "--repair --from"); !strings.Contains(out, "repair "+key+": restored") || !strings.Contains(out, ": rebuilt: ") {
		t.Errorf("repair says:\n%s", out)
	}
	r.next(t, c, "verify --all --read-data")
	if b, err := os.ReadFile(packs[0]); err != nil || !bytes.Equal(b, whole) {
		t.Errorf("the pack isn't as it was: %v", err)
	}

	spoil(packs[0])
	if out := r.next(t, c, "--repair"); !strings.Contains(out, "repair "+key+": avoided") {
		t.Errorf("repair without a copy says:\n%s", out)
	}
	if out := r.next(t, c, "backup-push"); strings.Contains(out, "PROBLEM") {
		t.Errorf("the next backup isn't whole:\n%s", out)
	}
	r.end(t)
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("Glob(%s) = %v, %v", pattern, files, err)
	}
	return files
}

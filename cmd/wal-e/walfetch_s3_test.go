package main_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"wal-e/internal/enginetest"
	"wal-e/internal/pgtest"
)

// with returns the archive as seen with further variables.
func (a *archive) with(vars ...string) *archive {
	other := *a
	other.env = append(slices.Clone(a.env), vars...)
	return &other
}

// Only a segment that is proven absent ends a recovery. S3 answers 403 for a
// missing key to who may not list, so such a role proves nothing.
func TestS3MissingOrBroken(t *testing.T) {
	t.Parallel()
	s := enginetest.MinIO(t)
	all := newStorageArchive(t, s3Env(t, s))
	c := all.start(t, pgtest.Options{})
	held := c.SwitchWAL(t)
	c.WaitArchived(t, held)
	const missing = "0000000100000000000000EE"

	// MinIO tells whoever may read a key that it isn't there, with or without
	// ListBucket. What AWS answers without it comes of denying those keys.
	blind := all.as(t, s, `{"Version": "2012-10-17", "Statement": [
		{"Effect": "Allow", "Action": ["s3:GetObject", "s3:PutObject"], "Resource": ["arn:aws:s3:::archive/*"]},
		{"Effect": "Deny", "Action": ["s3:GetObject"], "Resource": ["arn:aws:s3:::archive/*`+missing+`*", "arn:aws:s3:::archive/*.history*"]}]}`)
	wrong := all.with("AWS_SECRET_ACCESS_KEY=not-the-secret", "AWS_SESSION_TOKEN=")
	unknown := all.with("AWS_ACCESS_KEY_ID=nobody", "AWS_SESSION_TOKEN=")
	nobucket := all.with("WALE_S3_PREFIX=s3://no-such-bucket/some/path")
	away := all.with("WALE_S3_ENDPOINT=http+path://127.0.0.1:1")

	// What wal-fetch needs of a data directory, as a standby and as none.
	standby := pgtest.TempDir(t)
	if err := os.Mkdir(filepath.Join(standby, "global"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"PG_VERSION":        read(t, filepath.Join(c.Dir, "PG_VERSION")),
		"global/pg_control": read(t, filepath.Join(c.Dir, "global/pg_control")),
		"standby.signal":    "",
	} {
		if err := os.WriteFile(filepath.Join(standby, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}

	for _, x := range []struct {
		name          string
		as            *archive
		file          string
		code, standby int
	}{
		{"held", all, held, 0, 0},
		{"missing", all, missing, 1, 1},
		{"held, no ListBucket", blind, held, 0, 0},
		{"missing, no ListBucket", blind, missing, 126, 75},
		{"missing history, no ListBucket", blind, "00000002.history", 126, 75},
		{"held, wrong secret", wrong, held, 126, 75},
		{"missing, wrong secret", wrong, missing, 126, 75},
		{"missing, unknown key", unknown, missing, 126, 75},
		{"missing, no such bucket", nobucket, missing, 126, 75},
		{"held, unreachable", away, held, 126, 75},
		{"missing, unreachable", away, missing, 126, 75},
	} {
		t.Run(x.name, func(t *testing.T) {
			for dir, want := range map[string]int{c.Dir: x.code, standby: x.standby} {
				dest := filepath.Join(pgtest.TempDir(t), "RECOVERYXLOG")
				fetch := x.as.with("WALE_FETCH_RETRY=500ms").command(t, c, "wal-fetch", "--prefetch", "0", x.file, dest)
				fetch.Dir = dir
				r := runCommand(t, fetch)
				if r.code != want {
					t.Errorf("wal-fetch %s in %s: exit %d, want %d\n%s", x.file, filepath.Base(dir), r.code, want, r.stderr)
				}
				if want > 1 && !strings.Contains(r.stderr, x.file) {
					t.Errorf("wal-fetch doesn't name %s:\n%s", x.file, r.stderr)
				}
				if _, err := os.Lstat(dest); (err == nil) != (want == 0) {
					t.Errorf("wal-fetch with exit %d: its destination is there: %v", r.code, err == nil)
				}
			}
		})
	}

	// WAL that can't be archived is an error that PostgreSQL tries again, in time.
	for _, x := range []struct {
		name, word string
		as         *archive
	}{
		{"wrong secret", held, wrong},
		{"no such bucket", "no-such-bucket", nobucket},
		{"unreachable", held, away},
	} {
		t.Run("wal-push, "+x.name, func(t *testing.T) {
			push := x.as.with("WALE_PUSH_TIMEOUT=2s").command(t, c, "wal-push", "pg_wal/"+held)
			push.Dir = c.Dir
			r := runCommand(t, push)
			if r.code < 1 || r.code > 125 || !strings.Contains(r.stderr, x.word) || !strings.Contains(r.stderr, held) {
				t.Errorf("wal-push: exit %d, want 1 to 125, the segment, and a word on %s\n%s", r.code, x.word, r.stderr)
			}
			if strings.Contains(r.stderr, "WALE_LAYOUT") {
				t.Errorf("wal-push sends who has no archive after its layout:\n%s", r.stderr)
			}
		})
	}
}

package main_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"wal-e/internal/pgtest"
)

// A runbook is a document whose blocks of sh are run one after the other.
type runbook struct {
	*archive
	name   string
	dir    string // in place of /srv
	blocks []string
	vars   []string
}

func newRunbook(t *testing.T, name string) *runbook {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("../../docs/runbooks", name))
	if err != nil {
		t.Fatal(err)
	}
	r := &runbook{archive: newArchive(t), name: name, dir: pgtest.TempDir(t)}
	for _, block := range strings.Split(string(b), "\n```sh\n")[1:] {
		script, _, _ := strings.Cut(block, "\n```")
		r.blocks = append(r.blocks, strings.ReplaceAll(script, "/srv/", r.dir+"/"))
	}
	return r
}

// next runs the next block, of which word is a part, and returns what it printed.
func (r *runbook) next(t *testing.T, c *pgtest.Cluster, word string) string {
	t.Helper()
	if len(r.blocks) == 0 || !strings.Contains(r.blocks[0], word) {
		t.Fatalf("docs/runbooks/%s: %q isn't the next of %q", r.name, word, r.blocks)
	}
	script := r.blocks[0]
	r.blocks = r.blocks[1:]
	cmd := c.Command(t, "bash", "-euo", "pipefail", "-c", script)
	path := filepath.Dir(r.bin) + ":" + filepath.Dir(pgtest.Tool(t, "pg_controldata"))
	cmd.Env = append(append(append(cmd.Env, r.env...), r.vars...), "PATH="+path+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("docs/runbooks/%s: %v\n%s\n%s", r.name, err, script, out)
	}
	return string(out)
}

func (r *runbook) end(t *testing.T) {
	t.Helper()
	if len(r.blocks) > 0 {
		t.Errorf("docs/runbooks/%s: blocks that this test doesn't know: %q", r.name, r.blocks)
	}
}

func TestFailoverRunbook(t *testing.T) {
	t.Parallel()
	r := newRunbook(t, "failover.md")
	small := map[string]string{"autovacuum": "off", "wal_retrieve_retry_interval": "100ms"}
	c := r.start(t, pgtest.Options{SegmentSizeMB: 1, Conf: small})
	c.Exec(t, "CREATE TABLE written (i int, v text)")
	r.push(t, c)
	c.Exec(t, "INSERT INTO written VALUES (1, 'before')")
	c.WaitArchived(t, c.SwitchWAL(t))

	r.next(t, c, "--standby")
	r.next(t, c, "wal-verify")
	s := pgtest.Adopt(t, filepath.Join(r.dir, "standby"), pgtest.Options{Env: r.env, Conf: small})
	s.WaitFor(t, "SELECT count(*) FROM written", "1")
	s.Promote(t)
	s.WaitArchived(t, "00000002.history")
	s.Exec(t, "INSERT INTO written VALUES (2, 'on the second')")
	s.WaitArchived(t, s.SwitchWAL(t))
	if out := r.next(t, s, "wal-show"); !strings.Contains(out, "  2         1 at ") {
		t.Errorf("wal-show doesn't show timeline 2:\n%s", out)
	}
	r.next(t, s, "backup-push")

	c.Stop(t, pgtest.Fast)
	returns := filepath.Join(r.dir, "returns")
	pgtest.CopyDir(t, c.Dir, returns)
	c.StartAgain(t)
	r.vars = append(r.vars, "PGDATA="+returns)
	if out := r.next(t, s, "--delta"); !strings.Contains(out, "over a cluster: ") {
		t.Errorf("backup-fetch says\n%s", out)
	}
	back := pgtest.Adopt(t, returns, pgtest.Options{Env: r.env, Conf: small})
	back.WaitFor(t, "SELECT string_agg(v, ', ' ORDER BY i) FROM written", "before, on the second")
	r.next(t, s, "/old")
	old := pgtest.Adopt(t, filepath.Join(r.dir, "old"), pgtest.Options{Env: r.env, Conf: small})
	old.WaitFor(t, "SELECT string_agg(v, ', ' ORDER BY i) FROM written", "before, on the second")

	// The old primary was not stopped, and has gone on.
	c.Exec(t, "INSERT INTO written VALUES (3, 'on the first')")
	c.WaitArchived(t, c.SwitchWAL(t))
	r.next(t, s, "--target-timeline 1")
	first := r.adopt(t, filepath.Join(r.dir, "first"))
	if got := first.Query(t, "SELECT string_agg(v, ', ' ORDER BY i) FROM written"); got != "before, on the first" {
		t.Errorf("timeline 1 restores to %q", got)
	}
	r.end(t)
}

func TestUpgradeRunbook(t *testing.T) {
	t.Parallel()
	r := newRunbook(t, "pg_upgrade.md")
	old := r.start(t, pgtest.Options{Major: 13, SegmentSizeMB: 1})
	r.vars = []string{"OLD=" + old.Dir}
	r.next(t, old, "backup-push")
	old.Stop(t, pgtest.Fast)

	// What pg_upgrade makes is a cluster of another release and identifier.
	c := r.start(t, pgtest.Options{Major: 15})
	c.Exec(t, "CREATE TABLE written AS SELECT 1 AS i")
	seg := c.SwitchWAL(t)
	r.fails(t, c, 1, []string{"adopt-system"}, "wal-push", filepath.Join(c.Dir, "pg_wal", seg))
	r.vars = append(r.vars, "NEW="+c.Dir)
	r.next(t, c, "adopt-system")
	c.WaitArchived(t, seg)
	r.next(t, c, "backup-push")
	r.end(t)
	dir := target(t)
	r.must(t, nil, "backup-fetch", "--recover", "--system", c.Query(t, "SELECT system_identifier FROM pg_control_system()"), dir, "LATEST")
	if got := r.adopt(t, dir).Query(t, "SELECT i FROM written"); got != "1" {
		t.Errorf("restored %q", got)
	}
}

// A full volume, here a limit on the size of files, is neither the end of WAL nor
// anything else than a failure, and leaves nothing behind.
func TestFullVolume(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	c := a.start(t, pgtest.Options{SegmentSizeMB: 1})
	c.Exec(t, "CREATE TABLE noise AS SELECT gen_random_uuid() FROM generate_series(1, 40000)")
	seg := c.SwitchWAL(t)
	c.WaitArchived(t, seg)
	limited := func(args ...string) result {
		cmd := a.command(t, c, args...)
		full := exec.CommandContext(t.Context(), "bash", append([]string{"-c", `ulimit -f 64; exec "$@"`, "-"}, cmd.Args...)...)
		full.Env, full.Dir = cmd.Env, c.Dir
		return runCommand(t, pgtest.RunAs(t, full))
	}
	r := limited("wal-fetch", seg, "pg_wal/RECOVERYXLOG")
	if r.code != 126 || !strings.Contains(r.stderr, "file too large") {
		t.Errorf("wal-fetch: exit %d, want 126 and the reason\n%s", r.code, r.stderr)
	}
	if left, err := filepath.Glob(filepath.Join(c.Dir, "pg_wal", ".wal-e-fetch-*")); err != nil || len(left) > 0 {
		t.Errorf("wal-fetch left %v (%v)", left, err)
	}
	stored, err := filepath.Glob(filepath.Join(a.prefix, "wal_006/*", seg))
	if err != nil || len(stored) != 1 {
		t.Fatalf("%v, %v", stored, err)
	}
	if err := os.Remove(stored[0]); err != nil {
		t.Fatal(err)
	}
	if r := limited("wal-push", "pg_wal/"+seg); r.code != 1 || !strings.Contains(r.stderr, "file too large") {
		t.Errorf("wal-push: exit %d, want 1 and the reason\n%s", r.code, r.stderr)
	}
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(stored[0]), ".wal-e-tmp-*")); err != nil || len(left) > 0 {
		t.Errorf("wal-push left %v (%v)", left, err)
	}
	a.must(t, c, "wal-push", filepath.Join(c.Dir, "pg_wal", seg))
}

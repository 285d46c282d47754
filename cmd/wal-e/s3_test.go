package main_test

import (
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"wal-e/internal/enginetest"
	"wal-e/internal/pgtest"
)

// as returns the archive with the credentials of a session that policy allows.
func (a *archive) as(t *testing.T, s *enginetest.S3Server, policy string) *archive {
	t.Helper()
	key, secret, token := s.Session(t, policy)
	other := *a
	other.env = append(slices.Clone(a.env), "AWS_ACCESS_KEY_ID="+key, "AWS_SECRET_ACCESS_KEY="+secret, "AWS_SESSION_TOKEN="+token)
	return &other
}

// A running wal-e is waited for later.
type running struct {
	what string
	end  chan result
}

// started starts wal-e.
func (a *archive) started(t *testing.T, c *pgtest.Cluster, args ...string) *running {
	t.Helper()
	cmd := a.command(t, c, args...)
	r := &running{strings.Join(args, " "), make(chan result, 1)}
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait() // its state says how it ended
		r.end <- result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
	}()
	return r
}

// ended waits until it has.
func (r *running) ended(t *testing.T) result {
	t.Helper()
	select {
	case end := <-r.end:
		return end
	case <-time.After(5 * time.Minute):
		t.Fatalf("wal-e %s doesn't end", r.what)
		return result{}
	}
}

func (r *running) succeeds(t *testing.T) {
	t.Helper()
	if end := r.ended(t); end.code != 0 {
		t.Fatalf("wal-e %s: exit %d, want 0\n%s", r.what, end.code, end.stderr)
	}
}

// waitFor waits for what a command does.
func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("what was waited for doesn't come")
		}
	}
}

// holdsFile reports whether there is a file somewhere below dir.
func holdsFile(dir string) (found bool) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			found = true
			return filepath.SkipAll
		}
		return nil // what isn't there yet is looked for again
	})
	return found
}

// The policies that check prints are enough for each role, and no more.
func TestS3Policies(t *testing.T) {
	t.Parallel()
	s := enginetest.MinIO(t)
	all := newStorageArchive(t, s3Env(t, s))
	testPolicies(t, all, "s3:", func(policy string) *archive { return all.as(t, s, policy) }, func() []string { return s.Objects(t, "archive") })
}

// One node of four may go at any moment and come back. With two gone nothing can
// be written, and that is said in time.
func TestS3NodesDie(t *testing.T) {
	t.Parallel()
	s := enginetest.MinIOCluster(t)
	a := newStorageArchive(t, s3Env(t, s.S3Server))
	c := a.start(t, pgtest.Options{DataChecksums: true})
	c.Pgbench(t, "-i", "-q", "-s", "2")
	c.Exec(t, "CREATE TABLE noise AS SELECT i, gen_random_uuid() a, gen_random_uuid() b FROM generate_series(1, 300000) i")
	c.Exec(t, "CHECKPOINT")

	// In the middle of a push: some pack is there, others are to come.
	push := a.started(t, c, "backup-push", "--checkpoint", "fast", "--cluster-read-rate-limit", "15000000", c.Dir)
	waitFor(t, func() bool {
		return slices.ContainsFunc(s.Objects(t, "archive"), func(name string) bool { return strings.HasSuffix(name, ".intent") })
	})
	s.Nodes[3].Kill()
	push.succeeds(t)
	c.Exec(t, "DELETE FROM noise WHERE i % 3 = 0")
	want := c.Query(t, "SELECT count(*), md5(string_agg(n::text, ',' ORDER BY i)) FROM noise n")
	second := a.push(t, c)
	s.Restart(3)
	s.Nodes[2].Kill() // what node 3 missed is on nodes 0 and 1
	a.must(t, c, "delete", "--confirm", "retain", "1")
	dir := target(t)
	c.WaitArchived(t, c.SwitchWAL(t))
	a.must(t, c, "backup-fetch", "--recover", dir, second.Name)
	if got := a.adopt(t, dir).Query(t, "SELECT count(*), md5(string_agg(n::text, ',' ORDER BY i)) FROM noise n"); got != want {
		t.Errorf("restored rows are %s, want %s", got, want)
	}

	s.Restart(2)

	// In the middle of a fetch: some file is there, others are to come.
	fetched := target(t)
	fetch := a.started(t, c, "backup-fetch", fetched, "LATEST")
	waitFor(t, func() bool { return holdsFile(filepath.Join(fetched, "base")) })
	s.Nodes[3].Kill()
	fetch.succeeds(t)
	s.Restart(3)

	// In the middle of a collection: something is condemned, and not yet gone.
	third := a.push(t, c)
	collection := a.started(t, c, "delete", "--confirm", "retain", "1")
	waitFor(t, func() bool {
		return slices.ContainsFunc(s.Objects(t, "archive"), func(name string) bool { return strings.Contains(name, "/chunks_006/condemned/") })
	})
	s.Nodes[2].Kill()
	collection.succeeds(t)
	s.Restart(2)
	if list := a.must(t, c, "backup-list").stdout; strings.Contains(list, second.Name) || !strings.Contains(list, third.Name) {
		t.Errorf("backup-list after retain 1 printed\n%s\nwant only %s", list, third.Name)
	}
	a.nothingDead(t, c, nil)
	a.verified(t, c)

	s.Nodes[2].Kill()
	s.Nodes[3].Kill()
	segment := c.SwitchWAL(t)
	stuck := a.command(t, c, "wal-push", "pg_wal/"+segment)
	stuck.Dir = c.Dir
	stuck.Env = append(stuck.Env, "WALE_PUSH_TIMEOUT=5s")
	if r := runCommand(t, stuck); r.code != 1 || !strings.Contains(r.stderr, segment) {
		t.Errorf("wal-push with two nodes of four dead: exit %d, want 1 and a word on %s\n%s", r.code, segment, r.stderr)
	}
	s.Restart(2)
	s.Restart(3)
	// As PostgreSQL does, until it succeeds: while the nodes agree on what the
	// push before left, the segment is neither there nor can it be created.
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Second) {
		again := a.command(t, c, "wal-push", "pg_wal/"+segment)
		again.Dir = c.Dir
		r := runCommand(t, again)
		if r.code == 0 {
			break
		}
		if r.code != 1 || time.Now().After(deadline) {
			t.Fatalf("wal-push after the nodes came back: exit %d, want 0\n%s", r.code, r.stderr)
		}
	}
	a.verified(t, c)
}

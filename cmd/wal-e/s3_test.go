package main_test

import (
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

// stored returns the names of all objects but probes.
func storedInS3(t *testing.T, s *enginetest.S3Server) []string {
	t.Helper()
	return slices.DeleteFunc(s.Objects(t, "archive"), func(name string) bool { return strings.Contains(name, "/probe_006/") })
}

// The policies that check prints are enough for each role, and no more.
func TestS3Policies(t *testing.T) {
	t.Parallel()
	s := enginetest.MinIO(t)
	all := newStorageArchive(t, s3Env(t, s))
	policy := func(role string) string { return all.must(t, nil, "check", "--policy", role).stdout }
	host, collector, restorer := all.as(t, s, policy("database-host")), all.as(t, s, policy("collector")), all.as(t, s, policy("restorer"))

	c := host.start(t, pgtest.Options{DataChecksums: true})
	c.Pgbench(t, "-i", "-q", "-s", "1")
	first := host.push(t, c)
	host.push(t, c)
	want := c.Query(t, accounts)
	segment := c.SwitchWAL(t)
	c.WaitArchived(t, segment)
	host.roundTrip(t, c, segment)
	host.must(t, c, "backup-fetch", target(t), first.Name)

	before := storedInS3(t, s)
	host.fails(t, c, 1, []string{"s3:", "archive", "permission denied"}, "delete", "--confirm", "retain", "1")
	host.fails(t, c, 1, []string{"s3:", "archive", "permission denied"}, "delete", "--confirm", "everything")
	if after := storedInS3(t, s); !slices.Equal(after, before) {
		t.Errorf("a delete without rights changed the archive:\nbefore %q\nafter %q", before, after)
	}

	restorer.fails(t, c, 1, []string{"s3:PutObject", "archive"}, "backup-push", "--checkpoint", "fast", c.Dir)
	dir := target(t)
	restorer.must(t, c, "backup-fetch", "--recover", dir, "LATEST")
	if got := restorer.adopt(t, dir).Query(t, accounts); got != want {
		t.Errorf("accounts restored with the restorer's rights are %s, want %s", got, want)
	}

	collector.must(t, c, "delete", "--confirm", "retain", "1")
	if list := collector.must(t, c, "backup-list").stdout; strings.Contains(list, first.Name) {
		t.Errorf("backup-list after retain 1 printed\n%s", list)
	}
	collector.nothingDead(t, c, nil)
	restorer.verified(t, c)
}

// Whatever a network does, a command succeeds or says that it failed, and what
// it stored is whole.
func TestS3Faults(t *testing.T) {
	t.Parallel()
	s := enginetest.MinIO(t)
	env := s3Env(t, s)
	p := enginetest.Toxiproxy(t, s.Addr)
	env["WALE_S3_ENDPOINT"] = "http+path://" + p.Addr
	a := newStorageArchive(t, env)
	c := a.start(t, pgtest.Options{DataChecksums: true})
	c.Pgbench(t, "-i", "-q", "-s", "1")
	for _, fault := range []struct {
		kind, stream string
		toxicity     float64
		attributes   map[string]int
	}{
		{"latency", "downstream", 1, map[string]int{"latency": 30, "jitter": 30}},
		{"reset_peer", "downstream", 0.3, map[string]int{"timeout": 20}},
		{"limit_data", "downstream", 0.5, map[string]int{"bytes": 3000}}, // answers are lost, or cut
		{"limit_data", "upstream", 0.3, map[string]int{"bytes": 1_000_000}},
		{"bandwidth", "upstream", 1, map[string]int{"rate": 20_000}},
	} {
		t.Run(fault.kind+" "+fault.stream, func(t *testing.T) {
			p.Add(t, fault.kind, fault.stream, fault.toxicity, fault.attributes)
			c.Exec(t, "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid % 50 = 0")
			a.push(t, c)
			segment := c.SwitchWAL(t)
			c.WaitArchived(t, segment)
			a.roundTrip(t, c, segment)
			a.must(t, c, "backup-fetch", target(t), "LATEST")
			p.Clear(t)
			a.verified(t, c)
		})
	}

	t.Run("stalled", func(t *testing.T) {
		p.Add(t, "timeout", "downstream", 1, map[string]int{"timeout": 0})
		c.Exec(t, "CREATE TABLE more (i int)")
		segment := c.SwitchWAL(t)
		stuck := a.command(t, c, "wal-push", "pg_wal/"+segment)
		stuck.Dir = c.Dir
		stuck.Env = append(stuck.Env, "WALE_PUSH_TIMEOUT=2s")
		if r := runCommand(t, stuck); r.code != 1 || !strings.Contains(r.stderr, segment) {
			t.Errorf("wal-push to storage that doesn't answer: exit %d, want 1 and a word on %s\n%s", r.code, segment, r.stderr)
		}
		fetch := a.command(t, c, "wal-fetch", segment, target(t))
		fetch.Dir = c.Dir
		fetch.Env = append(fetch.Env, "WALE_FETCH_RETRY=1s")
		if r := runCommand(t, fetch); r.code != 126 {
			t.Errorf("wal-fetch from storage that doesn't answer: exit %d, want 126\n%s", r.code, r.stderr)
		}
		p.Clear(t)
		c.WaitArchived(t, segment)
		a.verified(t, c)
	})
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
	push := a.command(t, c, "backup-push", "--checkpoint", "fast", "--cluster-read-rate-limit", "15000000", c.Dir)
	var stderr strings.Builder
	push.Stderr = &stderr
	if err := push.Start(); err != nil {
		t.Fatal(err)
	}
	for !slices.ContainsFunc(s.Objects(t, "archive"), func(name string) bool { return strings.HasSuffix(name, ".intent") }) {
		time.Sleep(20 * time.Millisecond)
	}
	s.Nodes[3].Kill()
	if err := push.Wait(); err != nil {
		t.Fatalf("backup-push while a node died: %v\n%s", err, stderr.String())
	}
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

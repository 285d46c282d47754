package main_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"wal-e/internal/enginetest"
	"wal-e/internal/pgtest"
)

// A server that writes as fast as it can, archives meanwhile and dies is recovered
// to its last transaction: from a directory, and from S3 behind 20 ms.
func TestBusyReplay(t *testing.T) {
	t.Parallel()
	places := []struct {
		name  string
		major int
		open  func(t *testing.T) *archive
	}{
		{"file", 18, newArchive},
		{"s3", 15, func(t *testing.T) *archive {
			s := enginetest.MinIO(t)
			env := s3Env(t, s)
			p := enginetest.Toxiproxy(t, s.Addr)
			p.Add(t, "latency", "downstream", 1, map[string]int{"latency": 20})
			env["WALE_S3_ENDPOINT"] = "http+path://" + p.Addr
			return newStorageArchive(t, env)
		}},
	}
	for _, p := range places {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			a := p.open(t)
			c := a.start(t, pgtest.Options{Major: p.major, SegmentSizeMB: 1})
			c.Pgbench(t, "-i", "-q", "-s", "2")
			a.push(t, c)
			c.Pgbench(t, "-n", "-c", "4", "-t", "800")
			last := c.SwitchWAL(t)
			want := c.Query(t, busyContents)
			c.WaitArchived(t, last)
			c.Stop(t, pgtest.Immediate)
			if err := os.RemoveAll(filepath.Join(c.Dir, "pg_wal")); err != nil {
				t.Fatal(err)
			}
			a.must(t, nil, "wal-verify", "--read-data")
			dir := target(t)
			a.must(t, nil, "backup-fetch", "--recover", dir, "LATEST")
			r := a.adopt(t, dir)
			if got := r.Query(t, busyContents); got != want {
				t.Errorf("recovered:\n%s\nwant:\n%s", got, want)
			}
			r.AmCheck(t)
		})
	}
}

const busyContents = accounts + " UNION ALL SELECT count(*), sum(delta), md5(string_agg(h::text, ',' ORDER BY mtime, tid, aid, delta)) FROM pgbench_history h"

// pg_rewind asks restore_command for segments that were archived long ago, one after
// the other, backwards, and with names of the timeline that it leaves.
func TestRewind(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	conf := map[string]string{"autovacuum": "off", "wal_retrieve_retry_interval": "100ms", "wal_log_hints": "on", "full_page_writes": "on"}
	c := a.start(t, pgtest.Options{SegmentSizeMB: 1, Conf: conf})
	fill := func(c *pgtest.Cluster, from int) {
		t.Helper()
		c.Exec(t, fmt.Sprintf("INSERT INTO written SELECT %d + i, repeat(md5(i::text), 24) FROM generate_series(1, 4000) i", from))
	}
	c.Exec(t, "CREATE TABLE written (i int, v text)")
	a.push(t, c)
	fill(c, 0)
	c.WaitArchived(t, c.SwitchWAL(t))
	standby := target(t)
	a.must(t, nil, "backup-fetch", "--recover", "--standby", standby, "LATEST")
	s := pgtest.Adopt(t, standby, pgtest.Options{Env: a.env, Conf: conf})
	s.WaitFor(t, recoveryContents, c.Query(t, recoveryContents))
	s.Promote(t)
	s.WaitArchived(t, "00000002.history")

	// The old primary goes on alone, for longer than it keeps its WAL.
	fill(c, 4000)
	fill(c, 8000)
	c.WaitArchived(t, c.SwitchWAL(t))
	c.Exec(t, "CHECKPOINT")
	c.Stop(t, pgtest.Fast)
	fill(s, 12000)
	want := s.Query(t, recoveryContents)
	s.WaitArchived(t, s.SwitchWAL(t))
	s.Stop(t, pgtest.Fast)
	kept, err := filepath.Glob(filepath.Join(c.Dir, "pg_wal/0*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range kept {
		// What isn't in the archive is the end, which stays.
		if held, err := filepath.Glob(filepath.Join(a.prefix, "wal_006/*", filepath.Base(path))); err != nil || len(held) == 0 {
			continue
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	calls := filepath.Join(pgtest.TempDir(t), "calls")
	rewind := c.Command(t, pgtest.Tool(t, "pg_rewind"), "--restore-target-wal", "--target-pgdata="+c.Dir, "--source-pgdata="+standby,
		"--config-file="+filepath.Join(c.Dir, "postgresql.conf"))
	rewind.Env = append(rewind.Env, a.env...)
	appendTo(t, filepath.Join(c.Dir, "postgresql.conf"), fmt.Sprintf("restore_command = 'echo %%f >> %s && %s --terse wal-fetch %%f %%p'\n", calls, a.bin))
	out, err := rewind.CombinedOutput()
	if err != nil {
		t.Fatalf("pg_rewind: %v\n%s", err, out)
	}
	asked := read(t, calls)
	if n := strings.Count(asked, "000000010000"); n < 3 {
		t.Errorf("pg_rewind asked for %d segments of timeline 1, want several:\n%s\n%s", n, asked, out)
	}
	t.Logf("pg_rewind asked for %d files", strings.Count(asked, "\n"))
	if out, err := pgtest.RunAs(t, exec.Command("touch", filepath.Join(c.Dir, "standby.signal"))).CombinedOutput(); err != nil {
		t.Fatalf("touch: %v\n%s", err, out)
	}
	rewound := pgtest.Adopt(t, c.Dir, pgtest.Options{Env: a.env, Conf: conf})
	rewound.WaitFor(t, recoveryContents, want)
	rewound.Promote(t)
	rewound.AmCheck(t)
}

func appendTo(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString(text)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		t.Fatal(err)
	}
}

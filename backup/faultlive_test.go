package backup_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"wal-e/backup"
	"wal-e/chunkstore"
	"wal-e/internal/pgtest"
	"wal-e/internal/postgres"
	"wal-e/internal/storage"
	"wal-e/internal/storage/file"
	"wal-e/internal/storage/mem"
	"wal-e/internal/storage/storagetest"
)

// afterCopy returns a bucket that calls f once, when the push has read the
// cluster and looks at its packs, before it stops the backup. It must be the
// first push of the bucket.
func afterCopy(b storage.Bucket, f func()) storage.Bucket {
	var once sync.Once
	return storagetest.NewFaulty(b, storagetest.Fault{Before: func(_ int, op, key string) {
		if op == "list" && strings.HasPrefix(key, "chunks_006/packs/") {
			once.Do(f)
		}
	}})
}

// livePush pushes a running cluster.
func livePush(t *testing.T, b storage.Bucket, s *server, c *pgtest.Cluster) error {
	t.Helper()
	_, err := backup.Push(t.Context(), backup.PushConfig{Bucket: b, Dir: c.Dir, FastCheckpoint: true, MissingWAL: s.missing, Host: "db1"})
	return err
}

// aborted checks that the only run of a bucket ended as no backup.
func aborted(t *testing.T, b storage.Bucket) {
	t.Helper()
	runs, err := chunkstore.Runs(t.Context(), b)
	if err != nil || len(runs) != 1 {
		t.Fatalf("Runs = %d runs, %v; want 1", len(runs), err)
	}
	o, err := chunkstore.ReadOutcome(t.Context(), b, runs[0].Ref)
	if err != nil || o.Result != chunkstore.Abort {
		t.Errorf("outcome = %+v, %v; want an abort", o, err)
	}
}

// clean checks that a server has no backup under way: it ends with its session,
// and leaves no file.
func clean(t *testing.T, c *pgtest.Cluster) {
	t.Helper()
	c.WaitFor(t, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()", "0")
	if _, err := os.Lstat(filepath.Join(c.Dir, "backup_label")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the server has a backup_label (%v)", err)
	}
}

// A push whose session ends says so, is no backup, and the next one succeeds.
func TestFaultSessionLost(t *testing.T) {
	t.Parallel()
	s := startServer(t, 15)
	b := afterCopy(s.bucket, func() {
		got, err := s.TryQuery(t.Context(), "SELECT bool_and(pg_terminate_backend(pid)) FROM pg_stat_activity "+
			"WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()")
		if err != nil || got != "t" {
			t.Errorf("pg_terminate_backend: %q, %v", got, err)
		}
	})
	if err := livePush(t, b, s, s.Cluster); !errors.Is(err, postgres.ErrSessionLost) {
		t.Errorf("Push = %v, want %v", err, postgres.ErrSessionLost)
	}
	aborted(t, s.bucket)
	clean(t, s.Cluster)
	s.push(t)
	verifyAll(t, s.bucket)
	if n := len(valid(t, s.bucket)); n != 1 {
		t.Errorf("%d backups are listed, want 1", n)
	}
}

// A standby that is promoted while it is backed up gives no backup; as a
// primary it then gives one.
func TestFaultPromotion(t *testing.T) {
	t.Parallel()
	s := startServer(t, 15)
	standby := s.Standby(t, pgtest.Options{})
	b := afterCopy(s.bucket, func() {
		if got, err := standby.TryQuery(t.Context(), "SELECT pg_promote(true, 120)"); err != nil || got != "t" {
			t.Errorf("pg_promote: %q, %v", got, err)
		}
	})
	if err := livePush(t, b, s, standby); err == nil || !strings.Contains(err.Error(), "promoted") {
		t.Errorf("Push = %v, want it to tell of the promotion", err)
	}
	aborted(t, s.bucket)
	clean(t, standby)
	standby.WaitRecovered(t)
	if err := livePush(t, s.bucket, s, standby); err != nil {
		t.Errorf("Push of the promoted = %v", err)
	}
	verifyAll(t, s.bucket)
}

// A program is the binary with a prefix of its own.
type program struct {
	path, prefix string
	env          []string
}

func newProgram(t *testing.T) *program {
	t.Helper()
	dir := pgtest.TempDir(t)
	p := &program{path: pgtest.Binary(t), prefix: filepath.Join(dir, "archive")}
	p.env = []string{"WALE_FILE_PREFIX=file://localhost" + p.prefix, "WALE_STATE_DIR=" + filepath.Join(dir, "state"), "WALE_LOG_DESTINATION=stderr"}
	return p
}

// start starts a cluster that archives to the prefix.
func (p *program) start(t *testing.T) *pgtest.Cluster {
	t.Helper()
	return pgtest.Start(t, pgtest.Options{DataChecksums: true, ArchiveCommand: p.path + " --terse wal-push %p", Env: p.env})
}

// command prepares a run of the program in the environment of a cluster; nil:
// of none.
func (p *program) command(t *testing.T, c *pgtest.Cluster, args ...string) *exec.Cmd {
	t.Helper()
	if c != nil {
		cmd := c.Command(t, p.path, args...)
		cmd.Env = append(cmd.Env, p.env...)
		return cmd
	}
	cmd := pgtest.RunAs(t, exec.CommandContext(t.Context(), p.path, args...))
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=/nowhere"}, p.env...)
	return cmd
}

// must runs the program, which must succeed.
func (p *program) must(t *testing.T, c *pgtest.Cluster, args ...string) {
	t.Helper()
	if out, err := p.command(t, c, args...).CombinedOutput(); err != nil {
		t.Fatalf("wal-e %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// verified reads all that the archive holds.
func (p *program) verified(t *testing.T) {
	t.Helper()
	p.must(t, nil, "verify", "--all", "--read-data", "--wal")
}

// churn makes files appear, grow, shrink and vanish until stop is called.
func churn(t *testing.T, c *pgtest.Cluster) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	statements := []string{
		"CREATE TABLE IF NOT EXISTS passing AS SELECT i, md5(i::text) AS v FROM generate_series(1, 20000) i",
		"DROP TABLE IF EXISTS passing",
		"INSERT INTO grows SELECT i, md5(i::text) FROM generate_series(1, 20000) i",
		"DELETE FROM grows WHERE i % 2 = 0",
		"VACUUM FULL grows",
		"TRUNCATE grows",
		"INSERT INTO grows SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, 5000) i",
		"DELETE FROM grows",
		"VACUUM grows", // cuts the file
		"REINDEX TABLE pgbench_tellers",
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ctx.Err() == nil; i++ {
			sql := statements[i%len(statements)]
			if _, err := c.TryQuery(ctx, sql); err != nil && ctx.Err() == nil {
				t.Errorf("%v\nin: %s", err, sql)
				return
			}
		}
	}()
	bench := c.Command(t, pgtest.Tool(t, "pgbench"), "-n", "-c", "2", "-T", "600", "postgres")
	if err := bench.Start(); err != nil {
		t.Fatal(err)
	}
	return func() {
		cancel()
		<-done
		_ = bench.Process.Kill() // it may have ended by itself
		_ = bench.Wait()         // killed
		c.WaitFor(t, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()", "0")
	}
}

// Files that come, go, grow and shrink while they are read are made right by
// the WAL of the backup.
func TestFaultFilesChange(t *testing.T) {
	t.Parallel()
	p := newProgram(t)
	c := p.start(t)
	c.Pgbench(t, "-i", "-q", "-s", "3")
	c.Exec(t, "CREATE TABLE grows (i int, v text)")
	stop := churn(t, c)
	for range 2 {
		// Slowly, so that much changes meanwhile.
		p.must(t, c, "backup-push", "--checkpoint", "fast", "--cluster-read-rate-limit", "40000000", c.Dir)
	}
	stop()
	want := c.Checksum(t)
	c.WaitArchived(t, c.SwitchWAL(t))
	p.verified(t)
	for _, push := range listed(t, p) {
		dir := filepath.Join(pgtest.TempDir(t), "restored")
		p.must(t, c, "backup-fetch", "--recover", dir, push)
		restored := pgtest.Adopt(t, dir, pgtest.Options{Env: p.env})
		restored.WaitRecovered(t)
		if got := restored.Checksum(t); got != want {
			t.Errorf("%s: restored contents\n%s\nwant\n%s", push, got, want)
		}
		restored.AmCheck(t)
		restored.Stop(t, pgtest.Fast)
	}
}

// listed returns the names of the valid backups.
func listed(t *testing.T, p *program) []string {
	t.Helper()
	out, err := p.command(t, nil, "backup-list").Output()
	check(t, err)
	var names []string
	for line := range strings.Lines(string(out)) {
		if name, _, _ := strings.Cut(line, "\t"); strings.HasPrefix(name, "base_") {
			names = append(names, strings.TrimSpace(name))
		}
	}
	if len(names) != 2 {
		t.Fatalf("backup-list shows %q, want two backups", names)
	}
	return names
}

// A push that is killed at any moment harms nothing: the next one succeeds, and
// the server has no backup under way.
func TestFaultKilledAtRandom(t *testing.T) {
	t.Parallel()
	p := newProgram(t)
	c := p.start(t)
	c.Pgbench(t, "-i", "-q", "-s", "2")
	push := []string{"backup-push", "--checkpoint", "fast", c.Dir}
	p.must(t, c, push...)
	begun := time.Now()
	p.must(t, c, push...)
	whole := time.Since(begun)
	random := rand.New(rand.NewPCG(2, 6))
	for range 5 {
		c.Exec(t, "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid % 10 = 0")
		moment := time.Duration(random.Float64() * float64(whole))
		cmd := p.command(t, c, push...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(moment, func() { _ = cmd.Process.Kill() }) // it may have ended
		err := cmd.Wait()
		t.Logf("killed after %v of %v: %v", moment, whole, err)
		clean(t, c)
		p.must(t, c, push...)
		p.verified(t) // the backup before the kill too
	}
	clean(t, c)
	bucket, err := file.Open(p.prefix)
	check(t, err)
	runs, err := chunkstore.Runs(t.Context(), bucket)
	check(t, err)
	for _, r := range runs {
		if r.Open() {
			t.Errorf("run %s is still open", r.Ref)
		}
	}
}

// A damaged page is reported with what was expected and found, is backed up as
// it is, and fails the push when that is asked for.
func TestFaultDamagedPage(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, pgtest.Options{SegmentSizeMB: 1, DataChecksums: true})
	c.Exec(t, "CREATE TABLE plain AS SELECT i, md5(i::text) AS v FROM generate_series(1, 3000) i")
	relation := c.Query(t, "SELECT pg_relation_filepath('plain')")
	c.Stop(t, pgtest.Fast)
	dir := copyOf(t, c.Dir)
	data, err := os.ReadFile(filepath.Join(dir, relation))
	check(t, err)
	const block = 3
	page := data[block*8192 : (block+1)*8192]
	page[8000] ^= 0x10
	found := uint16(page[8]) | uint16(page[9])<<8
	putFile(t, dir, relation, data)

	b := mem.New(nil)
	_, err = offlinePush(t, b, dir, "", func(cfg *backup.PushConfig) { cfg.FailOnCorruption = true })
	if err == nil || !strings.Contains(err.Error(), relation) || !strings.Contains(err.Error(), "block 3") {
		t.Errorf("Push with FailOnCorruption = %v, want an error that names block 3 of %s", err, relation)
	}
	aborted(t, b)

	var log bytes.Buffer
	r, err := offlinePush(t, b, dir, "", func(cfg *backup.PushConfig) { cfg.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	if err != nil {
		t.Fatalf("Push = %v", err)
	}
	if !strings.Contains(log.String(), "level=WARN") || !strings.Contains(log.String(), relation) {
		t.Errorf("the log doesn't warn of %s:\n%s", relation, log.String())
	}
	pages := find(t, b, r.Ref.String()).Manifest.Pages
	if pages.Failed != 1 || len(pages.Failures) != 1 {
		t.Fatalf("manifest reports %+v, want one bad page", pages)
	}
	bad := pages.Failures[0]
	if bad.Path != relation || bad.Block != block || bad.Found != found || bad.Expected == found {
		t.Errorf("bad page = %+v, want block %d of %s with checksum %d, and another expected", bad, block, relation, found)
	}
	page[8], page[9] = byte(bad.Expected), byte(bad.Expected>>8)
	repaired := copyOf(t, dir)
	putFile(t, repaired, relation, data)
	if r := mustPush(t, b, repaired, ""); r.Manifest.Pages.Failed != 0 {
		t.Errorf("with the expected checksum: %+v, want no bad page", r.Manifest.Pages)
	}
	restored := filepath.Join(t.TempDir(), "restored")
	if err := fetchFrom(t, b, find(t, b, r.Ref.String()), restored); err != nil {
		t.Fatalf("Fetch = %v", err)
	}
	sameTree(t, dir, restored)
}

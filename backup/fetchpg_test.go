package backup_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"wal-e/backup"
	"wal-e/chunkstore"
	"wal-e/internal/pgtest"
	"wal-e/internal/postgres"
	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
)

// A server is a cluster with an archive: backups in memory, WAL in a folder.
type server struct {
	*pgtest.Cluster
	bucket *mem.Bucket
	wal    string
	space  string
}

func startServer(t *testing.T, major int) *server {
	t.Helper()
	s := &server{bucket: mem.New(nil), wal: filepath.Join(pgtest.TempDir(t), "wal")}
	mkdir := pgtest.RunAs(t, exec.CommandContext(t.Context(), "mkdir", s.wal))
	if out, err := mkdir.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s.Cluster = pgtest.Start(t, pgtest.Options{Major: major, DataChecksums: true, ArchiveCommand: fmt.Sprintf("cp %%p %s/%%f", s.wal), Conf: map[string]string{
		"max_connections": "30", "wal_level": "replica", "max_wal_senders": "4",
	}})
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	s.Exec(t, fmt.Sprintf(`DO $$ BEGIN CREATE ROLE "%s" SUPERUSER LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$`, me.Username))
	s.space = s.AddTablespace(t, "fast")
	s.Exec(t, "CREATE TABLE plain AS SELECT i, md5(i::text) AS v FROM generate_series(1, 5000) i")
	s.Exec(t, "CREATE TABLE spaced TABLESPACE fast AS SELECT i, md5(i::text) AS v FROM generate_series(1, 5000) i")
	return s
}

func (s *server) missing(_ context.Context, _ string, names []string) ([]string, error) {
	var missing []string
	for _, n := range names {
		_, err := os.Stat(filepath.Join(s.wal, n))
		if errors.Is(err, fs.ErrNotExist) {
			missing = append(missing, n)
		}
	}
	return missing, nil
}

func (s *server) push(t *testing.T) {
	t.Helper()
	_, err := backup.Push(t.Context(), backup.PushConfig{Bucket: s.bucket, Dir: s.Dir, FastCheckpoint: true, MissingWAL: s.missing, Host: "db1"})
	if err != nil {
		t.Fatalf("Push = %v", err)
	}
}

func (s *server) recovery(target backup.Target) *backup.RecoverConfig {
	return &backup.RecoverConfig{
		Target: target, RestoreCommand: fmt.Sprintf("cp %s/%%f %%p", s.wal),
		Timelines: func(context.Context, string) ([]postgres.Timeline, error) {
			entries, err := os.ReadDir(s.wal)
			var list []postgres.Timeline
			for _, e := range entries {
				if f := postgres.ParseWALFile(e.Name()); f.Kind == postgres.HistoryFile {
					list = append(list, f.Timeline)
				}
			}
			return list, err
		},
		History: func(_ context.Context, _ string, tl postgres.Timeline) (postgres.History, error) {
			b, err := os.ReadFile(filepath.Join(s.wal, tl.HistoryName()))
			if errors.Is(err, fs.ErrNotExist) {
				return postgres.History{}, storage.ErrNotExist
			}
			if err != nil {
				return postgres.History{}, err
			}
			return postgres.ParseHistory(tl, b)
		},
	}
}

// fetch restores LATEST and returns the directory.
func (s *server) fetch(t *testing.T, change func(*backup.FetchConfig)) (string, *backup.FetchReport) {
	t.Helper()
	base := pgtest.TempDir(t)
	store, err := chunkstore.Open(t.Context(), s.bucket, nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg := backup.FetchConfig{
		Store: store, Dir: filepath.Join(base, "data"),
		TablespaceMap: map[string]string{"fast": filepath.Join(base, "fast")},
		FetchWAL: func(_ context.Context, _, name, dest string) error {
			b, err := os.ReadFile(filepath.Join(s.wal, name))
			return errors.Join(err, os.WriteFile(dest, b, 0o600))
		},
	}
	change(&cfg)
	cfg.Backup, err = backup.Find(t.Context(), backup.FindConfig{Bucket: s.bucket, Query: backup.Latest, Recover: cfg.Recover})
	if err != nil {
		t.Fatalf("Find = %v", err)
	}
	r, err := backup.Fetch(t.Context(), cfg)
	if err != nil {
		t.Fatalf("Fetch = %v", err)
	}
	return cfg.Dir, r
}

// adopt starts a server on what was restored. Nothing but the files that the
// fetch wrote says how it recovers.
func adopt(t *testing.T, dir string) *pgtest.Cluster {
	t.Helper()
	c := pgtest.Adopt(t, dir, pgtest.Options{})
	c.WaitRecovered(t)
	return c
}

const digest = "SELECT count(*), md5(string_agg(v, ',' ORDER BY i)) FROM plain UNION ALL SELECT count(*), md5(string_agg(v, ',' ORDER BY i)) FROM spaced"

// A cluster is restored beside the original, which goes on, to every kind of
// target, and again from what it became.
func TestFetchRealCluster(t *testing.T) {
	t.Parallel()
	for _, major := range pgtest.Versions() {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := startServer(t, major)
			s.push(t)
			s.Exec(t, "INSERT INTO plain SELECT i, 'more' FROM generate_series(5001, 6000) i")
			moment, err := backup.ParseTarget(backup.TargetOptions{Time: s.Query(t, "SELECT clock_timestamp()")}, time.UTC)
			if err != nil {
				t.Fatal(err)
			}
			atMoment := s.Query(t, digest)
			s.Exec(t, "SELECT pg_sleep(0.05)")
			s.Exec(t, "INSERT INTO spaced SELECT i, 'late' FROM generate_series(5001, 6000) i")
			lsn, err := backup.ParseTarget(backup.TargetOptions{LSN: s.Query(t, "SELECT pg_current_wal_insert_lsn()")}, nil)
			if err != nil {
				t.Fatal(err)
			}
			atLSN := s.Query(t, digest)
			s.Exec(t, "DELETE FROM spaced WHERE i % 2 = 0")
			// Settings of another recovery and of a standby's life come along.
			s.Exec(t, "ALTER SYSTEM SET recovery_target_name = 'some other'")
			s.Exec(t, "ALTER SYSTEM SET primary_conninfo = 'host=/nowhere'")
			s.push(t)
			atEnd := s.Query(t, digest)
			s.WaitArchived(t, s.SwitchWAL(t))

			for name, tc := range map[string]struct {
				target backup.Target
				want   string
			}{"time": {moment, atMoment}, "lsn": {lsn, atLSN}, "end": {backup.Target{}, atEnd}, "immediate": {backup.Target{Kind: backup.TargetImmediate}, atEnd}} {
				s.checkRecovery(t, name, tc.target, tc.want)
			}
			if major >= 15 {
				dir, _ := s.fetch(t, func(cfg *backup.FetchConfig) {
					cfg.BlindRestore, cfg.TablespaceMap, cfg.Recover = true, nil, s.recovery(backup.Target{})
				})
				c := adopt(t, dir)
				if got := c.Query(t, digest); got != atEnd {
					t.Errorf("blind: contents are\n%s\nwant\n%s", got, atEnd)
				}
				c.Stop(t, pgtest.Fast)
			}

			// Without any archive: the WAL of the backup is there.
			base := pgtest.TempDir(t)
			dir, r := s.fetch(t, func(cfg *backup.FetchConfig) { cfg.WALDir = filepath.Join(base, "wal") })
			if !slices.ContainsFunc(r.Warnings, func(w string) bool { return strings.Contains(w, "archives WAL") }) {
				t.Errorf("warnings = %q, want one of archive_command", r.Warnings)
			}
			c := pgtest.Adopt(t, dir, pgtest.Options{Conf: map[string]string{"archive_mode": "off"}})
			if got := c.Query(t, digest); got != atEnd {
				t.Errorf("with WAL: contents are\n%s\nwant\n%s", got, atEnd)
			}
			if got := s.Query(t, digest); got != atEnd {
				t.Errorf("the original changed to\n%s", got)
			}
		})
	}
}

// checkRecovery restores LATEST for a target and looks at what comes of it.
func (s *server) checkRecovery(t *testing.T, name string, target backup.Target, want string) {
	t.Helper()
	dir, r := s.fetch(t, func(cfg *backup.FetchConfig) { cfg.Recover = s.recovery(target) })
	verifyBackup(t, dir, s.Major)
	if r.Recovery.Timeline != "1" {
		t.Errorf("%s: timeline %s, want 1", name, r.Recovery.Timeline)
	}
	c := adopt(t, dir)
	if got := c.Query(t, digest); got != want {
		t.Errorf("%s: contents are\n%s\nwant\n%s", name, got, want)
	}
	if got := c.Query(t, "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'fast'"); got != filepath.Join(filepath.Dir(dir), "fast") {
		t.Errorf("%s: tablespace is in %s", name, got)
	}
	if got := c.Query(t, "SHOW archive_mode"); got != "off" {
		t.Errorf("%s: archive_mode = %s", name, got)
	}
	if target.Kind == backup.TargetTime {
		c.AmCheck(t)
	}
	c.Stop(t, pgtest.Fast)
}

// verifyBackup lets pg_verifybackup read files, and WAL where it is of the
// program's release. It can't read the manifests of 17 and later.
func verifyBackup(t *testing.T, dir string, major int) {
	t.Helper()
	if major >= 17 {
		return
	}
	args := []string{dir}
	if major != 15 {
		args = []string{"-n", dir}
	}
	cmd := pgtest.RunAs(t, exec.CommandContext(t.Context(), pgtest.Tool(t, "pg_verifybackup"), args...))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("pg_verifybackup: %v\n%s", err, out)
	}
}

// A primary that went on after another server took over comes back as a standby
// of it, with what only it had gone, and its own settings kept.
func TestDeltaDivergedPrimary(t *testing.T) {
	t.Parallel()
	for _, major := range pgtest.Versions() {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			s := startServer(t, major)
			s.push(t)
			s.Exec(t, "INSERT INTO plain SELECT i, 'both' FROM generate_series(5001, 6000) i")
			s.WaitArchived(t, s.SwitchWAL(t))
			dir, _ := s.fetch(t, func(cfg *backup.FetchConfig) {
				cfg.Recover = s.recovery(backup.Target{})
				cfg.Recover.KeepArchiving = true
			})
			heir := adopt(t, dir) // it archives timeline 2
			heir.Exec(t, "UPDATE plain SET v = 'after' WHERE i % 10 = 0")
			heir.Exec(t, "CREATE TABLE later AS SELECT i FROM generate_series(1, 1000) i")

			s.Exec(t, "UPDATE spaced SET v = 'lost' WHERE i % 3 = 0")
			s.Exec(t, "CREATE TABLE lost AS SELECT i, md5(i::text) FROM generate_series(1, 20000) i")
			s.Exec(t, "VACUUM FULL plain")
			s.Stop(t, pgtest.Immediate)
			if err := os.Remove(filepath.Join(s.Dir, "postmaster.pid")); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}

			_, r := s.fetch(t, func(cfg *backup.FetchConfig) {
				cfg.Dir, cfg.TablespaceMap, cfg.FetchWAL = s.Dir, nil, nil
				cfg.Delta, cfg.DiscardWAL = true, true
				cfg.Recover = s.recovery(backup.Target{})
				cfg.Recover.Standby = true
			})
			if r.Delta == nil || r.Delta.Files*2 < r.Files || r.Written*4 > r.Bytes {
				t.Errorf("of %d files with %d bytes: %+v, %d bytes written", r.Files, r.Bytes, r.Delta, r.Written)
			}
			if got := heir.Query(t, digest); got == "" {
				t.Fatal("no contents")
			}
			heir.WaitArchived(t, heir.SwitchWAL(t))
			s.StartAgain(t)
			s.WaitFor(t, "SELECT count(*)::text FROM pg_class WHERE relname = 'later'", "1")
			if got, want := s.Query(t, digest), heir.Query(t, digest); got != want {
				t.Errorf("contents of the standby are\n%s\nwant\n%s", got, want)
			}
			if got := s.Query(t, "SELECT pg_is_in_recovery()::text || (SELECT count(*) FROM pg_class WHERE relname = 'lost')"); got != "true0" {
				t.Errorf("in recovery and number of lost tables: %s", got)
			}
			s.Promote(t)
			s.AmCheck(t)
		})
	}
}

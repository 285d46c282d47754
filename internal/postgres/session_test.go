package postgres_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wal-e/internal/pgtest"
	"wal-e/internal/postgres"
)

func connect(t *testing.T, conninfo string) *postgres.Session {
	t.Helper()
	s, err := postgres.Connect(t.Context(), postgres.Config{Conninfo: conninfo})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil && !t.Failed() {
			t.Logf("Close: %v", err)
		}
	})
	return s
}

// forEachVersion runs a test on a cluster of each release, side by side.
func forEachVersion(t *testing.T, o pgtest.Options, test func(t *testing.T, c *pgtest.Cluster)) {
	t.Parallel()
	for _, major := range pgtest.Versions() {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			o := o
			o.Major = major
			test(t, pgtest.Start(t, o))
		})
	}
}

func TestSession(t *testing.T) {
	forEachVersion(t, pgtest.Options{SegmentSizeMB: 1, ArchiveCommand: "true"}, func(t *testing.T, c *pgtest.Cluster) {
		c.Exec(t, "ALTER ROLE postgres SET statement_timeout = '1h'; ALTER ROLE postgres SET lock_timeout = '1h'; "+
			"ALTER ROLE postgres SET idle_in_transaction_session_timeout = '1h'")
		s := connect(t, c.DSN())

		if got := s.ServerVersion(); got.Major() != fmt.Sprint(c.Major) || got.String() != strings.Fields(c.Query(t, "SHOW server_version"))[0] {
			t.Errorf("ServerVersion = %s, want one of %d", got, c.Major)
		}
		settings, err := s.Settings(t.Context(), "statement_timeout", "lock_timeout", "idle_session_timeout",
			"idle_in_transaction_session_timeout", "transaction_timeout", "application_name", "wal_segment_size", "no_such_setting")
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"statement_timeout": "0", "lock_timeout": "0", "idle_in_transaction_session_timeout": "0",
			"application_name": "wal-e", "wal_segment_size": "1048576"}
		if c.Major >= 14 {
			want["idle_session_timeout"] = "0"
		}
		if c.Major >= 17 {
			want["transaction_timeout"] = "0"
		}
		if fmt.Sprint(settings) != fmt.Sprint(want) {
			t.Errorf("Settings = %v, want %v", settings, want)
		}
		if dir, err := s.DataDirectory(t.Context()); err != nil || dir != c.Dir {
			t.Errorf("DataDirectory = %q, %v, want %q", dir, err, c.Dir)
		}
		if standby, err := s.InRecovery(t.Context()); err != nil || standby {
			t.Errorf("InRecovery = %v, %v, want false", standby, err)
		}
		if tl, err := s.Timeline(t.Context()); err != nil || tl != 1 {
			t.Errorf("Timeline = %d, %v, want 1", tl, err)
		}
		if err := s.CheckRights(t.Context()); err != nil {
			t.Errorf("CheckRights of a superuser: %v", err)
		}
		if list, err := s.Tablespaces(t.Context()); err != nil || list != nil {
			t.Errorf("Tablespaces = %v, %v, want none", list, err)
		}
		if _, err := s.StopBackup(t.Context()); err == nil || !strings.Contains(err.Error(), "has started none") {
			t.Errorf("StopBackup without a start: %v, want it refused", err)
		}
	})
}

// A path with everything that tablespace_map escapes, and with bytes that a session
// in another encoding than the database's would change.
const strangeDir = "a\\b\nl ü"

func TestBackup(t *testing.T) {
	forEachVersion(t, pgtest.Options{SegmentSizeMB: 1}, func(t *testing.T, c *pgtest.Cluster) {
		c.Exec(t, "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
		location := filepath.Join(pgtest.TempDir(t), strangeDir)
		mkdir(t, location)
		c.Exec(t, fmt.Sprintf("CREATE TABLESPACE strange LOCATION '%s'", location))

		for _, database := range []string{"postgres", "latin"} {
			other := connect(t, c.DSN()) // a backup beside ours
			if _, err := other.StartBackup(t.Context(), "other", true); err != nil {
				t.Fatal(err)
			}
			s := connect(t, c.DSN()+" dbname="+database)
			start, err := s.StartBackup(t.Context(), "nightly ü", true)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.StartBackup(t.Context(), "again", true); err == nil {
				t.Error("a second StartBackup in one session succeeded")
			}
			stopped, err := s.StopBackup(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			label, err := postgres.ParseBackupLabel(stopped.Label)
			if err != nil || label.Start != start || label.Label != "nightly ü" || label.Timeline != 1 || label.Method != "streamed" {
				t.Errorf("ParseBackupLabel(%q) = %+v, %v, want the backup from %s", stopped.Label, label, err, start)
			}
			if want := postgres.SegmentAt(1, start, mb).Name(mb); label.StartFile != want {
				t.Errorf("the backup starts in %s, want %s", label.StartFile, want)
			}
			if stopped.Stop <= start {
				t.Errorf("the backup goes from %s to %s", start, stopped.Stop)
			}
			list, err := s.Tablespaces(t.Context())
			if err != nil || len(list) != 1 || list[0].Name != "strange" || list[0].Location != location {
				t.Fatalf("Tablespaces = %v, %v, want %q", list, err, location)
			}
			m, err := postgres.ParseTablespaceMap(stopped.TablespaceMap, s.ServerVersion())
			if err != nil || len(m) != 1 || m[0] != (postgres.TablespaceLocation{OID: list[0].OID, Path: location}) {
				t.Errorf("ParseTablespaceMap(%q) = %v, %v, want %q", stopped.TablespaceMap, m, err, location)
			}
			if back, err := m.Format(s.ServerVersion()); err != nil || string(back) != string(stopped.TablespaceMap) {
				t.Errorf("Format = %q, %v, want %q", back, err, stopped.TablespaceMap)
			}
			if _, err := s.StopBackup(t.Context()); err == nil {
				t.Error("a second StopBackup succeeded")
			}
			if _, err := other.StopBackup(t.Context()); err != nil {
				t.Errorf("the backup beside ours: %v", err)
			}
		}
	})
}

func mkdir(t *testing.T, dir string) {
	t.Helper()
	cmd := pgtest.RunAs(t, exec.CommandContext(t.Context(), "mkdir", dir))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("mkdir %q: %v: %s", dir, err, out)
	}
}

func TestCheckRights(t *testing.T) {
	forEachVersion(t, pgtest.Options{ArchiveCommand: "true"}, func(t *testing.T, c *pgtest.Cluster) {
		c.Exec(t, `CREATE ROLE "Back up" LOGIN`)
		dsn := c.DSN() + ` user='Back up'`
		s := connect(t, dsn)
		err := s.CheckRights(t.Context())
		if err == nil {
			t.Fatal("CheckRights of a role without rights succeeded")
		}
		if _, err := s.DataDirectory(t.Context()); err == nil || !strings.Contains(err.Error(), "pg_read_all_settings") {
			t.Errorf("DataDirectory without rights: %v, want an error that names the role", err)
		}
		if _, err := s.StartBackup(t.Context(), "x", true); err == nil {
			t.Error("StartBackup without rights succeeded")
		}
		_, grants, _ := strings.Cut(err.Error(), "\n")
		if n := strings.Count(grants, "GRANT"); n != 3 || !strings.Contains(err.Error(), `in database "postgres"`) {
			t.Errorf("CheckRights = %v, want three GRANTs and the database", err)
		}
		for statement := range strings.Lines(grants) {
			c.Exec(t, statement)
			if strings.Contains(statement, "EXECUTE") {
				if err := s.CheckRights(t.Context()); err == nil || strings.Contains(err.Error(), strings.TrimSpace(statement)) {
					t.Errorf("CheckRights after %q: %v, want the rest", statement, err)
				}
			}
		}
		if err := s.CheckRights(t.Context()); err != nil {
			t.Errorf("CheckRights after the GRANTs: %v", err)
		}
		if _, err := s.StartBackup(t.Context(), "x", true); err != nil {
			t.Fatal(err)
		}
		if _, err := s.StopBackup(t.Context()); err != nil {
			t.Error(err)
		}
		if err := s.CheckDirectory(t.Context(), c.Dir); err != nil {
			t.Errorf("CheckDirectory: %v", err)
		}
		if a, err := s.CheckArchiving(t.Context()); err != nil || a.Command != "true" {
			t.Errorf("CheckArchiving = %+v, %v", a, err)
		}
	})
}

func TestSessionLost(t *testing.T) {
	forEachVersion(t, pgtest.Options{}, func(t *testing.T, c *pgtest.Cluster) {
		s := connect(t, c.DSN())
		watched, stop := s.Watch(t.Context(), 10*time.Millisecond)
		if _, err := s.StartBackup(t.Context(), "x", true); err != nil {
			t.Fatal(err)
		}
		if err := watched.Err(); err != nil {
			t.Fatalf("the context ended early: %v", context.Cause(watched))
		}
		c.Exec(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'wal-e'")
		select {
		case <-watched.Done():
		case <-time.After(time.Minute):
			t.Fatal("the lost session went unnoticed")
		}
		if cause := context.Cause(watched); !errors.Is(cause, postgres.ErrSessionLost) {
			t.Errorf("the context's cause is %v, want %v", cause, postgres.ErrSessionLost)
		}
		stop()
		if _, err := s.StopBackup(t.Context()); !errors.Is(err, postgres.ErrSessionLost) {
			t.Errorf("StopBackup = %v, want %v", err, postgres.ErrSessionLost)
		}
	})
}

// The end of the watch, even amid its question, must not end the session.
func TestWatchStops(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, pgtest.Options{})
	s := connect(t, c.DSN())
	for range 100 {
		watched, stop := s.Watch(t.Context(), 50*time.Microsecond)
		if _, err := s.InRecovery(watched); err != nil {
			t.Fatal(err)
		}
		stop()
		if watched.Err() == nil {
			t.Fatal("the context outlives the watch")
		}
	}
	if _, err := s.InRecovery(t.Context()); err != nil {
		t.Errorf("after the watch: %v", err)
	}
}

func TestCancelledQueryEndsSession(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, pgtest.Options{})
	s := connect(t, c.DSN())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.InRecovery(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("InRecovery with a cancelled context: %v", err)
	}
}

func TestCheckArchiving(t *testing.T) {
	t.Parallel()
	refused := func(t *testing.T, s *postgres.Session, want string) {
		t.Helper()
		if a, err := s.CheckArchiving(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("CheckArchiving = %+v, %v, want an error with %q", a, err, want)
		}
	}
	t.Run("off", func(t *testing.T) {
		t.Parallel()
		refused(t, connect(t, pgtest.Start(t, pgtest.Options{}).DSN()), "archive_mode is off")
	})
	for _, major := range pgtest.Versions() {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			c := pgtest.Start(t, pgtest.Options{Major: major, Conf: map[string]string{"archive_mode": "on"}})
			s := connect(t, c.DSN())
			refused(t, s, "archive_command is empty")

			set := func(command string) {
				c.Exec(t, fmt.Sprintf("ALTER SYSTEM SET archive_command = '%s'", command))
				c.Exec(t, "SELECT pg_reload_conf()")
				c.WaitFor(t, "SHOW archive_command", command)
			}
			set("false")
			segment := c.SwitchWAL(t)
			c.WaitFor(t, "SELECT failed_count > 0 FROM pg_stat_archiver", "t")
			refused(t, s, "the archiver failed on "+segment)
			status, err := s.ArchiverStatus(t.Context())
			if err != nil || !status.Failing() || status.LastFailed != segment || status.Archived != 0 || !strings.Contains(status.String(), "archived nothing yet") ||
				time.Since(status.FailedAt) > time.Hour {
				t.Errorf("ArchiverStatus = %+v, %v, want a failure of %s", status, err, segment)
			}

			set("true")
			c.WaitFor(t, "SELECT archived_count > 0 FROM pg_stat_archiver", "t")
			if a, err := s.CheckArchiving(t.Context()); err != nil || a.Command != "true" || a.ByPrimary {
				t.Errorf("CheckArchiving after a success = %+v, %v", a, err)
			}
			if status, err := s.ArchiverStatus(t.Context()); err != nil || status.Failing() || status.LastArchived < segment || status.Failed == 0 {
				t.Errorf("ArchiverStatus = %+v, %v, want a success of %s", status, err, segment)
			}
		})
	}
}

func TestStandby(t *testing.T) {
	forEachVersion(t, pgtest.Options{ArchiveCommand: "true"}, func(t *testing.T, primary *pgtest.Cluster) {
		primary.Exec(t, "CHECKPOINT")
		c := primary.Standby(t, pgtest.Options{})
		s := connect(t, c.DSN())
		if standby, err := s.InRecovery(t.Context()); err != nil || !standby {
			t.Errorf("InRecovery = %v, %v, want true", standby, err)
		}
		if a, err := s.CheckArchiving(t.Context()); err != nil || !a.ByPrimary {
			t.Errorf("CheckArchiving = %+v, %v, want the primary to do it", a, err)
		}
		if err := s.CheckDirectory(t.Context(), c.Dir); err != nil {
			t.Errorf("CheckDirectory: %v", err)
		}
		if err := s.CheckDirectory(t.Context(), primary.Dir); err == nil || !strings.Contains(err.Error(), "is not the data directory") {
			t.Errorf("CheckDirectory of the primary's: %v, want it refused", err)
		}
		start, err := s.StartBackup(t.Context(), "x", true)
		if err != nil {
			t.Fatal(err)
		}
		stopped, err := s.StopBackup(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if l, err := postgres.ParseBackupLabel(stopped.Label); err != nil || l.From != "standby" || l.Start != start {
			t.Errorf("ParseBackupLabel = %+v, %v, want one from a standby at %s", l, err, start)
		}

		if _, err := s.StartBackup(t.Context(), "x", true); err != nil {
			t.Fatal(err)
		}
		c.Promote(t)
		if tl, err := s.Timeline(t.Context()); err != nil || tl != 2 {
			t.Errorf("Timeline after the promotion = %d, %v, want 2", tl, err)
		}
		if _, err := s.StopBackup(t.Context()); err == nil || !strings.Contains(err.Error(), "promoted") {
			t.Errorf("StopBackup after the promotion: %v, want it refused", err)
		}

		b, err := os.ReadFile(filepath.Join(c.Dir, "pg_wal", postgres.Timeline(2).HistoryName()))
		if err != nil {
			t.Fatal(err)
		}
		h, err := postgres.ParseHistory(2, b)
		if err != nil || len(h.Ancestors) != 1 || !h.ContainsEnd(1, stopped.Stop) || h.Contains(1, h.Ancestors[0].Switch) {
			t.Errorf("ParseHistory(%q) = %+v, %v, want the backup's end %s on timeline 1", b, h, err, stopped.Stop)
		}
	})
}

// With neither PGHOST nor PGPORT the server of DataDir is meant, wherever it listens.
func TestConnectByDataDir(t *testing.T) {
	c := pgtest.Start(t, pgtest.Options{})
	for _, name := range []string{"PGHOST", "PGPORT", "PGDATABASE", "PGSERVICE", "PGAPPNAME"} {
		t.Setenv(name, "")
		if err := os.Unsetenv(name); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PGUSER", "postgres")
	s, err := postgres.Connect(t.Context(), postgres.Config{DataDir: c.Dir})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close(t.Context())
	if err := s.CheckDirectory(t.Context(), c.Dir); err != nil {
		t.Error(err)
	}
	if got := c.Query(t, "SELECT datname FROM pg_stat_activity WHERE application_name = 'wal-e'"); got != "postgres" {
		t.Errorf("connected to database %q, want postgres", got)
	}

	t.Setenv("PGHOST", "127.0.0.1")
	t.Setenv("PGPORT", "1")
	if s, err := postgres.Connect(t.Context(), postgres.Config{DataDir: c.Dir}); err == nil || !strings.Contains(err.Error(), "nothing listens there") {
		t.Errorf("Connect with PGHOST and PGPORT = %v, %v, want them obeyed", s, err)
	}
}

func TestConnectHidesPasswords(t *testing.T) {
	c := pgtest.Start(t, pgtest.Options{})
	c.Exec(t, "CREATE ROLE careful LOGIN PASSWORD 'right'")
	hba := filepath.Join(c.Dir, "pg_hba.conf")
	b, err := os.ReadFile(hba)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(hba, append([]byte("local all careful scram-sha-256\n"), b...), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Exec(t, "SELECT pg_reload_conf()")
	const secret = "s3cret-and-wrong"
	t.Setenv("PGPASSWORD", secret)
	for _, tt := range []struct{ conninfo, want string }{
		{c.DSN() + " user=careful", "28P01"},
		{c.DSN() + " user=careful sslmode=nonsense host=127.0.0.1 password=" + secret, "sslmode"},
		{"password='" + secret, "settings for the connection"},
		{"host=127.0.0.1 port=x password=" + secret, "port"},
		{"postgres://u:" + secret + "@127.0.0.1/x", "URLs"},
	} {
		s, err := postgres.Connect(t.Context(), postgres.Config{Conninfo: tt.conninfo})
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), secret) {
			t.Errorf("Connect = %v, %v, want an error with %q and without the password", s, err, tt.want)
		}
	}
	passfile := filepath.Join(t.TempDir(), "pgpass")
	if err := os.WriteFile(passfile, []byte("localhost:*:postgres:careful:right\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Unsetenv("PGPASSWORD"); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PGPASSFILE", passfile)
	s, err := postgres.Connect(t.Context(), postgres.Config{Conninfo: fmt.Sprintf("host=%s port=%d user=careful", c.SocketDir(), c.Port)})
	if err != nil {
		t.Fatalf("Connect with .pgpass for the default database: %v", err)
	}
	defer s.Close(t.Context())
}

// A pooler gives its own process id for cancel requests, as this one does.
func TestConnectRefusesPooler(t *testing.T) {
	t.Parallel()
	c := pgtest.Start(t, pgtest.Options{})
	dir := t.TempDir()
	listener, err := net.Listen("unix", filepath.Join(dir, ".s.PGSQL.6432"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	served := make(chan error, 1)
	go func() { served <- pool(listener, filepath.Join(c.SocketDir(), fmt.Sprintf(".s.PGSQL.%d", c.Port))) }()
	s, err := postgres.Connect(t.Context(), postgres.Config{Conninfo: "port=6432 user=postgres dbname=postgres host=" + dir})
	if err == nil || !strings.Contains(err.Error(), "pooler") {
		t.Errorf("Connect through a pooler = %v, %v, want it refused", s, err)
	}
	if err := <-served; err != nil {
		t.Errorf("the pooler: %v", err)
	}
}

// pool passes one connection on, with another process id in BackendKeyData.
func pool(listener net.Listener, server string) error {
	client, err := listener.Accept()
	if err != nil {
		return err
	}
	defer client.Close()
	upstream, err := net.Dial("unix", server)
	if err != nil {
		return err
	}
	defer upstream.Close()
	go func() {
		_, _ = io.Copy(upstream, client)
		_ = upstream.(*net.UnixConn).CloseWrite()
	}()
	for {
		head := make([]byte, 5)
		if _, err := io.ReadFull(upstream, head); err != nil {
			return nil // the server has ended the connection
		}
		body := make([]byte, binary.BigEndian.Uint32(head[1:])-4)
		if _, err := io.ReadFull(upstream, body); err != nil {
			return err
		}
		if head[0] == 'K' {
			binary.BigEndian.PutUint32(body, 4711<<8)
		}
		if _, err := client.Write(append(head, body...)); err != nil {
			return nil // the client has ended the connection
		}
	}
}

func TestParsePostmasterPID(t *testing.T) {
	const file = "4711\n/var/lib/data\n1700000000\n5433\n/run/sockets\nlocalhost\n  5433001    131072\nready   \n"
	want := postgres.Postmaster{PID: 4711, DataDir: "/var/lib/data", Port: 5433, SocketDir: "/run/sockets", ListenAddr: "localhost"}
	if got, err := postgres.ParsePostmasterPID([]byte(file)); err != nil || got != want {
		t.Errorf("ParsePostmasterPID = %+v, %v, want %+v", got, err, want)
	}
	early := postgres.Postmaster{PID: 4711, DataDir: "/var/lib/data"}
	if got, err := postgres.ParsePostmasterPID([]byte("-4711\n/var/lib/data\n1700000000\n")); err != nil || got != early {
		t.Errorf("ParsePostmasterPID = %+v, %v, want %+v", got, err, early)
	}
	for _, bad := range []string{"", "x\n", "0\n", "1\n/d\n1\n99999\n", "1\n/d\n1\n-1\n"} {
		if got, err := postgres.ParsePostmasterPID([]byte(bad)); err == nil {
			t.Errorf("ParsePostmasterPID(%q) = %+v, want an error", bad, got)
		}
	}
	if _, err := postgres.ReadPostmasterPID(t.TempDir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("ReadPostmasterPID of an empty folder: %v, want %v", err, os.ErrNotExist)
	}
}

func FuzzParsePostmasterPID(f *testing.F) {
	f.Add([]byte("4711\n/var/lib/data\n1700000000\n5433\n/run/sockets\nlocalhost\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := postgres.ParsePostmasterPID(b); err == nil && p.PID <= 0 {
			t.Errorf("ParsePostmasterPID(%q).PID = %d", b, p.PID)
		}
	})
}

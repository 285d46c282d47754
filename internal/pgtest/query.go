package pgtest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// DSN returns the connection string of the database postgres, for its superuser.
func (c *Cluster) DSN() string { return c.dsn("postgres") }

func (c *Cluster) dsn(db string) string {
	return fmt.Sprintf("host=%s port=%d user=postgres dbname=%s", c.home, c.Port, db)
}

// SocketDir returns the folder of the server's socket.
func (c *Cluster) SocketDir() string { return c.home }

// Env returns PGHOST, PGPORT, PGUSER and PGDATABASE for libpq and its like.
func (c *Cluster) Env() []string {
	return []string{"PGHOST=" + c.home, fmt.Sprintf("PGPORT=%d", c.Port), "PGUSER=postgres", "PGDATABASE=postgres"}
}

// Exec runs statements. Several in one string form one transaction, as with psql -c.
func (c *Cluster) Exec(t testing.TB, sql string) {
	t.Helper()
	c.Query(t, sql)
}

// Query runs statements and returns the rows of the last as psql -At prints
// them: columns parted by "|", rows by line feeds, NULL empty.
func (c *Cluster) Query(t testing.TB, sql string) string {
	t.Helper()
	rows, err := c.TryQuery(t.Context(), sql)
	if err != nil {
		t.Fatalf("PostgreSQL %d: %v\nin: %s", c.Major, err, sql)
	}
	return rows
}

// TryQuery is Query for what may fail.
func (c *Cluster) TryQuery(ctx context.Context, sql string) (string, error) {
	return query(ctx, c.DSN(), sql)
}

func query(ctx context.Context, dsn, sql string) (string, error) {
	conn, err := pgconn.Connect(ctx, dsn)
	if err != nil {
		return "", err
	}
	rows, err := queryOn(ctx, conn, sql)
	if closeErr := conn.Close(ctx); err == nil {
		err = closeErr
	}
	return rows, err
}

func queryOn(ctx context.Context, conn *pgconn.PgConn, sql string) (string, error) {
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil || len(results) == 0 {
		return "", err
	}
	var lines []string
	for _, row := range results[len(results)-1].Rows {
		columns := make([]string, len(row))
		for i, v := range row {
			columns[i] = string(v)
		}
		lines = append(lines, strings.Join(columns, "|"))
	}
	return strings.Join(lines, "\n"), nil
}

// WaitFor asks until the answer is want. An error, of a server that still
// starts for example, is an answer too. After two minutes the test fails.
func (c *Cluster) WaitFor(t testing.TB, sql, want string) {
	t.Helper()
	var got string
	var err error
	ok := poll(t, func() bool {
		got, err = c.TryQuery(t.Context(), sql)
		return err == nil && got == want
	})
	if !ok {
		t.Fatalf("PostgreSQL %d still answers %q, %v to %s; want %q", c.Major, got, err, sql, want)
	}
}

// poll calls done until it is true, for two minutes at most.
func poll(t testing.TB, done func() bool) bool {
	for deadline := time.Now().Add(2 * time.Minute); !done(); {
		if t.Context().Err() != nil || time.Now().After(deadline) {
			return false
		}
		time.Sleep(20 * time.Millisecond)
	}
	return true
}

// WaitRecovered waits until the server has ended recovery, so it takes writes.
func (c *Cluster) WaitRecovered(t testing.TB) {
	t.Helper()
	c.WaitFor(t, "SELECT pg_is_in_recovery()", "f")
}

// Promote ends a standby's recovery and waits for it.
func (c *Cluster) Promote(t testing.TB) {
	t.Helper()
	if got := c.Query(t, "SELECT pg_promote(true, 120)"); got != "t" {
		t.Fatalf("pg_promote = %q, want t", got)
	}
}

// SwitchWAL makes the server begin a new WAL segment, with at least one record
// in the old one, and returns the name of the old one.
func (c *Cluster) SwitchWAL(t testing.TB) string {
	t.Helper()
	c.Exec(t, "SELECT pg_logical_emit_message(false, 'pgtest', 'switch')")
	return c.Query(t, "SELECT pg_walfile_name(pg_switch_wal())")
}

// WaitArchived waits until archive_command has succeeded for a WAL segment, or
// for a history file.
func (c *Cluster) WaitArchived(t testing.TB, name string) {
	t.Helper()
	wal := filepath.Join(c.Dir, "pg_wal")
	ok := poll(t, func() bool {
		if exists(filepath.Join(wal, "archive_status", name+".done")) {
			return true
		}
		return !exists(filepath.Join(wal, "archive_status", name+".ready")) && !exists(filepath.Join(wal, name))
	})
	if !ok {
		t.Fatalf("PostgreSQL %d has not archived %s", c.Major, name)
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// AddTablespace makes a tablespace and returns its folder.
func (c *Cluster) AddTablespace(t testing.TB, name string) string {
	t.Helper()
	dir := filepath.Join(c.home, "tablespaces", name)
	c.mkdir(t, dir)
	c.Exec(t, fmt.Sprintf("CREATE TABLESPACE %s LOCATION '%s'", name, dir))
	return dir
}

// Pgbench runs pgbench on the database postgres and returns what it printed.
func (c *Cluster) Pgbench(t testing.TB, args ...string) string {
	t.Helper()
	return c.run(t, Tool(t, "pgbench"), args...)
}

// mkdir makes a folder below c.home that only the server's user may use.
func (c *Cluster) mkdir(t testing.TB, dir string) {
	t.Helper()
	c.run(t, "mkdir", "-p", "-m", "0700", dir)
}

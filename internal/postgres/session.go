package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"wal-e/internal/fault"
)

// ErrSessionLost is wrapped by errors after which the session is of no more use.
// A backup that it had started is aborted by the server.
var ErrSessionLost = errors.New("the session with PostgreSQL is lost")

// KeepAliveInterval is how often Watch should ask.
const KeepAliveInterval = 30 * time.Second

// A Session is one connection to a server. The low-level backup that it starts
// lives and dies with it. Its methods are safe for concurrent use; they run one
// after the other. Cancelling a method's context while it waits for the server
// ends the session.
type Session struct {
	conn    *pgconn.PgConn
	version Version
	free    chan struct{} // holds a token unless a query is under way
	started bool          // a backup; guarded by free
}

// Close ends the session, and with it a backup that was started and not stopped.
func (s *Session) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := s.conn.Close(ctx); err != nil {
		return fmt.Errorf("postgres: close the session: %w", err)
	}
	return nil
}

// Watch returns a context that is cancelled once the session is lost, with an
// error that wraps ErrSessionLost as its cause. It finds out by asking the server
// at that interval. stop ends the watch, not the session, and waits for it.
func (s *Session) Watch(ctx context.Context, interval time.Duration) (watched context.Context, stop func()) {
	watched, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.keepAlive(watched, interval); err != nil {
			cancel(err)
		}
	}()
	return watched, func() {
		cancel(context.Canceled)
		<-done
	}
}

// keepAlive asks until ctx is done, which is no error, or the session is lost.
func (s *Session) keepAlive(ctx context.Context, interval time.Duration) error {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		select {
		case <-s.free:
		default:
			continue // a query is under way: it will notice by itself
		}
		if err := s.ping(ctx); err != nil {
			return err
		}
	}
}

// ping gives back the token that the caller has taken. It outlives ctx: pgconn
// closes a connection whose query is cancelled, and the backup would be lost.
func (s *Session) ping(ctx context.Context) error {
	defer s.giveBack()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), KeepAliveInterval)
	defer cancel()
	_, err := s.exec(ctx, "ask whether the session lives", "SELECT 1")
	return err
}

// query runs a statement and returns its rows, NULL as an empty string; what says
// what it is for.
func (s *Session) query(ctx context.Context, what, sql string, args ...string) ([][]string, error) {
	if err := s.take(ctx, what); err != nil {
		return nil, err
	}
	defer s.giveBack()
	return s.exec(ctx, what, sql, args...)
}

// take waits for the token.
func (s *Session) take(ctx context.Context, what string) error {
	select {
	case <-s.free:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("postgres: %s: %w", what, ctx.Err())
	}
}

func (s *Session) giveBack() { s.free <- struct{}{} }

// row is query for a statement that returns one row.
func (s *Session) row(ctx context.Context, what, sql string, args ...string) ([]string, error) {
	rows, err := s.query(ctx, what, sql, args...)
	return single(rows, what, err)
}

func single(rows [][]string, what string, err error) ([]string, error) {
	if err == nil && len(rows) != 1 {
		err = fmt.Errorf("postgres: %s: the server returned %d rows: want one", what, len(rows))
	}
	if err != nil {
		return nil, err
	}
	return rows[0], nil
}

// exec is query for who holds the token.
func (s *Session) exec(ctx context.Context, what, sql string, args ...string) ([][]string, error) {
	params := make([][]byte, len(args))
	for i, a := range args {
		params[i] = []byte(a)
	}
	result := s.conn.ExecParams(ctx, sql, params, nil, nil, nil).Read()
	if result.Err != nil {
		if s.conn.IsClosed() {
			return nil, fmt.Errorf("postgres: %s: %w: %w", what, ErrSessionLost, result.Err)
		}
		return nil, fmt.Errorf("postgres: %s: %w", what, result.Err)
	}
	rows := make([][]string, len(result.Rows))
	for i, values := range result.Rows {
		rows[i] = make([]string, len(values))
		for j, v := range values {
			rows[i][j] = string(v)
		}
	}
	return rows, nil
}

// ServerVersion returns the version that the server gave on connecting.
func (s *Session) ServerVersion() Version { return s.version }

// InRecovery reports whether the server is a standby.
func (s *Session) InRecovery(ctx context.Context) (bool, error) {
	row, err := s.row(ctx, "ask whether the server is a standby", "SELECT pg_catalog.pg_is_in_recovery()::text")
	return err == nil && row[0] == "true", err
}

// Timeline returns the timeline that the server is on, by its control file. Just
// after a promotion the end of recovery is there before the checkpoint is.
func (s *Session) Timeline(ctx context.Context) (Timeline, error) {
	row, err := s.row(ctx, "read the timeline", `
		SELECT GREATEST(c.timeline_id, r.min_recovery_end_timeline)::text
		  FROM pg_catalog.pg_control_checkpoint() c, pg_catalog.pg_control_recovery() r`)
	if err != nil {
		return 0, err
	}
	return ParseTimeline(row[0])
}

// Settings returns server settings by name, as pg_settings has them: numbers in
// the setting's base unit. One that this release doesn't have, or that the role
// may not see, is not in the map.
func (s *Session) Settings(ctx context.Context, names ...string) (map[string]string, error) {
	rows, err := s.query(ctx, "read settings", `
		SELECT name, setting FROM pg_catalog.pg_settings
		 WHERE name = ANY (pg_catalog.string_to_array($1::text, ','))`, strings.Join(names, ","))
	if err != nil {
		return nil, err
	}
	settings := make(map[string]string, len(rows))
	for _, row := range rows {
		settings[row[0]] = row[1]
	}
	return settings, nil
}

// DataDirectory returns the server's data directory.
func (s *Session) DataDirectory(ctx context.Context) (string, error) {
	settings, err := s.Settings(ctx, "data_directory")
	if err != nil {
		return "", err
	}
	dir, ok := settings["data_directory"]
	if !ok {
		return "", fault.Rights.Errorf("postgres: the role may not see data_directory: it needs pg_read_all_settings, before 10 superuser")
	}
	return dir, nil
}

// CheckDirectory returns an error unless dir is this server's data directory: the
// same folder on this machine, with the same system identifier and checkpoint.
func (s *Session) CheckDirectory(ctx context.Context, dir string) error {
	serverDir, err := s.DataDirectory(ctx)
	if err != nil {
		return err
	}
	ours, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("postgres: check the data directory: %w", err)
	}
	theirs, err := os.Stat(serverDir)
	if err != nil || !os.SameFile(ours, theirs) {
		return fault.OtherServer.Errorf("postgres: %s is not the data directory of the server that the connection leads to, which is %s there: "+
			"run on the server's machine, with PGHOST and PGPORT of that server", dir, serverDir)
	}
	return s.checkControlFile(ctx, dir)
}

func (s *Session) checkControlFile(ctx context.Context, dir string) error {
	column := "checkpoint_lsn"
	if s.version < V10 {
		column = "checkpoint_location"
	}
	const attempts = 3 // a checkpoint may end between the two looks
	for i := 1; ; i++ {
		row, err := s.row(ctx, "compare pg_control", `
			SELECT s.system_identifier::text, c.`+column+`::text
			  FROM pg_catalog.pg_control_system() s, pg_catalog.pg_control_checkpoint() c`)
		if err != nil {
			return err
		}
		c, _, err := ReadControlFile(ctx, dir)
		if err != nil {
			return fmt.Errorf("postgres: check the data directory: %w", err)
		}
		// pg_control_system returns a signed number.
		id, err := strconv.ParseInt(row[0], 10, 64)
		if err != nil || SystemID(id) != c.SystemID {
			return fault.OtherServer.Errorf("postgres: %s belongs to the cluster %s, the server to %s", dir, c.SystemID, SystemID(id))
		}
		if row[1] == c.Checkpoint.LSN.String() {
			return nil
		}
		if i == attempts {
			return fault.OtherServer.Errorf("postgres: pg_control in %s has its checkpoint at %s, the server's at %s: it is a copy", dir, c.Checkpoint.LSN, row[1])
		}
	}
}

// A Tablespace is one beside pg_default and pg_global.
type Tablespace struct {
	OID      uint32
	Name     string
	Location string // absolute, but "pg_tblspc/<oid>" of one that is in place (15+)
}

// Tablespaces returns the server's tablespaces in order of OID.
func (s *Session) Tablespaces(ctx context.Context) ([]Tablespace, error) {
	rows, err := s.query(ctx, "list tablespaces", `
		SELECT oid::text, spcname, pg_catalog.pg_tablespace_location(oid)
		  FROM pg_catalog.pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global') ORDER BY oid`)
	if err != nil {
		return nil, err
	}
	var list []Tablespace
	for _, row := range rows {
		oid, ok := parseOID(row[0])
		if !ok {
			return nil, fmt.Errorf("postgres: list tablespaces: the server returned OID %q", row[0])
		}
		list = append(list, Tablespace{oid, row[1], row[2]})
	}
	return list, nil
}

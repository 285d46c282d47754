package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"wal-e/internal/fault"
)

// Config says which server to connect to. The zero value is what libpq takes from
// the environment: the PG* variables, the service file, .pgpass and the default socket.
type Config struct {
	// DataDir is the data directory of the server that is meant. Where the
	// environment names neither host nor port, its postmaster.pid does.
	DataDir string
	// Conninfo holds settings in libpq's form "keyword=value", which win over the
	// environment. URLs are refused.
	Conninfo string
}

// Connect opens a session that lasts as long as a backup does: the server's
// timeouts are off, and a pooler is refused. Errors name user, database and
// address, never a password.
func Connect(ctx context.Context, c Config) (*Session, error) {
	config, err := c.parse()
	if err != nil {
		return nil, err
	}
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return nil, connectError(config, err)
	}
	s := &Session{conn: conn, free: make(chan struct{}, 1)}
	s.free <- struct{}{}
	if err := s.prepare(ctx); err != nil {
		_ = s.Close(context.WithoutCancel(ctx)) // err says what happened
		return nil, err
	}
	return s, nil
}

func connectError(config *pgconn.Config, err error) error {
	hint := ""
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED) {
		hint = ": nothing listens there: start the server, or set PGHOST and PGPORT to where it listens"
	}
	return fault.NoServer.Errorf("postgres: connect to %s port %d: %w%s", config.Host, config.Port, err, hint)
}

// parse makes pgconn's configuration. It parses twice, because .pgpass is searched
// for the host and the database that are meant in the end.
func (c Config) parse() (*pgconn.Config, error) {
	if strings.HasPrefix(c.Conninfo, "postgres://") || strings.HasPrefix(c.Conninfo, "postgresql://") {
		return nil, fault.NoServer.Errorf("postgres: connection URLs are not supported: give keyword=value settings or PG* variables")
	}
	config, err := pgconn.ParseConfig(c.Conninfo)
	if err != nil {
		return nil, configError(err)
	}
	settings := c.Conninfo
	if config.Database == "" {
		settings += " dbname=postgres"
	}
	if host, port, ok := c.serverOf(config); ok {
		settings += fmt.Sprintf(" host=%s port=%d", quoteConninfo(host), port)
	}
	if config, err = pgconn.ParseConfig(settings); err != nil {
		return nil, configError(err)
	}
	if _, ok := config.RuntimeParams["application_name"]; !ok {
		config.RuntimeParams["application_name"] = "wal-e"
	}
	dialer := &net.Dialer{Timeout: config.ConnectTimeout, KeepAliveConfig: net.KeepAliveConfig{
		Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 6,
	}}
	config.DialFunc = dialer.DialContext
	return config, nil
}

// configError drops the connection string from pgconn's error: it may hold a password.
func configError(err error) error {
	var parse *pgconn.ParseConfigError
	if !errors.As(err, &parse) {
		return fault.NoServer.Errorf("postgres: the settings for the connection are wrong: check the PG* variables")
	}
	if cause := parse.Unwrap(); cause != nil {
		return fmt.Errorf("postgres: the settings for the connection are wrong: %w", cause)
	}
	_, msg, _ := strings.Cut(parse.Error(), "`: ")
	return fault.NoServer.Errorf("postgres: the settings for the connection are wrong: %s", msg)
}

// serverOf returns where the server of DataDir listens, if config says no more
// than the defaults: those may belong to another server of this machine.
func (c Config) serverOf(config *pgconn.Config) (host string, port uint16, ok bool) {
	defaultHosts := []string{"/var/run/postgresql", "/private/tmp", "/tmp"} // pgconn's
	if c.DataDir == "" || !slices.Contains(defaultHosts, config.Host) {
		return "", 0, false
	}
	p, err := ReadPostmasterPID(c.DataDir)
	if err != nil || config.Port != 5432 && config.Port != p.Port {
		return "", 0, false // nothing better to offer than what libpq does
	}
	host, ok = p.address()
	return host, p.Port, ok
}

func quoteConninfo(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}

// prepare makes a new connection fit for a backup.
func (s *Session) prepare(ctx context.Context) error {
	row, err := s.row(ctx, "read the server's version", `
		SELECT pg_catalog.current_setting('server_version_num'), pg_catalog.pg_backend_pid()::text`)
	if err != nil {
		return err
	}
	number, err := strconv.Atoi(row[0])
	if err != nil {
		return fault.NoServer.Errorf("postgres: server_version_num is %q", row[0])
	}
	s.version = Version(number)
	if s.version < V9_6 {
		return fault.NoServer.Errorf("postgres: the server is PostgreSQL %s: 9.6 and later are supported", row[0])
	}
	if told := strconv.FormatUint(uint64(s.conn.PID()), 10); row[1] != told {
		return fault.NoServer.Errorf("postgres: the connection goes through a pooler (its process is %s, the server's is %s), "+
			"but a backup needs a session of its own: set PGHOST and PGPORT to the server's", told, row[1])
	}
	// pg_settings has the timeouts that this release knows. The encoding is the
	// server's, so that backup_label and tablespace_map come byte for byte.
	_, err = s.query(ctx, "turn off the session's timeouts", `
		SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings
		 WHERE name IN ('statement_timeout', 'lock_timeout', 'idle_session_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')
		UNION ALL
		SELECT pg_catalog.set_config('client_encoding', pg_catalog.current_setting('server_encoding'), false)
		UNION ALL
		SELECT pg_catalog.set_config('search_path', '', false)`)
	return err
}

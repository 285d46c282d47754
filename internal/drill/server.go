// Package drill starts PostgreSQL on a restored cluster, cut off from everything
// around it, so that a backup can be proven to recover: nothing is archived, no
// other server is spoken to, and only the user who runs it can connect.
package drill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"wal-e/internal/fault"
	"wal-e/internal/postgres"
)

// Config says what to start. Dir and Programs are required.
type Config struct {
	Dir      string // the restored data directory, with its recovery set up
	Programs string // the folder of the server's programs; see FindPrograms
	Environ  []string
}

// A Server is a PostgreSQL that runs on a restored cluster.
type Server struct {
	cfg     Config
	version postgres.Version
	folder  *Folder // nil until Start has made it
	private string  // its path: it has the socket and our configuration
	user    string  // a superuser of the cluster
	dropped []string

	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
}

// FindPrograms returns the folder with the programs of that release: dir if it is
// given, else where Debian's and PGDG's packages have them, else the PATH's.
func FindPrograms(v postgres.Version, dir string) (string, error) {
	candidates := []string{dir}
	if dir == "" {
		candidates = []string{"/usr/lib/postgresql/" + v.Major() + "/bin", "/usr/pgsql-" + v.Major() + "/bin", "/usr/local/pgsql/bin"}
		if path, err := exec.LookPath("postgres"); err == nil {
			candidates = append(candidates, filepath.Dir(path))
		}
	}
	var found []string
	for _, c := range candidates {
		out, err := exec.Command(filepath.Join(c, "postgres"), "--version").Output()
		if err != nil {
			continue
		}
		// "postgres (PostgreSQL) 15.4 (Debian 15.4-2)", or "17beta1"
		number := strings.TrimPrefix(strings.TrimSpace(string(out)), "postgres (PostgreSQL) ")
		if rest, ok := strings.CutPrefix(number, v.Major()); ok && (rest == "" || rest[0] < '0' || rest[0] > '9') {
			return c, nil
		}
		found = append(found, fmt.Sprintf("%s has %s", c, number))
	}
	tried := strings.Join(candidates, ", ")
	if len(found) > 0 {
		tried += " (" + strings.Join(found, "; ") + ")"
	}
	return "", fault.NoPrograms.Errorf("no server of PostgreSQL %s: looked in %s", v.Major(), tried)
}

// Start starts the server; it recovers in the background. Stop must be called
// also when Start fails.
//
// The cluster's own postgresql.conf isn't read, for what it names may not be on
// this host, or may reach beyond it; of its settings, those without which WAL
// can't be replayed are taken over.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	s := &Server{cfg: cfg}
	if os.Getuid() == 0 {
		return s, fault.NoPrograms.Errorf("PostgreSQL doesn't run as root: run the drill as the user that runs PostgreSQL, `sudo -u postgres wal-e drill`")
	}
	var err error
	if s.version, err = postgres.ReadVersion(cfg.Dir); err != nil {
		return s, err
	}
	if s.user, err = superuser(cfg.Dir); err != nil {
		return s, err
	}
	// The path of a socket is short, so it can't be below Dir, which may not be.
	if s.folder, err = MakeFolder(os.TempDir()); err != nil {
		return s, err
	}
	s.private = s.folder.Path
	settings, err := s.settings(ctx)
	if err != nil {
		return s, err
	}
	for name, text := range map[string]string{"postgresql.conf": "", "pg_hba.conf": "local all all trust\n", "pg_ident.conf": ""} {
		if err := os.WriteFile(filepath.Join(s.private, name), []byte(text), 0o600); err != nil {
			return s, err
		}
	}
	return s, s.start(settings)
}

// outside are settings by which a server would reach beyond itself. They stand on
// its command line, which beats postgresql.auto.conf.
func (s *Server) outside() []string {
	settings := []string{
		"archive_mode=off", "archive_command=", "listen_addresses=", "unix_socket_directories=" + s.private, "port=5432",
		"external_pid_file=", "ssl=off", "logging_collector=off", "log_destination=stderr", "log_min_messages=log",
		"synchronous_standby_names=", "max_logical_replication_workers=0", "max_wal_senders=0", "hot_standby=off",
		"session_preload_libraries=", "local_preload_libraries=", "huge_pages=off", "shared_buffers=128MB",
		"autovacuum=off", "jit=off", "event_source=PostgreSQL", "restart_after_crash=off",
	}
	if s.version >= postgres.V9_6 {
		// Workers of extensions do jobs and speak to other servers. Recovery asks for
		// as many as the primary had only with hot_standby.
		settings = append(settings, "max_worker_processes=0")
	}
	if s.version < postgres.V15 {
		settings = append(settings, "stats_temp_directory=pg_stat_tmp") // a server empties it
	}
	if s.version >= postgres.V12 {
		settings = append(settings, "primary_conninfo=", "primary_slot_name=", "recovery_end_command=", "archive_cleanup_command=")
	}
	if s.version < postgres.V10 {
		settings = slices.DeleteFunc(settings, func(o string) bool { return strings.HasPrefix(o, "max_logical_replication_workers") })
	}
	if s.version >= postgres.V15 {
		settings = append(settings, "archive_library=")
	}
	if s.version >= postgres.V17 {
		settings = append(settings, "sync_replication_slots=off")
	}
	return settings
}

// settings are those that recovery needs. Limits are those that WAL was written
// under; libraries may have resource managers for WAL of their own. They stand on
// the command line, too: the cluster may have others in postgresql.auto.conf.
func (s *Server) settings(ctx context.Context) ([]string, error) {
	data, err := os.ReadFile(filepath.Join(s.cfg.Dir, "global", "pg_control"))
	if err != nil {
		return nil, err
	}
	control, err := postgres.ParseControlFile(data)
	if err != nil {
		return nil, err
	}
	list := []string{
		fmt.Sprintf("max_connections=%d", max(control.MaxConnections, 10)),
		fmt.Sprintf("max_prepared_transactions=%d", control.MaxPreparedXacts),
		fmt.Sprintf("max_locks_per_transaction=%d", max(control.MaxLocksPerXact, 64)),
	}
	if control.TrackCommitTimestamps {
		list = append(list, "track_commit_timestamp=on")
	}
	libraries, err := s.libraries(ctx)
	if err != nil {
		return nil, err
	}
	return append(list, "shared_preload_libraries="+strings.Join(libraries, ",")), nil
}

// libraries returns the cluster's shared_preload_libraries that are installed
// here, but for those that start work of their own.
func (s *Server) libraries(ctx context.Context) ([]string, error) {
	out, err := exec.CommandContext(ctx, s.program("postgres"), "-D", s.cfg.Dir, "-C", "shared_preload_libraries").Output()
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, nil // its configuration isn't in the directory, or names what isn't here
	}
	folder, err := exec.CommandContext(ctx, s.program("pg_config"), "--pkglibdir").Output()
	if err != nil {
		folder = []byte(filepath.Join(filepath.Dir(s.cfg.Programs), "lib"))
	}
	var kept []string
	for name := range strings.SplitSeq(strings.TrimSpace(string(out)), ",") {
		name = strings.Trim(strings.TrimSpace(name), `"`)
		if name == "" {
			continue
		}
		file := strings.TrimSuffix(strings.TrimPrefix(name, "$libdir/"), ".so")
		path := filepath.Join(strings.TrimSpace(string(folder)), file+".so")
		if filepath.IsAbs(file) {
			path = file + ".so"
		}
		if _, err := os.Stat(path); err != nil || filepath.Base(file) == "pg_cron" {
			s.dropped = append(s.dropped, name)
			continue
		}
		kept = append(kept, name)
	}
	return kept, nil
}

// Dropped are the libraries that the cluster preloads and the drill didn't: they
// aren't installed here, or do work of their own.
func (s *Server) Dropped() []string { return s.dropped }

func (s *Server) program(name string) string { return filepath.Join(s.cfg.Programs, name) }

// LogPath is where the server logs to.
func (s *Server) LogPath() string { return filepath.Join(s.private, "server.log") }

func (s *Server) start(settings []string) error {
	log, err := os.OpenFile(s.LogPath(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() // the server has its own descriptor
	args := []string{"-D", s.cfg.Dir}
	options := append(append(s.outside(), settings...),
		"config_file="+filepath.Join(s.private, "postgresql.conf"),
		"hba_file="+filepath.Join(s.private, "pg_hba.conf"),
		"ident_file="+filepath.Join(s.private, "pg_ident.conf"),
		"data_directory="+s.cfg.Dir)
	for _, o := range options {
		args = append(args, "-c", o)
	}
	s.cmd = exec.Command(s.program("postgres"), args...)
	// PostgreSQL's own variables are about another server.
	s.cmd.Env = slices.DeleteFunc(slices.Clone(s.cfg.Environ), func(v string) bool { return strings.HasPrefix(v, "PG") })
	s.cmd.Stdout, s.cmd.Stderr = log, log
	// A signal from the terminal is for us: Stop ends the server.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	endWithUs(s.cmd.SysProcAttr)
	s.done = make(chan struct{})
	started := make(chan error, 1)
	go func() {
		// A child is told of the end of the thread that started it, so that thread
		// stays as long as the server does.
		runtime.LockOSThread()
		err := s.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		_ = s.cmd.Wait() // ProcessState has it
		close(s.done)
	}()
	if err := <-started; err != nil {
		s.cmd = nil
		return err
	}
	return nil
}

// WaitRecovered waits until the server has recovered, promoted itself, and takes
// connections.
func (s *Server) WaitRecovered(ctx context.Context) error {
	for {
		rows, err := s.Query(ctx, "postgres", "SELECT pg_is_in_recovery()")
		if err == nil && len(rows) == 1 && rows[0][0] == "f" {
			return nil
		}
		select {
		case <-s.done:
			return fault.DrillFailed.Errorf("PostgreSQL ended during recovery (%v); the end of its log:\n%s", s.cmd.ProcessState, s.logTail())
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// logTail is the end of the server's log.
func (s *Server) logTail() string {
	const most = 4 << 10
	f, err := os.Open(s.LogPath())
	if err != nil {
		return err.Error()
	}
	defer f.Close() // it was only read
	if info, err := f.Stat(); err == nil && info.Size() > most {
		if _, err := f.Seek(-most, io.SeekEnd); err != nil {
			return err.Error()
		}
	}
	b, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(b))
}

// Query runs SQL in a database and returns the rows of its last statement as text.
func (s *Server) Query(ctx context.Context, database, sql string) ([][]string, error) {
	config, err := pgconn.ParseConfig(fmt.Sprintf("host=%s port=5432 user=%s dbname=%s sslmode=disable", quoted(s.private), quoted(s.user), quoted(database)))
	if err != nil {
		return nil, err
	}
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }() // the results are there
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil || len(results) == 0 {
		return nil, err
	}
	var rows [][]string
	for _, row := range results[len(results)-1].Rows {
		var text []string
		for _, column := range row {
			text = append(text, string(column))
		}
		rows = append(rows, text)
	}
	return rows, nil
}

func quoted(s string) string { return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'" }

// Stop ends the server, which loses nothing: the cluster is thrown away. It
// removes what Start made beside the data directory.
func (s *Server) Stop() error {
	var err error
	if s.cmd != nil {
		err = s.cmd.Process.Signal(syscall.SIGQUIT) // immediate shutdown: its children end, too
		if errors.Is(err, os.ErrProcessDone) {
			err = nil
		}
		select {
		case <-s.done:
		case <-time.After(30 * time.Second):
			err = errors.Join(err, fault.DrillFailed.Errorf("PostgreSQL (pid %d) doesn't end; its log is %s", s.cmd.Process.Pid, s.LogPath()))
			return err
		}
	}
	if s.folder != nil {
		err = errors.Join(err, s.folder.Remove())
	}
	return err
}

// superuser returns the name of a superuser that may log in, from pg_authid as it
// stands in the directory: the first one, which initdb makes, if it still is one.
func superuser(dir string) (string, error) {
	const firstUser, roles, blockSize = 10, 1260, 8192
	b, err := os.ReadFile(filepath.Join(dir, "global", "pg_filenode.map"))
	if err != nil {
		return "", err
	}
	nodes, err := postgres.ParseFilenodeMap(b)
	if err != nil {
		return "", err
	}
	file, err := os.ReadFile(filepath.Join(dir, "global", fmt.Sprint(nodes[roles])))
	if errors.Is(err, fs.ErrNotExist) {
		return "", fault.DrillFailed.Errorf("%s has no pg_authid", dir)
	}
	if err != nil {
		return "", err
	}
	name := ""
	for page := range slices.Chunk(file, blockSize) {
		for row := range postgres.Tuples(page) {
			oid, rolname, flags, ok := postgres.ParseRoleRow(row)
			if ok && row.Current && flags.Superuser && flags.Login && (name == "" || oid == firstUser) {
				name = rolname
			}
		}
	}
	if name == "" {
		return "", fault.DrillFailed.Errorf("the cluster has no superuser that may log in")
	}
	return name, nil
}

package checkup

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"wal-e/internal/postgres"
)

// A ServerConfig says which server to look at.
type ServerConfig struct {
	Dir string // its data directory
	// Readable tells whether a backup could read all files in a directory.
	Readable func(ctx context.Context, dir string, control *postgres.ControlFile) error
}

// Server looks at what a server and its directory need so that backups can be
// taken and WAL gets archived.
func Server(ctx context.Context, c ServerConfig) Findings {
	s := &server{list: list{area: "server"}, ServerConfig: c}
	s.directory(ctx)
	session, err := postgres.Connect(ctx, postgres.Config{DataDir: c.Dir})
	if err != nil {
		s.add(Failure, "connects", "a base backup of a running server needs a session: set PGHOST, PGPORT, PGUSER as psql needs them", "%v", err)
		return s.findings
	}
	defer func() { _ = session.Close(context.WithoutCancel(ctx)) }() // nothing was changed
	s.session = session
	s.add(OK, "connects", "", "PostgreSQL %s", session.ServerVersion())
	s.fails("is the server of the directory", "name the data directory of the server that is connected to", "yes", session.CheckDirectory(ctx, c.Dir))
	s.fails("may start a backup", "run the GRANTs as a superuser", "yes", session.CheckRights(ctx))
	s.settings(ctx)
	s.archiving(ctx)
	return s.findings
}

type server struct {
	list
	ServerConfig
	session *postgres.Session
}

// fails adds a failure when err says so.
func (s *server) fails(check, fix, found string, err error) {
	if err != nil {
		s.add(Failure, check, fix, "%v", err)
		return
	}
	s.add(OK, check, "", "%s", found)
}

func (s *server) directory(ctx context.Context) {
	control, _, err := postgres.ReadControlFile(ctx, s.Dir)
	if err != nil {
		s.add(Failure, "data directory", "name the directory that holds PG_VERSION and global/pg_control, and run as a user that may read it", "%v", err)
		return
	}
	s.add(OK, "data directory", "", "%s: system identifier %s, segments of %d MiB", s.Dir, control.SystemID, int64(control.WALSegmentSize)>>20)
	if control.ChecksumVersion == 0 {
		s.add(Warning, "page checksums", "stop the cluster and run pg_checksums --enable (PostgreSQL 12 and later)",
			"the cluster has none, so neither the server nor a backup notices damaged pages")
	} else {
		s.add(OK, "page checksums", "", "on: each backup checks them")
	}
	s.fails("files can be read", "run wal-e as the user that the server runs as", "all of them", s.Readable(ctx, s.Dir, control))
}

func (s *server) settings(ctx context.Context) {
	set, err := s.session.Settings(ctx, "wal_level", "full_page_writes", "fsync", "archive_timeout", "archive_command", "archive_library")
	if err != nil {
		s.add(Unknown, "settings", "", "%v", err)
		return
	}
	if level := set["wal_level"]; level == "minimal" {
		s.add(Failure, "wal_level", "set wal_level = replica and restart the server", "%s: the WAL isn't enough to recover from", level)
	} else {
		s.add(OK, "wal_level", "", "%s", level)
	}
	for _, name := range []string{"fsync", "full_page_writes"} {
		if set[name] == "off" {
			s.add(Warning, name, "set "+name+" = on", "off: a crash can damage the cluster, and backups of it")
		}
	}
	if set["archive_timeout"] == "0" {
		s.add(Warning, "archive_timeout", "set it to the minutes of work that you can afford to lose, such as archive_timeout = 60s",
			"0: a quiet server archives a segment only when it is full, so the newest work is in no archive")
	} else {
		s.add(OK, "archive_timeout", "", "%s s", set["archive_timeout"])
	}
	switch command := set["archive_command"]; {
	case set["archive_library"] != "" || command == "" || command == "(disabled)":
	case strings.Contains(command, "envdir") && !strings.Contains(command, "WALE_ENVDIR"):
		s.add(Warning, "archive_command", "use WALE_ENVDIR=DIR wal-e wal-push %p: envdir itself exits 111 when it can't read its folder",
			"%s", command)
	case !strings.Contains(filepath.ToSlash(command), "wal-e"):
		s.add(Warning, "archive_command", "set it to run wal-e wal-push %p", "%s: it doesn't call wal-e", command)
	default:
		s.add(OK, "archive_command", "", "%s", command)
	}
}

// archiving asks whether the archiver works. Where WAL goes only the archive knows.
func (s *server) archiving(ctx context.Context) {
	const check = "archives"
	a, err := s.session.CheckArchiving(ctx)
	if err != nil {
		s.add(Failure, check, "the server's log says why", "%v", err)
		return
	}
	if a.ByPrimary {
		s.add(OK, check, "", "a standby that leaves it to its primary: run this check there too")
		return
	}
	status, err := s.session.ArchiverStatus(ctx)
	switch {
	case err != nil:
		s.add(Unknown, check, "", "%v", err)
	case status.ArchivedAt.IsZero():
		s.add(Warning, check, "run SELECT pg_switch_wal() and check again", "%s", status)
	default:
		s.add(OK, check, "", "%s", fmt.Sprint(status))
	}
}

package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"wal-e/internal/fault"
)

// StartBackup starts a non-exclusive base backup and returns where it starts. It
// waits for a checkpoint, which a fast one finishes at once and another spreads
// over checkpoint_completion_target. Backups that other sessions run go on beside it.
func (s *Session) StartBackup(ctx context.Context, label string, fast bool) (LSN, error) {
	const what = "start the backup"
	sql := "SELECT pg_catalog.pg_start_backup($1::text, $2::boolean, false)::text"
	if s.version >= V15 {
		sql = "SELECT pg_catalog.pg_backup_start($1::text, $2::boolean)::text"
	}
	if err := s.take(ctx, what); err != nil {
		return 0, err
	}
	defer s.giveBack()
	if s.started {
		return 0, errors.New("postgres: start the backup: this session has one already")
	}
	rows, err := s.exec(ctx, what, sql, label, fmt.Sprint(fast))
	row, err := single(rows, what, err)
	if err != nil {
		return 0, err
	}
	s.started = true
	return ParseLSN(row[0])
}

// A StoppedBackup is what the server returns at the end of a backup. The files
// belong into the backup byte for byte, an empty one not at all.
type StoppedBackup struct {
	Stop          LSN
	Label         []byte // backup_label
	TablespaceMap []byte // tablespace_map
}

// StopBackup stops the backup that this session started; without one it doesn't
// ask the server. It does not wait for the WAL to be archived, except in 9.6, which can't
// do otherwise. On an error the backup counts as aborted: close the session.
func (s *Session) StopBackup(ctx context.Context) (*StoppedBackup, error) {
	const what = "stop the backup"
	call := "pg_stop_backup(false, false)"
	switch {
	case s.version >= V15:
		call = "pg_backup_stop(false)"
	case s.version < V10:
		call = "pg_stop_backup(false)"
	}
	if err := s.take(ctx, what); err != nil {
		return nil, err
	}
	defer s.giveBack()
	if !s.started {
		return nil, errors.New("postgres: stop the backup: this session has started none")
	}
	rows, err := s.exec(ctx, what, "SELECT lsn::text, labelfile, spcmapfile FROM pg_catalog."+call)
	row, err := single(rows, what, err)
	if err != nil {
		return nil, err
	}
	s.started = false
	stop, err := ParseLSN(row[0])
	if err != nil {
		return nil, err
	}
	return &StoppedBackup{stop, []byte(row[1]), []byte(row[2])}, nil
}

// CheckRights returns an error unless the role may take a backup: as a superuser,
// or with EXECUTE on the two functions and pg_read_all_settings. The error holds
// the statements that grant what is missing.
func (s *Session) CheckRights(ctx context.Context) error {
	start, stop := "pg_start_backup(text, boolean, boolean)", "pg_stop_backup(boolean, boolean)"
	switch {
	case s.version >= V15:
		start, stop = "pg_backup_start(text, boolean)", "pg_backup_stop(boolean)"
	case s.version < V10:
		stop = "pg_stop_backup(boolean)"
	}
	reads := "pg_catalog.pg_has_role(current_user, 'pg_read_all_settings', 'USAGE')"
	if s.version < V10 {
		reads = "false" // there is no such role
	}
	row, err := s.row(ctx, "check the role's rights", `
		SELECT r.rolsuper::text, pg_catalog.quote_ident(r.rolname), pg_catalog.current_database(),
		       pg_catalog.has_function_privilege(current_user, 'pg_catalog.`+start+`', 'EXECUTE')::text,
		       pg_catalog.has_function_privilege(current_user, 'pg_catalog.`+stop+`', 'EXECUTE')::text,
		       (`+reads+`)::text
		  FROM pg_catalog.pg_roles r WHERE r.rolname = current_user`)
	if err != nil || row[0] == "true" {
		return err
	}
	role, database := row[1], row[2]
	if s.version < V10 {
		return fault.Rights.Errorf("postgres: role %s can't take a backup: PostgreSQL 9.6 shows data_directory to superusers only", role)
	}
	var grants []string
	for i, function := range []string{start, stop} {
		if row[3+i] != "true" {
			grants = append(grants, fmt.Sprintf("GRANT EXECUTE ON FUNCTION pg_catalog.%s TO %s;", function, role))
		}
	}
	if row[5] != "true" {
		grants = append(grants, fmt.Sprintf("GRANT pg_read_all_settings TO %s;", role))
	}
	if grants == nil {
		return nil
	}
	return fault.Rights.Errorf("postgres: role %s can't take a backup: as a superuser, in database %q, run\n%s", role, database, strings.Join(grants, "\n"))
}

package postgres

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"wal-e/internal/fault"
)

// An ArchiverStatus is what pg_stat_archiver says. Names and times are zero where
// nothing happened since the statistics were reset.
type ArchiverStatus struct {
	Archived     int64 // how many WAL files
	LastArchived string
	ArchivedAt   time.Time
	Failed       int64 // how many tries
	LastFailed   string
	FailedAt     time.Time
}

// Failing reports whether the last try failed.
func (a ArchiverStatus) Failing() bool { return a.FailedAt.After(a.ArchivedAt) }

// String says in a line what the archiver did last.
func (a ArchiverStatus) String() string {
	success := "it has archived nothing yet"
	if !a.ArchivedAt.IsZero() {
		success = fmt.Sprintf("it archived %s at %s", a.LastArchived, a.ArchivedAt.Format(time.RFC3339))
	}
	if a.Failing() {
		return fmt.Sprintf("the archiver failed on %s at %s (%d failures); before, %s", a.LastFailed, a.FailedAt.Format(time.RFC3339), a.Failed, success)
	}
	return "the archiver works: " + success
}

// ArchiverStatus asks for the archiver's progress.
func (s *Session) ArchiverStatus(ctx context.Context) (ArchiverStatus, error) {
	row, err := s.row(ctx, "read the archiver's status", `
		SELECT archived_count::text, last_archived_wal, (EXTRACT(epoch FROM last_archived_time) * 1000000)::bigint::text,
		       failed_count::text, last_failed_wal, (EXTRACT(epoch FROM last_failed_time) * 1000000)::bigint::text
		  FROM pg_catalog.pg_stat_archiver`)
	if err != nil {
		return ArchiverStatus{}, err
	}
	var numbers [6]int64
	for i, value := range row {
		if i == 1 || i == 4 || value == "" {
			continue
		}
		if numbers[i], err = strconv.ParseInt(value, 10, 64); err != nil {
			return ArchiverStatus{}, fault.NotArchiving.Errorf("postgres: read the archiver's status: the server returned %q", value)
		}
	}
	a := ArchiverStatus{Archived: numbers[0], LastArchived: row[1], Failed: numbers[3], LastFailed: row[4]}
	if numbers[2] != 0 {
		a.ArchivedAt = time.UnixMicro(numbers[2]).UTC()
	}
	if numbers[5] != 0 {
		a.FailedAt = time.UnixMicro(numbers[5]).UTC()
	}
	return a, nil
}

// An Archiving says how a server's WAL gets archived.
type Archiving struct {
	// ByPrimary is true for a standby that archives nothing itself: its primary
	// must, and a quiet one must be made to switch segments.
	ByPrimary bool
	Command   string // archive_command, or empty
	Library   string // archive_library (15+), or empty
}

// CheckArchiving returns an error unless the WAL of a backup will be archived, as
// far as the server knows: archiving is on, and the archiver's last try succeeded.
// Where the WAL goes is for the archive to tell.
func (s *Session) CheckArchiving(ctx context.Context) (Archiving, error) {
	standby, err := s.InRecovery(ctx)
	if err != nil {
		return Archiving{}, err
	}
	settings, err := s.Settings(ctx, "archive_mode", "archive_command", "archive_library")
	if err != nil {
		return Archiving{}, err
	}
	mode := settings["archive_mode"]
	if standby && mode != "always" {
		return Archiving{ByPrimary: true}, nil
	}
	if mode == "off" {
		return Archiving{}, fault.NotArchiving.Errorf("postgres: archive_mode is off, so the backup would lack its WAL: " +
			"set archive_mode = on and archive_command, and restart the server")
	}
	a := Archiving{Command: settings["archive_command"], Library: settings["archive_library"]}
	if a.Command == "" && a.Library == "" {
		return Archiving{}, fault.NotArchiving.Errorf("postgres: archive_command is empty, so the backup would lack its WAL: set it and reload the server")
	}
	status, err := s.ArchiverStatus(ctx)
	if err != nil {
		return Archiving{}, err
	}
	if status.Failing() {
		return Archiving{}, fault.NotArchiving.Errorf("postgres: archiving fails, so the backup would lack its WAL: %s: see the server's log", status)
	}
	return a, nil
}

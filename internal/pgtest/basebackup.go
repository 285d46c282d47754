package pgtest

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// BaseBackupFiles takes a base backup through the replication protocol, as
// pg_basebackup does, and returns the sorted names in it, relative to the data
// directory. Folders end in "/". What is in a tablespace is named
// pg_tblspc/<oid>/PG_...; the link pg_tblspc/<oid> itself is not a file of the
// backup, PostgreSQL makes it from tablespace_map.
func (c *Cluster) BaseBackupFiles(t testing.TB) []string {
	t.Helper()
	names, err := c.baseBackup(t.Context())
	if err != nil {
		t.Fatalf("PostgreSQL %d: base backup: %v", c.Major, err)
	}
	slices.Sort(names)
	return names
}

func (c *Cluster) baseBackup(ctx context.Context) ([]string, error) {
	conn, err := pgconn.Connect(ctx, c.DSN()+" replication=true")
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	command := "BASE_BACKUP (LABEL 'pgtest', CHECKPOINT 'fast', WAIT false, TABLESPACE_MAP true)"
	if c.Major < 15 {
		command = "BASE_BACKUP LABEL 'pgtest' FAST NOWAIT TABLESPACE_MAP"
	}
	conn.Frontend().Send(&pgproto3.Query{String: command})
	if err := conn.Frontend().Flush(); err != nil {
		return nil, err
	}
	s := &backupStream{archives: c.Major >= 15}
	for {
		msg, err := conn.ReceiveMessage(ctx)
		if err != nil {
			return nil, err
		}
		if _, ok := msg.(*pgproto3.ReadyForQuery); ok {
			return s.names, nil
		}
		if err := s.receive(msg); err != nil {
			return nil, err
		}
	}
}

// A backupStream collects the names from the answer to BASE_BACKUP: result sets,
// of which the second lists the tablespaces, then tar archives. Up to release 14
// each archive is a copy of its own, in the order of that list; since 15 all are
// in one copy whose messages begin with a type, and a new archive names itself.
type backupStream struct {
	archives bool     // release 15 and later
	sets     int      // result sets begun
	oids     []string // of the tablespaces to come, up to 14; "" is the data directory
	names    []string

	prefix string
	tar    bytes.Buffer // the archive that is being received
}

func (s *backupStream) receive(msg pgproto3.BackendMessage) error {
	switch msg := msg.(type) {
	case *pgproto3.ErrorResponse:
		return errors.New(msg.Message)
	case *pgproto3.RowDescription:
		s.sets++
	case *pgproto3.DataRow:
		if s.sets == 2 {
			s.oids = append(s.oids, string(msg.Values[0]))
		}
	case *pgproto3.CopyOutResponse:
		if !s.archives {
			if len(s.oids) == 0 {
				return errors.New("more archives than tablespaces")
			}
			s.begin(s.oids[0])
			s.oids = s.oids[1:]
		}
	case *pgproto3.CopyData:
		return s.data(msg.Data)
	case *pgproto3.CopyDone:
		return s.end()
	}
	return nil
}

// begin starts the archive of a tablespace.
func (s *backupStream) begin(oid string) {
	s.prefix = ""
	if oid != "" {
		s.prefix = "pg_tblspc/" + oid
	}
}

func (s *backupStream) data(b []byte) error {
	if !s.archives {
		s.tar.Write(b)
		return nil
	}
	if len(b) == 0 {
		return errors.New("empty message in the copy")
	}
	switch b[0] {
	case 'n': // archive name, tablespace location
		if err := s.end(); err != nil {
			return err
		}
		name, _, _ := strings.Cut(string(b[1:]), "\x00")
		oid := strings.TrimSuffix(name, ".tar")
		if oid == "base" {
			oid = ""
		}
		s.begin(oid)
	case 'd':
		s.tar.Write(b[1:])
	}
	return nil
}

// end takes the names from the archive received, if there is one.
func (s *backupStream) end() error {
	for r := tar.NewReader(&s.tar); ; {
		h, err := r.Next()
		if err == io.EOF {
			s.tar.Reset()
			return nil
		}
		if err != nil {
			return fmt.Errorf("archive of %q: %w", s.prefix, err)
		}
		name := path.Join(s.prefix, h.Name)
		switch h.Typeflag {
		case tar.TypeSymlink:
			continue
		case tar.TypeDir:
			name += "/"
		}
		s.names = append(s.names, name)
	}
}

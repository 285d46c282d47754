package drill

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"wal-e/internal/postgres"
)

// What looked at the tables and indexes.
const (
	ByProgram   = "pg_amcheck" // tables and B-tree indexes of all databases
	ByExtension = "amcheck"    // B-tree indexes, each compared with its table; before 14, or without the program
	ByNothing   = "nothing"    // the server's packages have no amcheck
)

// ErrCorrupt is wrapped when tables or indexes are damaged.
var ErrCorrupt = errors.New("the restored cluster is damaged")

// Check reads all tables and B-tree indexes and returns what did it: ByProgram,
// ByExtension or ByNothing.
func (s *Server) Check(ctx context.Context) (by string, err error) {
	rows, err := s.Query(ctx, "postgres", "SELECT count(*) FROM pg_available_extensions WHERE name = 'amcheck'")
	if err != nil {
		return "", err
	}
	if rows[0][0] == "0" {
		return ByNothing, nil
	}
	if program := s.amcheckProgram(); program != "" && s.version >= postgres.V14 {
		cmd := exec.CommandContext(ctx, program, "--all", "--install-missing", "--heapallindexed", "--parent-check",
			"-h", s.private, "-p", "5432", "-U", s.user)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		switch {
		case ctx.Err() != nil:
			return ByProgram, context.Cause(ctx)
		case errors.As(err, &exit):
			return ByProgram, fmt.Errorf("%w: pg_amcheck: %w: %s", ErrCorrupt, err, firstLines(string(out)))
		}
		return ByProgram, err
	}
	return ByExtension, s.checkIndexes(ctx)
}

// amcheckProgram finds pg_amcheck: that of any release from 14 on will do.
func (s *Server) amcheckProgram() string {
	candidates, err := filepath.Glob("/usr/lib/postgresql/*/bin/pg_amcheck")
	if err != nil {
		candidates = nil
	}
	slices.Reverse(candidates)
	candidates = append([]string{s.program("pg_amcheck")}, candidates...)
	if path, err := exec.LookPath("pg_amcheck"); err == nil {
		candidates = append(candidates, path)
	}
	for _, c := range candidates {
		if _, err := os.Stat(c); err == nil {
			return c
		}
	}
	return ""
}

// checkIndexes asks amcheck by SQL. It stops at the first damage, which is an
// error of the query.
func (s *Server) checkIndexes(ctx context.Context) error {
	const check = "CREATE EXTENSION IF NOT EXISTS amcheck; SELECT count(bt_index_parent_check(c.oid%s)) FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid " +
		"JOIN pg_am a ON a.oid = c.relam WHERE a.amname = 'btree' AND c.relkind = 'i' AND c.relpersistence = 'p' AND i.indisready AND i.indisvalid"
	databases, err := s.Query(ctx, "postgres", "SELECT datname FROM pg_database WHERE datallowconn")
	if err != nil {
		return err
	}
	compared := ", true"
	if s.version < postgres.V11 {
		compared = ""
	}
	for _, d := range databases {
		_, err := s.Query(ctx, d[0], fmt.Sprintf(check, compared))
		var damage *pgconn.PgError
		if errors.As(err, &damage) {
			return fmt.Errorf("%w: database %s: %w", ErrCorrupt, d[0], err)
		}
		if err != nil {
			return fmt.Errorf("check database %s: %w", d[0], err)
		}
	}
	return nil
}

// firstLines are the first lines of what a program printed.
func firstLines(s string) string {
	const most = 1000
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strings.TrimSpace(s)
}

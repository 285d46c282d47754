package pgtest

import (
	"context"
	"fmt"
	"strings"
	"testing"
)

// AmCheck fails the test when a table or a B-tree index of any database is
// damaged, or an index doesn't find all rows of its table. It makes the extension
// amcheck in each database; a standby has it from its primary, so check that first.
//
// From release 14 on pg_amcheck does it. Before, there is amcheck for indexes
// only, asked for by SQL: their comparison with the tables reads those too.
func (c *Cluster) AmCheck(t testing.TB) {
	t.Helper()
	if err := c.amCheck(t); err != nil {
		t.Errorf("PostgreSQL %d on %s is damaged: %v", c.Major, c.Dir, err)
	}
}

func (c *Cluster) amCheck(t testing.TB) error {
	standby := c.Query(t, "SELECT pg_is_in_recovery()") == "t"
	if c.Major >= 14 {
		args := []string{"--all", "--heapallindexed", "--jobs=2"}
		if !standby {
			args = append(args, "--install-missing", "--parent-check", "--rootdescend")
		}
		if out, err := c.Command(t, Tool(t, "pg_amcheck"), args...).CombinedOutput(); err != nil {
			return fmt.Errorf("pg_amcheck: %w\n%s", err, out)
		}
		return nil
	}
	for db := range strings.Lines(c.Query(t, "SELECT datname FROM pg_database WHERE datallowconn")) {
		if err := c.checkIndexes(t.Context(), strings.TrimSuffix(db, "\n"), standby); err != nil {
			return fmt.Errorf("database %s: %w", db, err)
		}
	}
	return nil
}

// checkIndexes stops at the first damage, which is an error of the query.
func (c *Cluster) checkIndexes(ctx context.Context, db string, standby bool) error {
	check, install := "bt_index_parent_check(c.oid, true, true)", "CREATE EXTENSION IF NOT EXISTS amcheck; "
	if standby {
		check, install = "bt_index_check(c.oid, true)", ""
	}
	_, err := query(ctx, c.dsn(db), install+
		"SELECT "+check+` FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid JOIN pg_am a ON a.oid = c.relam
		WHERE a.amname = 'btree' AND c.relkind = 'i' AND c.relpersistence <> 't' AND i.indisready AND i.indisvalid`)
	return err
}

// Checksum digests the rows of tables of the database postgres, all user tables
// when none is named: a line "schema.table rows digest" each, in order of name.
// Two clusters of one release that hold the same rows, in any order, have the
// same checksum.
func (c *Cluster) Checksum(t testing.TB, tables ...string) string {
	t.Helper()
	if len(tables) == 0 {
		all := c.Query(t, `SELECT format('%I.%I', n.nspname, c.relname)
			FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			WHERE c.relkind = 'r' AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' ORDER BY 1`)
		tables = strings.FieldsFunc(all, func(r rune) bool { return r == '\n' })
	}
	var b strings.Builder
	for _, table := range tables {
		// A sum of digests needs no order, and no memory for the rows.
		rows := c.Query(t, "SELECT count(*) || ' ' || coalesce(md5(sum(('x' || left(md5(r::text), 16))::bit(64)::bigint)::text), '-') FROM "+table+" r")
		fmt.Fprintf(&b, "%s %s\n", table, rows)
	}
	return b.String()
}

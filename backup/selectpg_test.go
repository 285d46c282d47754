package backup_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"wal-e/backup"
	"wal-e/internal/pgtest"
	"wal-e/internal/postgres"
)

// A difference is one between our files and those of BASE_BACKUP.
type difference struct {
	ours       bool // we have it, else the server has it
	from, last int  // releases; 0 is any
	pattern    string
	why        string
}

func (d difference) in(major int) bool { return d.from <= major && (d.last == 0 || major <= d.last) }

func differences() []difference {
	return []difference{
		{false, 0, 0, `backup_label|tablespace_map`, "the manifest has what the server gave at the end"},
		{false, 0, 0, `backup_label\.old|tablespace_map\.old`, "of an older restore"},
		{false, 0, 0, `(standby|recovery)\.signal|recovery\.(conf|done)|promote`, "would make the copy a standby, or recover to somewhere else"},
		{false, 0, 0, `current_logfiles`, "names files that are left out"},
		{false, 0, 0, `log/.*`, "logs are no part of the cluster"},
		{false, 0, 0, `core\.4711`, "a core dump"},
		{false, 0, 0, `lost\+found/.*`, "belongs to a file system"},
		{false, 0, 0, `\.wal-e.*`, "our own"},
		{false, 0, 0, `\.s\.PGSQL\.5432\.lock`, "names a process"},
		{true, 0, 0, `(base|pg_tblspc/\d+/PG_[^/]+)/pgsql_tmp/`, "stored empty, mode kept; the server makes it when a query spills"},
		{true, 0, 0, `postgresql\.extra\.conf`, "a link to a file: its content is needed, the server leaves it out with a warning"},
		{true, 15, 15, `pg_tblspc/\d+/(PG_15_\d+/.*)?`, "a tablespace in place: 15 can make one but leaves it out of base backups"},
		{true, 16, 0, `pg_tblspc/\d+/`, "the folder of a tablespace in place, mode kept; the server names only what is in it"},
	}
}

// Our list of files is the server's but for differences that have a reason.
func TestWalkAgainstBaseBackup(t *testing.T) {
	t.Parallel()
	for _, major := range pgtest.Versions() {
		t.Run(fmt.Sprint(major), func(t *testing.T) {
			t.Parallel()
			c := pgtest.Start(t, pgtest.Options{Major: major, DataChecksums: true, Conf: map[string]string{
				"autovacuum": "off", "wal_level": "replica", "max_wal_senders": "4", "max_prepared_transactions": "2",
			}})
			populate(t, c)
			session := spill(t, c)
			addStrangers(t, c)
			c.Exec(t, "CHECKPOINT")

			control, _, err := postgres.ReadControlFile(t.Context(), c.Dir)
			check(t, err)
			config := backup.SelectConfig{Dir: c.Dir, Version: postgres.Version(major * 10000), CatalogVersion: control.CatalogVersion}
			server, ours := c.BaseBackupFiles(t), ourFiles(t, config)
			check(t, session.Close(t.Context()))
			compare(t, major, server, ours)
			if want := backup.CheckReadable(t.Context(), config); want != nil {
				t.Error(want)
			}
		})
	}
}

// populate makes tables of all kinds, in tablespaces of all kinds.
func populate(t *testing.T, c *pgtest.Cluster) {
	t.Helper()
	c.AddTablespace(t, "elsewhere")
	spaces := []string{"pg_default", "elsewhere"}
	if c.Major >= 15 {
		c.Exec(t, "ALTER SYSTEM SET allow_in_place_tablespaces = on")
		c.Exec(t, "SELECT pg_reload_conf()")
		c.WaitFor(t, "SHOW allow_in_place_tablespaces", "on")
		c.Exec(t, "CREATE TABLESPACE inplace LOCATION ''")
		spaces = append(spaces, "inplace")
	}
	for _, s := range spaces {
		for _, sql := range []string{
			"CREATE TABLE logged_%[1]s (i int PRIMARY KEY USING INDEX TABLESPACE %[1]s, t text) TABLESPACE %[1]s",
			"INSERT INTO logged_%[1]s SELECT i, repeat('x', 100) FROM generate_series(1, 1000) i",
			"CREATE UNLOGGED TABLE unlogged_%[1]s (i int PRIMARY KEY USING INDEX TABLESPACE %[1]s, t text) TABLESPACE %[1]s",
			"INSERT INTO unlogged_%[1]s SELECT i, repeat('x', 100) FROM generate_series(1, 1000) i",
			"VACUUM logged_%[1]s, unlogged_%[1]s",
		} {
			c.Exec(t, fmt.Sprintf(sql, s))
		}
	}
	c.Exec(t, "SELECT pg_create_physical_replication_slot('standby1', true)")
	c.Exec(t, "BEGIN; INSERT INTO logged_pg_default VALUES (0, 'prepared'); PREPARE TRANSACTION 'one'")
}

// spill opens a session that has temporary tables, and a query that spills.
func spill(t *testing.T, c *pgtest.Cluster) *pgconn.PgConn {
	t.Helper()
	session, err := pgconn.Connect(t.Context(), c.DSN())
	check(t, err)
	_, err = session.Exec(t.Context(), `
		SET temp_tablespaces = 'elsewhere';
		CREATE TEMPORARY TABLE temporary (i int PRIMARY KEY, t text) TABLESPACE pg_default;
		INSERT INTO temporary SELECT i, repeat('x', 100) FROM generate_series(1, 1000) i;
		CREATE TEMPORARY TABLE temporary2 AS SELECT * FROM temporary;
		SET work_mem = '64kB';
		BEGIN;
		DECLARE spilling CURSOR FOR SELECT md5(i::text) FROM generate_series(1, 100000) i ORDER BY 1;
		FETCH 1 FROM spilling;
		SET temp_tablespaces = '';
		DECLARE spilling2 CURSOR FOR SELECT md5(i::text) FROM generate_series(1, 100000) i ORDER BY 1;
		FETCH 1 FROM spilling2`).ReadAll()
	check(t, err)
	return session
}

// addStrangers adds files that a server doesn't have now but may have had.
func addStrangers(t *testing.T, c *pgtest.Cluster) {
	t.Helper()
	for _, name := range []string{
		"backup_label.old", "tablespace_map.old", "standby.signal", "recovery.signal", "recovery.conf", "recovery.done", "promote",
		"current_logfiles", "log/today.log", "core.4711", "lost+found/#1", ".wal-e-fetch", ".wal-e/state", ".s.PGSQL.5432.lock",
		"notes/notes.txt",
	} {
		check(t, os.MkdirAll(filepath.Dir(filepath.Join(c.Dir, name)), 0o755))
		check(t, os.WriteFile(filepath.Join(c.Dir, name), []byte("x"), 0o644))
	}
	extra := filepath.Join(pgtest.TempDir(t), "extra.conf")
	check(t, os.WriteFile(extra, nil, 0o644))
	check(t, os.Symlink(extra, filepath.Join(c.Dir, "postgresql.extra.conf")))
}

// ourFiles returns what Walk yields in the form of BaseBackupFiles.
func ourFiles(t *testing.T, c backup.SelectConfig) []string {
	t.Helper()
	var names []string
	for f, err := range backup.Walk(t.Context(), c) {
		check(t, err)
		switch f.Entry.Type {
		case backup.File:
			names = append(names, f.Entry.Path)
		case backup.Directory:
			names = append(names, f.Entry.Path+"/")
		}
	}
	slices.Sort(names)
	return names
}

// compare fails for each name that one list has without a reason, and for
// reasons that nothing needs.
func compare(t *testing.T, major int, server, ours []string) {
	t.Helper()
	used := make(map[string]bool)
	explain := func(name string, weHave bool) {
		for _, d := range differences() {
			if d.ours == weHave && d.in(major) && regexp.MustCompile("^(?:"+d.pattern+")$").MatchString(name) {
				used[d.pattern] = true
				return
			}
		}
		t.Errorf("%s is in one list only (ours: %v), without a reason", name, weHave)
	}
	for _, name := range server {
		if !slices.Contains(ours, name) {
			explain(name, false)
		}
	}
	for _, name := range ours {
		if !slices.Contains(server, name) {
			explain(name, true)
		}
	}
	for _, d := range differences() {
		if d.in(major) && !used[d.pattern] {
			t.Errorf("the difference %q (%s) isn't there", d.pattern, d.why)
		}
	}
	if len(server) < 500 || !slices.Contains(ours, "global/pg_control") {
		t.Errorf("the lists have %d and %d files", len(server), len(ours))
	}
}

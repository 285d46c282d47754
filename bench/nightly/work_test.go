package nightly_test

import (
	"fmt"
	"testing"

	"wal-e/bench/nightly"
	"wal-e/internal/pgtest"
)

// build makes the tables: those of pgbench, events that are only appended to, keys in
// random order, and a database of documents. Nothing in them depends on chance.
func build(b *testing.B, c *pgtest.Cluster, scale int) {
	b.Helper()
	c.Pgbench(b, "-i", "-q", "-s", fmt.Sprint(scale))
	c.Exec(b, `CREATE TABLE events (id bigserial PRIMARY KEY, at timestamptz NOT NULL, kind int NOT NULL, body text NOT NULL)`)
	c.Exec(b, `CREATE TABLE keys (id uuid PRIMARY KEY, n bigint NOT NULL)`)
	appendEvents(b, c, 0, scale*8000)
	c.Exec(b, fmt.Sprintf(`INSERT INTO keys SELECT md5(g::text)::uuid, g FROM generate_series(1, %d) g`, scale*2000))
	c.Exec(b, `CREATE DATABASE shop`)
	in(b, c, "shop", `CREATE TABLE docs (id bigint PRIMARY KEY, doc jsonb NOT NULL)`)
	in(b, c, "shop", fmt.Sprintf(`INSERT INTO docs SELECT g, jsonb_build_object('name', md5(g::text), 'tags', jsonb_build_array(md5((g+1)::text), md5((g+2)::text), g %% 17), `+
		`'text', repeat(md5((g+3)::text) || ' ', 8)) FROM generate_series(1, %d) g`, scale*3000))
	c.Exec(b, "VACUUM ANALYZE")
}

func appendEvents(b *testing.B, c *pgtest.Cluster, night, n int) {
	b.Helper()
	c.Exec(b, fmt.Sprintf(`INSERT INTO events (at, kind, body) SELECT timestamptz '2026-01-01' + interval '1 day' * %[1]d + interval '1 second' * g, g %% 23, `+
		`md5((g + %[1]d * 1000003)::text) || md5((g * 7)::text) FROM generate_series(1, %[2]d) g`, night, n))
}

// in runs a statement in another database.
func in(b *testing.B, c *pgtest.Cluster, database, sql string) {
	b.Helper()
	cmd := c.Command(b, pgtest.Tool(b, "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", sql)
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%s: %v\n%s", sql, err, out)
	}
}

// A day is what a cluster does between two backups.
type day struct {
	name string
	play func(b *testing.B, c *pgtest.Cluster, scale, night int)
}

// days repeat after the first night. Files to which something was written within the
// minute before a push are read by the next one, too; so before the night with nothing
// to do the bench waits for a minute, as if a day lay between.
func days() []day {
	pgbench := func(b *testing.B, c *pgtest.Cluster, night int, args ...string) {
		b.Helper()
		c.Pgbench(b, append([]string{"-n", "-c", "4", "-j", "2", "--random-seed", fmt.Sprint(night)}, args...)...)
	}
	each := func(scale, perScale int) string { return fmt.Sprint(max(scale*perScale/4, 1)) }
	return []day{
		{nightly.Random, func(b *testing.B, c *pgtest.Cluster, scale, night int) {
			pgbench(b, c, night, "-t", each(scale, 200))
		}},
		{"skewed updates", func(b *testing.B, c *pgtest.Cluster, scale, night int) {
			script := scriptFile(b, fmt.Sprintf("\\set aid random_zipfian(1, %d, 1.2)\n"+
				"UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :aid;\n", scale*100000))
			pgbench(b, c, night, "-t", each(scale, 400), "-f", script)
		}},
		{"appends", func(b *testing.B, c *pgtest.Cluster, scale, night int) {
			appendEvents(b, c, night, scale*1000)
			c.Exec(b, fmt.Sprintf(`INSERT INTO keys SELECT md5((g + %d)::text)::uuid, g FROM generate_series(1, %d) g ON CONFLICT DO NOTHING`, night*1000003, scale*50))
		}},
		{"delete and vacuum", func(b *testing.B, c *pgtest.Cluster, scale, _ int) {
			c.Exec(b, fmt.Sprintf(`DELETE FROM events WHERE id < (SELECT min(id) FROM events) + %d`, scale*800))
			c.Exec(b, `VACUUM events`)
		}},
		{"table rewritten", func(b *testing.B, c *pgtest.Cluster, _, _ int) {
			in(b, c, "shop", `VACUUM FULL docs`)
			c.Exec(b, `CLUSTER events USING events_pkey`)
		}},
		{"database copied", func(b *testing.B, c *pgtest.Cluster, _, _ int) {
			c.Exec(b, `DROP DATABASE IF EXISTS copied`)
			c.Exec(b, `CREATE DATABASE copied TEMPLATE shop`)
		}},
		{"database copied as files", func(b *testing.B, c *pgtest.Cluster, _, _ int) {
			c.Exec(b, `DROP DATABASE IF EXISTS copied`)
			c.Exec(b, `CREATE DATABASE copied TEMPLATE shop STRATEGY file_copy`)
		}},
		{nightly.Nothing, func(*testing.B, *pgtest.Cluster, int, int) {}},
		{"sparse updates", func(b *testing.B, c *pgtest.Cluster, _, night int) {
			c.Exec(b, fmt.Sprintf(`UPDATE pgbench_accounts SET abalance = %d WHERE aid %% 10000 = %d`, night, night))
		}},
	}
}

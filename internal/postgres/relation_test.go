package postgres_test

import (
	"testing"

	"wal-e/internal/postgres"
)

const tablespaceDir = "PG_15_202209061"

func TestParseRelationPath(t *testing.T) {
	rel := func(tablespace, database, node uint32) postgres.Relation {
		return postgres.Relation{Tablespace: tablespace, Database: database, Node: node}
	}
	for _, tt := range []struct {
		path string
		want postgres.RelationFile
	}{
		{"base/16384/16385", postgres.RelationFile{Relation: rel(0, 16384, 16385)}},
		{"base/16384/16385.1", postgres.RelationFile{Relation: rel(0, 16384, 16385), Segment: 1}},
		{"base/16384/16385_fsm", postgres.RelationFile{Relation: rel(0, 16384, 16385), Fork: postgres.FSMFork}},
		{"base/16384/16385_vm.12", postgres.RelationFile{Relation: rel(0, 16384, 16385), Fork: postgres.VMFork, Segment: 12}},
		{"base/16384/16385_init", postgres.RelationFile{Relation: rel(0, 16384, 16385), Fork: postgres.InitFork}},
		{"base/1/4294967295", postgres.RelationFile{Relation: rel(0, 1, 4294967295)}},
		{"base/16384/t3_16385", postgres.RelationFile{Relation: rel(0, 16384, 16385), Temp: true, Backend: 3}},
		{"base/16384/t0_16385_fsm", postgres.RelationFile{Relation: rel(0, 16384, 16385), Temp: true, Fork: postgres.FSMFork}},
		{"base/16384/t12_16385_vm.2", postgres.RelationFile{Relation: rel(0, 16384, 16385), Temp: true, Backend: 12, Fork: postgres.VMFork, Segment: 2}},
		{"global/1262", postgres.RelationFile{Relation: rel(0, 0, 1262)}},
		{"global/1262_vm", postgres.RelationFile{Relation: rel(0, 0, 1262), Fork: postgres.VMFork}},
		{"pg_tblspc/16390/" + tablespaceDir + "/16384/16385.3", postgres.RelationFile{Relation: rel(16390, 16384, 16385), Segment: 3}},
		{"pg_tblspc/16390/" + tablespaceDir + "/16384/t3_16385", postgres.RelationFile{Relation: rel(16390, 16384, 16385), Temp: true, Backend: 3}},
	} {
		got, ok := postgres.ParseRelationPath(tt.path)
		if !ok || got != tt.want {
			t.Errorf("ParseRelationPath(%q) = %+v, %v, want %+v", tt.path, got, ok, tt.want)
		}
		if back := got.Path(tablespaceDir); back != tt.path {
			t.Errorf("Path of %q = %q", tt.path, back)
		}
	}
	for _, path := range []string{
		"", "base", "base/16384", "16385", "base/16384/PG_VERSION", "base/16384/pg_filenode.map", "base/16384/pg_internal.init",
		"base/16384/016385", "base/16384/0", "base/0/16385", "base/x/16385", "base/16384/4294967296", "base/16384/16385.",
		"base/16384/16385.0", "base/16384/16385.01", "base/16384/16385.x", "base/16384/16385_", "base/16384/16385_main",
		"base/16384/16385_fsm_vm", "base/16384/16385.1_fsm", "base/16384/16385.1.2", "base/16384/-1", "base/16384/+1",
		"base/16384/t_16385", "base/16384/t3", "base/16384/t3_", "base/16384/t03_16385", "base/16384/tx_16385", "base/pgsql_tmp/pgsql_tmp1.0",
		"base/16384/sub/16385", "/base/16384/16385", "global/pg_control", "global/1/2", "pg_wal/1",
		"pg_tblspc/16390/16384/16385", "pg_tblspc/16390/x/16384/16385", "pg_tblspc/x/" + tablespaceDir + "/16384/16385", "pg_tblspc/16390/" + tablespaceDir + "/x/16385",
	} {
		if got, ok := postgres.ParseRelationPath(path); ok || got != (postgres.RelationFile{}) {
			t.Errorf("ParseRelationPath(%q) = %+v, %v, want false", path, got, ok)
		}
	}
}

func TestRelationNames(t *testing.T) {
	if got := (postgres.RelationFile{Segment: 3}).FirstBlock(131072); got != 393216 {
		t.Errorf("FirstBlock = %d, want 393216", got)
	}
	if got := postgres.TablespaceDir(150018, 202209061); got != tablespaceDir {
		t.Errorf("TablespaceDir = %q, want %q", got, tablespaceDir)
	}
	if got, want := postgres.TablespaceDir(90624, 201608131), "PG_9.6_201608131"; got != want {
		t.Errorf("TablespaceDir = %q, want %q", got, want)
	}
	for name, want := range map[string][2]bool{
		"pgsql_tmp": {true, false}, "pgsql_tmp1234.0": {true, false}, "pgsql": {false, false},
		"pg_internal.init": {false, true}, "pg_internal.init.1234": {false, true}, "pg_internal.initial": {false, false},
	} {
		if got := [2]bool{postgres.IsTempFile(name), postgres.IsRelationCacheFile(name)}; got != want {
			t.Errorf("IsTempFile, IsRelationCacheFile(%q) = %v, want %v", name, got, want)
		}
	}
}

func FuzzParseRelationPath(f *testing.F) {
	for _, path := range []string{"base/16384/16385_vm.12", "base/16384/t12_16385_vm.2", "global/1262", "pg_tblspc/16390/PG_15_202209061/16384/16385.3"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		r, ok := postgres.ParseRelationPath(path)
		if !ok {
			return
		}
		back, ok := postgres.ParseRelationPath(r.Path(tablespaceDir))
		if !ok || back != r {
			t.Errorf("ParseRelationPath(%q) = %+v, %v, want %+v", r.Path(tablespaceDir), back, ok, r)
		}
	})
}

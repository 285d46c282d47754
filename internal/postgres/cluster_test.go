package postgres_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wal-e/internal/pgtest"
	"wal-e/internal/postgres"
)

// What the parsers say of a real cluster's files, against what its server says.
func TestClusterFiles(t *testing.T) {
	forEachVersion(t, pgtest.Options{DataChecksums: true, SegmentSizeMB: 1, Conf: map[string]string{"wal_keep_size": "64MB"}}, func(t *testing.T, c *pgtest.Cluster) {
		c.AddTablespace(t, "aside")
		c.Exec(t, `
			CREATE TABLE rows AS SELECT g, repeat('x', 500) AS filler FROM generate_series(1, 20000) g;
			CREATE INDEX ON rows (g);
			CREATE UNLOGGED TABLE careless TABLESPACE aside AS SELECT g FROM generate_series(1, 10000) g`)
		c.Exec(t, "VACUUM rows")
		c.Exec(t, "CHECKPOINT")
		v := checkControlFile(t, c)
		if version, err := postgres.ReadVersion(c.Dir); err != nil || version != v {
			t.Errorf("ReadVersion = %v, %v, want %v", version, err, v)
		}
		checkWAL(t, c, v)
		checkRelationNames(t, c)
		c.Stop(t, pgtest.Fast)
		checkCheckpointRecord(t, c)
		checkPages(t, c)
	})
}

func checkControlFile(t *testing.T, c *pgtest.Cluster) postgres.Version {
	t.Helper()
	control, _, err := postgres.ReadControlFile(t.Context(), c.Dir)
	if err != nil {
		t.Fatal(err)
	}
	var want controlFunctions
	answer := c.Query(t, `SELECT row_to_json(x) FROM (SELECT * FROM pg_control_system(), pg_control_checkpoint(), pg_control_init(), pg_control_recovery()) x`)
	if err := json.Unmarshal([]byte(answer), &want); err != nil {
		t.Fatal(err)
	}
	got := controlFunctionsOf(control)
	for _, at := range []*time.Time{&got.Modified, &got.CheckpointTime, &want.Modified, &want.CheckpointTime} {
		*at = at.UTC()
	}
	if got != want || control.State != postgres.InProduction {
		t.Errorf("ReadControlFile = %+v\nthe server says   %+v", got, want)
	}
	return postgres.Version(c.Major * 10000)
}

func checkWAL(t *testing.T, c *pgtest.Cluster, v postgres.Version) {
	t.Helper()
	control, _, err := postgres.ReadControlFile(t.Context(), c.Dir)
	if err != nil {
		t.Fatal(err)
	}
	names, err := os.ReadDir(filepath.Join(c.Dir, "pg_wal"))
	if err != nil {
		t.Fatal(err)
	}
	current, err := postgres.ParseLSN(c.Query(t, "SELECT pg_current_wal_lsn()"))
	if err != nil {
		t.Fatal(err)
	}
	var checked int
	for _, entry := range names {
		seg, err := postgres.ParseSegment(entry.Name(), mb)
		if err != nil || seg.Start(mb) >= current { // recycled ones still hold old WAL
			continue
		}
		b, err := os.ReadFile(filepath.Join(c.Dir, "pg_wal", entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		h, err := postgres.ParseWALHeader(b)
		if err != nil {
			t.Fatalf("%s: %v", entry.Name(), err)
		}
		if h.SystemID != control.SystemID || h.SegmentSize != control.WALSegmentSize || h.WALBlockSize != control.WALBlockSize || h.Version() != v {
			t.Errorf("header of %s = %+v of %s, want that of %+v", entry.Name(), h, h.Version(), control)
		}
		if got, err := h.CheckName(entry.Name()); err != nil || got != seg {
			t.Errorf("CheckName(%s) = %v, %v, want %v", entry.Name(), got, err, seg)
		}
		checked++
	}
	if checked < 2 {
		t.Errorf("only %d segments of %d files in pg_wal were checked", checked, len(names))
	}
}

// checkRelationNames asks the server for the paths of its relations.
func checkRelationNames(t *testing.T, c *pgtest.Cluster) {
	t.Helper()
	for path := range strings.FieldsSeq(c.Query(t, "SELECT pg_relation_filepath(oid) FROM pg_class WHERE pg_relation_filepath(oid) IS NOT NULL")) {
		f, ok := postgres.ParseRelationPath(path)
		if !ok || f.Fork != postgres.MainFork || f.Temp || f.Segment != 0 {
			t.Errorf("ParseRelationPath(%q) = %+v, %v, want a main fork", path, f, ok)
		}
	}
	path := c.Query(t, "SELECT pg_relation_filepath('careless')")
	f, _ := postgres.ParseRelationPath(path)
	f.Fork = postgres.InitFork
	control, _, err := postgres.ReadControlFile(t.Context(), c.Dir)
	if err != nil {
		t.Fatal(err)
	}
	init := f.Path(postgres.TablespaceDir(postgres.Version(c.Major*10000), control.CatalogVersion))
	if init != path+"_init" {
		t.Errorf("the init fork of %s is %s", path, init)
	}
	if _, err := os.Stat(filepath.Join(c.Dir, init)); err != nil {
		t.Error(err)
	}
}

// checkCheckpointRecord compares where RecoveryWAL ends with the length that the
// shutdown checkpoint's record has.
func checkCheckpointRecord(t *testing.T, c *pgtest.Cluster) {
	t.Helper()
	control, _, err := postgres.ReadControlFile(t.Context(), c.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if control.State != postgres.ShutDown || control.Checkpoint.Redo != control.Checkpoint.LSN {
		t.Fatalf("after the stop, pg_control says %s, checkpoint at %s, REDO at %s", control.State, control.Checkpoint.LSN, control.Checkpoint.Redo)
	}
	at := control.Checkpoint.LSN
	b, err := os.ReadFile(filepath.Join(c.Dir, "pg_wal", postgres.SegmentAt(1, at, mb).Name(mb)))
	if err != nil {
		t.Fatal(err)
	}
	offset := control.WALSegmentSize.Offset(at)
	if length := binary.LittleEndian.Uint32(b[offset:]); length != 114 { // xl_tot_len
		t.Errorf("the checkpoint's record has %d bytes, want 114", length)
	}
	_, end := control.RecoveryWAL()
	if page := control.WALBlockSize; offset/page == (offset+120)/page && end != at+120 {
		t.Errorf("RecoveryWAL ends at %s, want %s", end, at+120)
	}
}

// checkPages verifies every page of the stopped cluster, and that damage is found.
func checkPages(t *testing.T, c *pgtest.Cluster) {
	t.Helper()
	const blockSize = 8192
	pages := map[postgres.Fork]int{}
	err := fs.WalkDir(os.DirFS(c.Dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		f, ok := postgres.ParseRelationPath(path)
		if !ok || d.IsDir() {
			return nil
		}
		b, err := os.ReadFile(filepath.Join(c.Dir, path))
		if err != nil {
			return err
		}
		for i := range len(b) / blockSize {
			page, blkno := b[i*blockSize:(i+1)*blockSize], f.FirstBlock(131072)+uint32(i)
			if ok, got, want := postgres.VerifyPage(page, blkno, postgres.MaxLSN); !ok {
				t.Errorf("%s, block %d: checksum %04X, want %04X", path, blkno, got, want)
			}
			if pages[f.Fork]%97 == 0 && !bytes.Equal(page, make([]byte, blockSize)) {
				page[i%blockSize] ^= 0x10
				if ok, _, _ := postgres.VerifyPage(page, blkno, postgres.MaxLSN); ok {
					t.Errorf("%s, block %d: a changed bit went unnoticed", path, blkno)
				}
			}
			pages[f.Fork]++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if pages[postgres.MainFork] < 3000 || pages[postgres.FSMFork] == 0 || pages[postgres.VMFork] == 0 {
		t.Errorf("verified %v pages", pages)
	}
}

package main_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"wal-e/internal/pgtest"
)

// Status says how an archive is, and what is wrong with it.
func TestStatus(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	c := a.start(t, pgtest.Options{Major: 15})
	a.sh(t, "mkdir -p "+a.prefix)
	a.fails(t, c, 1, []string{"PROBLEM there is no base backup", "wal-e backup-push"}, "--terse", "status")
	first := a.push(t, c)
	c.Exec(t, "CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) i")
	gap := c.SwitchWAL(t)
	p := a.push(t, c)
	last := c.SwitchWAL(t)
	c.WaitArchived(t, last)
	a.fails(t, c, 0, []string{
		"last backup     " + p.Name + ", ", "backups         2; the last stored ", "newest WAL      " + last, "restores        any moment from ",
		" times the packs\n", "last drill        none", "last verify       none of all backups", "0 WAL files to be archived", "no problems\n",
	}, "--terse", "status", c.Dir)

	a.fails(t, c, 0, []string{"growth            ", "retain 2          " + first.Name + " expires with the next backup\n"}, "--terse", "status", "--retain", "2")
	a.fails(t, c, 0, []string{"nothing expires before there are newer backups"}, "--terse", "status", "--retain", "3")
	a.fails(t, c, 0, []string{"1 backup could go now: `wal-e delete --confirm retain 1`"}, "--terse", "status", "--retain", "1")
	a.fails(t, c, 0, []string{"retain 14d        " + first.Name + " expires at 2"}, "--terse", "status", "--retain", "14d")
	a.fails(t, c, 2, []string{"--retain: "}, "--terse", "status", "--retain", "x")

	// An open push, a drill that failed, a gap, an old backup, files that wait.
	writeText := func(path, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	outcomes, err := filepath.Glob(filepath.Join(a.prefix, "basebackups_006", p.Name, "*.outcome"))
	if err != nil || len(outcomes) != 1 {
		t.Fatalf("outcomes %v, %v", outcomes, err)
	}
	a.sh(t, "rm "+outcomes[0]+" "+filepath.Join(a.prefix, "wal_006", "*", gap))
	a.sh(t, "touch -d '3 days ago' "+strings.TrimSuffix(outcomes[0], "outcome")+"intent")
	a.fails(t, nil, 1, []string{"FAILED"}, "drill", "--scratch", pgtest.TempDir(t), "--pg-bindir", pgtest.Require(t, 15).Bin, "--no-amcheck", "--query", "SELECT 1 WHERE false")
	for _, name := range []string{"A", "B"} {
		writeText(filepath.Join(a.prefix, "data", "pg_wal", "archive_status", "00000001000000000000000"+name+".ready"), "")
	}
	a.must(t, nil, "verify", "LATEST", "--read-data=100%")
	a.fails(t, nil, 1, []string{"data verified     each of 1 pack was read since ", "last verify       none of all backups is recorded: "}, "status")
	prom := filepath.Join(pgtest.TempDir(t), "wal-e.prom")
	r := a.run(t, c, "--terse", "status", "--metrics-file", prom, "--json", "--max-backup-age", "1ms", "--max-backlog", "1", filepath.Join(a.prefix, "data"))
	var report struct {
		OK       bool
		Problems []struct{ Problem, Todo string }
		Open     []struct{ Stalled bool } `json:"open_pushes"`
		Waiting  int                      `json:"wal_waiting"`
		Clusters []struct {
			Missing int `json:"missing_segments"`
		}
	}
	if err := json.Unmarshal([]byte(r.stdout), &report); err != nil || r.code != 1 || report.OK || report.Waiting != 2 || len(report.Open) != 1 || !report.Open[0].Stalled || report.Clusters[0].Missing != 1 {
		t.Errorf("status %d, %v: %s", r.code, err, r.stdout)
	}
	for _, want := range []string{"the last backup, ", "1 segment is missing: " + gap, "the push of " + p.Name, "the last drill", "2 WAL files wait"} {
		found := false
		for _, p := range report.Problems {
			found = found || strings.Contains(p.Problem, want) && p.Todo != ""
		}
		if !found {
			t.Errorf("no problem says %q: %s", want, r.stdout)
		}
	}
	for _, want := range []string{"\nwal_e_up 1\n", "\nwal_e_wal_waiting_files 2\n", "\nwal_e_drill_ok 0\n", "\nwal_e_pushes_stalled 1\n"} {
		if text := readText(t, prom); !strings.Contains(text, want) {
			t.Errorf("the metrics lack %q:\n%s", want, text)
		}
	}
	// What can't be found out is said, too, also when it is the settings.
	a.fails(t, c, 1, []string{"WALE-"}, "--terse", "--file-prefix", "file://localhost"+a.prefix, "status", "--metrics-file", prom, "/no/such/folder")
	if text := readText(t, prom); !strings.Contains(text, "\nwal_e_up 0\n") || !strings.Contains(text, `wal_e_status_error{code="WALE-1004"} 1`) {
		t.Errorf("metrics of a run that failed:\n%s", text)
	}
	a.fails(t, c, 1, []string{"metrics are not written", "--metrics-file"}, "--terse", "status", "--metrics-file", "/no/such/folder/wal-e.prom")
}

// Status tells when all backups were verified last and what that found, warns when
// it is long ago, and a report shows it.
func TestStatusVerified(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	c := a.start(t, pgtest.Options{Major: 15})
	p := a.push(t, c)
	a.fails(t, c, 0, []string{"warning no verification of all backups is recorded, and the first of them is of ", "no problems\n"}, "--terse", "status", "--max-verify-age", "1ns")
	a.must(t, c, "verify", "--all", "--wal")
	a.fails(t, c, 0, []string{"last verify       no problems, ", " (less than a minute ago): 1 backup, 0 of ", "data verified     none yet"}, "--terse", "status")
	a.fails(t, c, 0, []string{"warning the last verification of all backups is less than a minute old\n  Run `wal-e verify --all", `no problems`}, "--terse", "status", "--max-verify-age", "1ns")
	page := filepath.Join(pgtest.TempDir(t), "report.html")
	a.must(t, c, "report", "-o", page)
	if text := readText(t, page); !strings.Contains(text, "Verification") || !strings.Contains(text, `<span class="green">no problems</span>`) {
		t.Errorf("the report doesn't tell of the verification:\n%s", text)
	}

	packs, err := filepath.Glob(filepath.Join(a.prefix, "chunks_006", "packs", p.Run, "*"))
	if err != nil || len(packs) == 0 {
		t.Fatalf("packs %v, %v", packs, err)
	}
	lost := filepath.Join(pgtest.TempDir(t), "pack")
	a.sh(t, "mv "+packs[0]+" "+lost)
	a.fails(t, c, 1, []string{"PROBLEM"}, "verify", "--all")
	a.sh(t, "mv "+lost+" "+packs[0])
	prom := filepath.Join(pgtest.TempDir(t), "wal-e.prom")
	a.fails(t, c, 1, []string{"last verify       1 PROBLEM, ", "PROBLEM the last verification, at ", "found 1 problem, the first: chunks_006/packs/", "WALE-1204"}, "--terse", "status", "--metrics-file", prom)
	if text := readText(t, prom); !strings.Contains(text, "\nwal_e_verify_problems 1\n") {
		t.Errorf("the metrics don't tell of the problem:\n%s", text)
	}
	a.must(t, c, "report", "-o", page)
	if text := readText(t, page); !strings.Contains(text, `<span class="red">1 problem</span>`) {
		t.Errorf("the report doesn't tell of the problem:\n%s", text)
	}
	a.must(t, c, "verify", "--all", "--read-data")
	a.fails(t, c, 0, []string{"data verified     each of ", "last verify       no problems, ", "no problems\n"}, "--terse", "status")
}

func readText(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

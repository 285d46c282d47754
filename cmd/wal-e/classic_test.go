package main_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"wal-e/internal/pgtest"
)

// fixtures are archives that classic WAL-E 1.1.1 wrote; their README says how.
const fixtures = "../../compat/testdata/classic"

// classicArchive returns an archive with a copy of a fixture's prefix, with the times
// that its objects had.
func classicFixture(t *testing.T, prefix string) *archive {
	t.Helper()
	a := newArchive(t)
	pgtest.CopyDir(t, filepath.Join(fixtures, prefix), a.prefix)
	manifest, err := os.ReadFile(filepath.Join(fixtures, "MANIFEST.tsv"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(manifest)) {
		f := strings.Split(strings.TrimSpace(line), "\t")
		name, ok := strings.CutPrefix(f[3], prefix+"/")
		if !ok {
			continue
		}
		seconds, err := strconv.ParseFloat(f[2], 64)
		if err != nil {
			t.Fatal(err)
		}
		at := time.UnixMicro(int64(seconds * 1e6))
		if err := os.Chtimes(filepath.Join(a.prefix, name), at, at); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

// A classicRestore is a case of expected/restores.json: what the original restored
// from these files.
type classicRestore struct {
	Case, Prefix, Backup, SQL, GPG string
	Timeline                       string            `json:"recovery_target_timeline"`
	Target                         string            `json:"recovery_target"`
	Resolves                       string            `json:"resolves_to"`
	Rows                           []string          `json:"rows"`
	Tablespaces                    map[string]string `json:"tablespaces"`
}

func classicRestores(t *testing.T) []classicRestore {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(fixtures, "expected/restores.json"))
	if err != nil {
		t.Fatal(err)
	}
	var cases []classicRestore
	if err := json.Unmarshal(b, &cases); err != nil || len(cases) != 8 {
		t.Fatalf("%d cases, %v", len(cases), err)
	}
	return cases
}

// importKey gives the archive's commands a key ring with the fixtures' secret key.
func (a *archive) importKey(t *testing.T, file string) {
	t.Helper()
	home := filepath.Join(pgtest.TempDir(t), "gpg")
	a.sh(t, "mkdir -m 700 "+home)
	a.env = append(a.env, "GNUPGHOME="+home)
	key, err := os.ReadFile(filepath.Join(fixtures, file))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := exec.LookPath("gpg"); err != nil {
		t.Fatalf("%v; run: .ci/install-engines classic", err)
	}
	cmd := pgtest.RunAs(t, exec.CommandContext(t.Context(), "gpg", "--batch", "--import"))
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=/tmp"}, a.env...)
	cmd.Stdin = strings.NewReader(string(key))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("gpg: %v\n%s", err, out)
	}
	t.Cleanup(func() {
		kill := pgtest.RunAs(t, exec.Command("gpgconf", "--kill", "gpg-agent"))
		kill.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=/tmp"}, a.env...)
		_ = kill.Run() // an agent may not have started
	})
}

// sh runs a shell command as the user that servers run as.
func (a *archive) sh(t *testing.T, script string) {
	t.Helper()
	cmd := pgtest.RunAs(t, exec.CommandContext(t.Context(), "/bin/sh", "-ec", script))
	cmd.Dir = "/"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

// configure writes the files that a classic backup doesn't have.
func (a *archive) configure(t *testing.T, dir string) {
	t.Helper()
	a.sh(t, fmt.Sprintf("cd %s; : >postgresql.conf; : >pg_ident.conf; : >recovery.signal; printf 'local all all trust\\nhost all all 127.0.0.1/32 trust\\n' >pg_hba.conf", dir))
}

// recovered starts a server on a restored directory, as the original's users do,
// and waits until it has recovered.
func (a *archive) recovered(t *testing.T, dir string, tc classicRestore) *pgtest.Cluster {
	t.Helper()
	conf := map[string]string{
		"restore_command":        a.bin + " --terse wal-fetch %f %p",
		"recovery_target_action": "promote",
		"archive_mode":           "off", // the original's archive_command is in postgresql.auto.conf
	}
	if tc.Timeline != "" {
		conf["recovery_target_timeline"] = tc.Timeline
	}
	if tc.Target != "" {
		conf["recovery_target"] = tc.Target
	}
	c := pgtest.Adopt(t, dir, pgtest.Options{Env: a.env, Conf: conf})
	c.WaitRecovered(t)
	return c
}

func checkRows(t *testing.T, c *pgtest.Cluster, tc classicRestore) {
	t.Helper()
	sql, err := os.ReadFile(filepath.Join(fixtures, tc.SQL))
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for statement := range strings.Lines(string(sql)) {
		rows = append(rows, c.Query(t, strings.TrimSuffix(strings.TrimSpace(statement), ";")))
	}
	if !slices.Equal(rows, tc.Rows) {
		t.Errorf("rows %q, want %q", rows, tc.Rows)
	}
}

// originalSpace makes the directory in which the fixtures' WAL creates a
// tablespace. Only one test at a time has it.
func originalSpace(t *testing.T) {
	t.Helper()
	const dir = "/srv/classic/pg13"
	lock, err := os.Open(dir)
	if err == nil {
		err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		t.Fatalf("%v; run: .ci/install-engines classic", err)
	}
	remove := func() error { return os.RemoveAll(filepath.Join(dir, "ts_orders")) }
	if err := remove(); err != nil {
		t.Fatal(err)
	}
	(&archive{}).sh(t, "mkdir -m 700 "+filepath.Join(dir, "ts_orders"))
	t.Cleanup(func() {
		if err := errors.Join(remove(), lock.Close()); err != nil {
			t.Error(err)
		}
	})
}

// Everything that the original restored from its archives we restore, to the
// same rows.
func TestClassicRestores(t *testing.T) {
	t.Parallel()
	for _, tc := range classicRestores(t) {
		t.Run(tc.Case, func(t *testing.T) {
			t.Parallel()
			a := classicFixture(t, tc.Prefix)
			if tc.GPG != "" {
				a.importKey(t, tc.GPG)
			}
			if strings.HasPrefix(tc.Case, "plain-b1-") && tc.Target == "" {
				originalSpace(t)
			}
			dir := target(t)
			args := []string{"backup-fetch", "--json"}
			spaces := make(map[string]string)
			for oid := range tc.Tablespaces {
				spaces[oid] = target(t)
				args = append(args, "--tablespace-map", oid+"="+spaces[oid])
			}
			r := a.must(t, nil, append(args, dir, tc.Backup)...)
			var report struct {
				Backup string
				Done   bool
			}
			if err := json.Unmarshal([]byte(r.stdout), &report); err != nil || !report.Done {
				t.Errorf("report %s, %v", r.stdout, err)
			}
			if want := tc.Resolves; want != "" && report.Backup != want {
				t.Errorf("%s is %s, want %s", tc.Backup, report.Backup, want)
			}
			a.configure(t, dir)
			c := a.recovered(t, dir, tc)
			checkRows(t, c, tc)
			for oid, want := range spaces {
				if got := c.Query(t, "SELECT pg_tablespace_location("+oid+")"); got != want {
					t.Errorf("tablespace %s is in %s, want %s", oid, got, want)
				}
			}
			a.must(t, nil, "verify", "--all", "--read-data", "--wal")
		})
	}
}

package backup

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"wal-e/internal/pgtest"
)

// checkBaseManifest lets pg_verifybackup look at a directory.
func checkBaseManifest(t *testing.T, dir string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), pgtest.Tool(t, "pg_verifybackup"), "-n", dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("pg_verifybackup -n: %v\n%s", err, out)
	}
}

func TestBaseManifest(t *testing.T) {
	t.Parallel()
	a, c, to := newArchive(t), newCluster(), newTarget(t)
	c.files["base/5/\"quoted\" \\ and\nbroken"] = []byte("x")
	c.files["base/5/caf\xe9"] = []byte("x") // Latin-1
	cfg := a.config(a.push(t, c), to)
	cfg.Recover = &RecoverConfig{RestoreCommand: "cp %f %p"}
	mustFetch(t, cfg)
	c.files["postgresql.auto.conf"] = []byte(read(t, to.dir, "postgresql.auto.conf"))
	c.check(t, to)
	checkBaseManifest(t, to.dir)

	// Any change is found.
	write(t, filepath.Join(to.dir, "base/5/112"), strings.Repeat("x", 8192))
	cmd := exec.CommandContext(t.Context(), pgtest.Tool(t, "pg_verifybackup"), "-n", to.dir)
	if out, err := cmd.CombinedOutput(); err == nil || !bytes.Contains(out, []byte("base/5/112")) {
		t.Errorf("pg_verifybackup of a changed file: %v\n%s", err, out)
	}
}

// Before 13 there is none, from 17 on it names the system.
func TestBaseManifestVersions(t *testing.T) {
	t.Parallel()
	for version, want := range map[int]int{90624: 0, 120004: 0, 130002: 1, 160001: 1, 170001: 2, 180000: 2} {
		a, c, to := newArchive(t), newCluster().withoutSpaces(), newTarget(t)
		c.change = func(m *Manifest) { m.ServerVersion = version }
		if version < 100000 {
			delete(c.dirs, "pg_wal")
			delete(c.dirs, "pg_wal/archive_status")
			c.dirs["pg_xlog"] = 0o700
		}
		b := a.push(t, c)
		mustFetch(t, a.config(b, to))
		data, err := os.ReadFile(filepath.Join(to.dir, "backup_manifest"))
		if want == 0 {
			if !os.IsNotExist(err) {
				t.Errorf("version %d has a backup_manifest (%v)", version, err)
			}
			continue
		}
		var m struct {
			Version int         `json:"PostgreSQL-Backup-Manifest-Version"`
			System  json.Number `json:"System-Identifier"`
			Files   []map[string]any
			WAL     []map[string]any `json:"WAL-Ranges"`
			Sum     string           `json:"Manifest-Checksum"`
		}
		if err := json.Unmarshal(data, &m); err != nil {
			t.Fatalf("version %d: %v", version, err)
		}
		if m.Version != want || (want == 2) != (m.System.String() == b.Manifest.System) {
			t.Errorf("version %d: manifest of version %d, system %q", version, m.Version, m.System)
		}
		last := bytes.LastIndexByte(data[:len(data)-1], '\n') + 1
		if sum := sha256.Sum256(data[:last]); m.Sum != hex.EncodeToString(sum[:]) {
			t.Errorf("version %d: checksum %s", version, m.Sum)
		}
		// All but postgresql.auto.conf, and pg_control and backup_label.
		if len(m.Files) != len(c.files)+1 || len(m.WAL) != 1 || m.WAL[0]["Start-LSN"] != b.Manifest.StartLSN {
			t.Errorf("version %d: %d files, WAL %v", version, len(m.Files), m.WAL)
		}
	}
}

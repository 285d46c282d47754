package main_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"wal-e/internal/pgtest"
)

// A keyPair is files with a public key, with its private one, and with that
// one's passphrase, which the user that PostgreSQL runs as may read.
type keyPair struct{ public, private, passphrase string }

const sesame = "sesame"

// newKeyPair makes a key in a key ring of its own, for which gpg's agent isn't
// asked again.
func newKeyPair(t *testing.T, email string) keyPair {
	t.Helper()
	home, err := os.MkdirTemp("/tmp", "gpg") // the agent's socket needs a short name
	if err != nil {
		t.Fatal(err)
	}
	gpg := func(args ...string) []byte {
		t.Helper()
		cmd := exec.Command("gpg", append([]string{"--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", sesame}, args...)...)
		cmd.Env = append(os.Environ(), "GNUPGHOME="+home)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("gpg %s: %v (it comes with the package gnupg)\n%s", strings.Join(args, " "), err, stderr.Bytes())
		}
		return out
	}
	t.Cleanup(func() {
		cmd := exec.Command("gpgconf", "--kill", "gpg-agent")
		cmd.Env = append(os.Environ(), "GNUPGHOME="+home)
		_ = cmd.Run() // it may never have run
		_ = os.RemoveAll(home)
	})
	gpg("--quick-gen-key", email, "future-default", "default", "never")
	dir := pgtest.TempDir(t)
	k := keyPair{filepath.Join(dir, "public"), filepath.Join(dir, "private"), filepath.Join(dir, "passphrase")}
	for name, data := range map[string][]byte{
		k.public: gpg("--armor", "--export"), k.private: gpg("--export-secret-keys"), k.passphrase: []byte(sesame + "\n"),
	} {
		if err := os.WriteFile(name, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return k
}

// host is the archive as a host has it that knows the public key only.
func (k keyPair) host(a *archive) *archive {
	h := *a
	h.env = append(h.env[:len(h.env):len(h.env)], "WALE_GPG_PUBLIC_KEY_FILE="+k.public, "GNUPGHOME=/nonexistent")
	return &h
}

// owner is the archive as a host has it that knows the private key, and has no
// state.
func (k keyPair) owner(t *testing.T, a *archive) *archive {
	t.Helper()
	o := *a
	o.env = append(o.env[:len(o.env):len(o.env)], "WALE_GPG_PRIVATE_KEY_FILE="+k.private, "WALE_GPG_PASSPHRASE_FILE="+k.passphrase,
		"GNUPGHOME=/nonexistent", "WALE_STATE_DIR="+filepath.Join(pgtest.TempDir(t), "state"))
	return &o
}

// A host with the public key alone pushes, deduplicates, verifies what it can,
// deletes and collects; restoring takes the private key. Nothing that is stored
// shows a table's rows or a file's name.
func TestEncryptedArchive(t *testing.T) {
	t.Parallel()
	k := newKeyPair(t, "dba@example.com")
	plain := newArchive(t)
	host, owner := k.host(plain), k.owner(t, plain)
	c := host.start(t, pgtest.Options{SegmentSizeMB: 1})
	c.Exec(t, "CREATE TABLE t AS SELECT i, 'marker-in-a-table-' || i AS v FROM generate_series(1, 20000) i")
	const secret = "marker_in_a_file_name"
	if err := os.WriteFile(filepath.Join(c.Dir, secret), []byte("marker-in-a-file"), 0o644); err != nil {
		t.Fatal(err)
	}
	first := host.push(t, c)
	second := host.push(t, c)
	if second.New > first.New/10 {
		t.Errorf("the second push stored %d new bytes after %d: it isn't deduplicated", second.New, first.New)
	}
	want := c.Query(t, "SELECT count(*), md5(string_agg(v, ',' ORDER BY i)) FROM t")
	c.WaitArchived(t, c.SwitchWAL(t))

	hidden(t, plain.prefix, "marker-in-a-table", secret, "marker-in-a-file", "pg_filenode.map", "PG_VERSION")
	if r := host.must(t, c, "key", "show"); !strings.Contains(r.stdout, "written by this host, sealed to") {
		t.Errorf("key show printed %q", r.stdout)
	}
	host.must(t, c, "verify", "--all")
	// A host's keys prove lists and tables; of data there are checksums.
	if r := host.must(t, c, "verify", "--all", "--read-data"); !strings.Contains(r.stdout, "data not opened") {
		t.Errorf("verify --read-data without a private key doesn't say so: %s", r.stdout)
	}
	owner.must(t, nil, "verify", "--all", "--read-data", "--wal")
	owner.must(t, nil, "key", "show", "--try")
	host.must(t, c, "wal-show")
	owner.must(t, nil, "wal-verify", "--read-data")
	// A page shows sizes without a key, and with one what they are of.
	for as, want := range map[*archive][2]bool{host: {true, false}, plain: {true, false}, owner: {false, true}} {
		page := filepath.Join(pgtest.TempDir(t), "report.html")
		as.must(t, c, "report", "-o", page)
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		unknown, named := bytes.Contains(text, []byte("What this page doesn't know")), bytes.Contains(text, []byte("postgres: public.t<"))
		if got := [2]bool{unknown, named}; got != want || !bytes.Contains(text, []byte(second.Name+"</code> <span class=\"tag\">encrypted")) {
			t.Errorf("the report tells what it lacks, and names: %v, want %v\n%s", got, want, text)
		}
	}

	dir := target(t)
	host.fails(t, c, 1, []string{"WALE_GPG_PRIVATE_KEY_FILE"}, "backup-fetch", dir, "LATEST")
	if _, err := os.Stat(dir); err == nil {
		t.Error("a fetch without a private key left a folder")
	}
	plain.fails(t, nil, 1, []string{"is encrypted, and no key is named"}, "backup-push", "--while-offline", c.Dir)

	owner.must(t, nil, "backup-fetch", "--recover", dir, "LATEST")
	restored := owner.adopt(t, dir)
	if got := restored.Query(t, "SELECT count(*), md5(string_agg(v, ',' ORDER BY i)) FROM t"); got != want {
		t.Errorf("the restored server says %s, want %s", got, want)
	}
	byHand(t, owner, k, second.Name)

	// A collector has no key of any kind.
	collector := *plain
	collector.env = append(collector.env[:len(collector.env):len(collector.env)], "GNUPGHOME=/nonexistent",
		"WALE_STATE_DIR="+filepath.Join(pgtest.TempDir(t), "state"))
	collector.must(t, nil, "delete", "--confirm", "retain", "1")
	owner.must(t, nil, "verify", "--all", "--read-data")
}

// hidden fails when an object, or its name, holds one of the words.
func hidden(t *testing.T, dir string, words ...string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		for _, w := range words {
			if bytes.Contains(data, []byte(w)) || strings.Contains(path, w) {
				t.Errorf("%s shows %q", path, w)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// byHand restores with the script in docs and compares with what wal-e restores.
func byHand(t *testing.T, owner *archive, k keyPair, name string) {
	t.Helper()
	want := target(t)
	owner.must(t, nil, "backup-fetch", want, name)
	home, err := os.MkdirTemp("/tmp", "gpg")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(home) // a scratch folder
	dir := target(t)
	shell := fmt.Sprintf("gpg --batch --quiet --pinentry-mode loopback --passphrase %s --import %s && "+
		"echo test | gpg --batch --quiet --pinentry-mode loopback --passphrase %s --trust-model always -r dba@example.com -e -o /dev/null && "+
		"PATH=%s:$PATH /usr/bin/python3 ../../docs/restore-encrypted.py %s %s %s; e=$?; gpgconf --kill gpg-agent; exit $e",
		sesame, k.private, sesame, wrapper(t), owner.prefix, name, dir)
	cmd := exec.Command("sh", "-c", shell)
	cmd.Env = append(os.Environ(), "GNUPGHOME="+home)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("docs/restore-encrypted.py: %v (it needs gnupg, zstd and python3-cryptography)\n%s", err, out)
	}
	if out, err := exec.Command("diff", "-r", "--no-dereference", "-x", "backup_manifest", want, dir).CombinedOutput(); err != nil {
		t.Errorf("docs/restore-encrypted.py restored other files than wal-e: %v\n%s", err, out)
	}
}

// wrapper returns a folder with a gpg that knows the passphrase, which an agent
// would ask for.
func wrapper(t *testing.T) string {
	t.Helper()
	real, err := exec.LookPath("gpg")
	if err != nil {
		t.Fatalf("%v: apt-get install gnupg", err)
	}
	dir := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\nexec %s --pinentry-mode loopback --passphrase %s \"$@\"\n", real, sesame)
	if err := os.WriteFile(filepath.Join(dir, "gpg"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// What is lost on a host comes back, and others get what they need.
func TestKeyCommands(t *testing.T) {
	t.Parallel()
	k, other := newKeyPair(t, "dba@example.com"), newKeyPair(t, "other@example.com")
	plain := newArchive(t)
	host, owner := k.host(plain), k.owner(t, plain)
	first := strings.TrimSpace(strings.TrimPrefix(host.must(t, nil, "key", "init").stdout, "epoch "))
	host.fails(t, nil, 1, []string{"has keys already"}, "key", "init")
	exported := host.must(t, nil, "key", "export-host").stdout
	if strings.Contains(exported, "private_key") {
		t.Error("export-host printed a private key")
	}

	// A further host, without and with the keys.
	standby := *host
	standby.env = append(standby.env[:len(standby.env):len(standby.env)], "WALE_STATE_DIR="+filepath.Join(pgtest.TempDir(t), "state"))
	standby.fails(t, nil, 1, []string{"is encrypted, and this host doesn't have its keys", "key export-host", "--new-epoch"}, "key", "init")
	cmd := standby.command(t, nil, "key", "import-host")
	cmd.Stdin = strings.NewReader(exported)
	if r := runCommand(t, cmd); r.code != 0 || !strings.Contains(r.stdout, first) {
		t.Errorf("import-host: exit %d: %s%s", r.code, r.stdout, r.stderr)
	}
	if got := standby.must(t, nil, "key", "export-host").stdout; got != exported {
		t.Error("the keys that were imported aren't those that were exported")
	}

	// Rotation keeps the old epoch; recovery brings back both.
	second := strings.TrimSpace(strings.TrimPrefix(host.must(t, nil, "key", "rotate").stdout, "epoch "))
	owner.fails(t, nil, 1, []string{"has 2 epochs", first, second, "--epoch"}, "key", "recover")
	owner.must(t, nil, "key", "recover", "--epoch", second)
	if got, want := owner.must(t, nil, "key", "export-host").stdout, host.must(t, nil, "key", "export-host").stdout; got != want {
		t.Errorf("recover gives other keys than the host has, or in another order")
	}
	if r := owner.must(t, nil, "key", "export-recovery"); strings.Count(r.stdout, "private_key") != 2 || !strings.Contains(r.stdout, second) {
		t.Errorf("export-recovery printed %d secrets", strings.Count(r.stdout, "private_key"))
	}

	// Who isn't a recipient can't, until it is made one.
	stranger := other.owner(t, plain)
	stranger.fails(t, nil, 1, []string{"no private key"}, "key", "recover", "--epoch", second)
	both := *owner
	both.env = append(both.env[:len(both.env):len(both.env)], "WALE_GPG_PUBLIC_KEY_FILE="+k.public+","+other.public)
	both.must(t, nil, "key", "add-recipient")
	stranger.must(t, nil, "key", "recover", "--epoch", first)
	owner.must(t, nil, "key", "show", "--try")

	// The file is secret.
	path := filepath.Join(filepath.Dir(plain.prefix), "state", "keys")
	files, err := filepath.Glob(filepath.Join(path, "*.json"))
	if err != nil || len(files) != 1 {
		t.Fatalf("keys are in %v, %v", files, err)
	}
	if info, err := os.Stat(files[0]); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%s has mode %v, %v", files[0], info.Mode(), err)
	}
	if err := os.Chmod(files[0], 0o644); err != nil {
		t.Fatal(err)
	}
	host.fails(t, nil, 1, []string{"has mode 0644"}, "key", "export-host")
}

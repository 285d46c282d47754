package main_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"wal-e/internal/pgtest"
)

// A ring is a folder of gpg's, of the user that PostgreSQL runs as, with a key
// that has a passphrase.
type ring struct{ home string }

func newRing(t *testing.T, email string, more ...string) ring {
	t.Helper()
	out, err := pgtest.RunAs(t, exec.Command("mktemp", "-d", "/tmp/gpgXXXXXX")).Output() // the agent's socket needs a short name
	if err != nil {
		t.Fatal(err)
	}
	r := ring{strings.TrimSpace(string(out))}
	t.Cleanup(func() {
		r.lock(t)
		_ = os.RemoveAll(r.home)
	})
	if err := os.WriteFile(filepath.Join(r.home, "gpg-agent.conf"), []byte("allow-preset-passphrase\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	args := []string{"gpg", "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", sesame}
	if len(more) == 0 {
		more = []string{"--quick-gen-key", email, "future-default", "default", "never"}
	}
	r.run(t, append(args, more...)...)
	return r
}

func (r ring) run(t *testing.T, args ...string) []byte {
	t.Helper()
	cmd := pgtest.RunAs(t, exec.Command(args[0], args[1:]...))
	cmd.Env = append(os.Environ(), "HOME="+r.home, "GNUPGHOME="+r.home)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v (it comes with the package gnupg)\n%s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return out
}

// lock ends the agent, which forgets passphrases with that.
func (r ring) lock(t *testing.T) { r.run(t, "gpgconf", "--kill", "gpg-agent") }

// unlock gives the agent the passphrase of all keys.
func (r ring) unlock(t *testing.T) {
	t.Helper()
	r.run(t, "gpgconf", "--launch", "gpg-agent")
	for line := range strings.Lines(string(r.run(t, "gpg", "--batch", "-K", "--with-keygrip", "--with-colons"))) {
		if fields := strings.Split(line, ":"); fields[0] == "grp" {
			r.run(t, "/usr/lib/gnupg/gpg-preset-passphrase", "--preset", "--passphrase", sesame, fields[9])
		}
	}
}

// public writes the public keys into a file.
func (r ring) public(t *testing.T) string {
	t.Helper()
	name := filepath.Join(pgtest.TempDir(t), "public")
	if err := os.WriteFile(name, r.run(t, "gpg", "--export"), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// countGPG is the archive as seen with a gpg that notes each call in a file.
func (a *archive) countGPG(t *testing.T) (seen *archive, calls func() int) {
	t.Helper()
	real, err := exec.LookPath("gpg")
	if err != nil {
		t.Fatalf("%v: apt-get install gnupg", err)
	}
	dir := pgtest.TempDir(t)
	log := filepath.Join(dir, "calls")
	script := fmt.Sprintf("#!/bin/sh\necho \"$@\" >>%s\nexec %s \"$@\"\n", log, real)
	if err := os.WriteFile(filepath.Join(dir, "gpg"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return a.with("PATH=" + dir + ":" + os.Getenv("PATH")), func() int {
		data, _ := os.ReadFile(log) // absent until the first call
		_ = os.Remove(log)
		return bytes.Count(data, []byte("\n"))
	}
}

// A host pushes with a key in a file and no gpg. Where the key is, restores go
// through gpg's agent: one call for a base backup however many runs it draws on,
// one for each segment of WAL. A locked agent, none, or another's key: quick,
// clear, nothing left behind, and never what PostgreSQL takes for the end of WAL.
func TestEncryptedWithAgent(t *testing.T) {
	t.Parallel()
	r := newRing(t, "dba@example.com")
	plain := newArchive(t)
	host := plain.with("WALE_GPG_PUBLIC_KEY_FILE="+r.public(t), "GNUPGHOME=/nonexistent", "PATH=/nonexistent")
	c := host.start(t, pgtest.Options{SegmentSizeMB: 1})
	for i := range 3 {
		c.Exec(t, fmt.Sprintf("CREATE TABLE t%d AS SELECT i FROM generate_series(1, 5000) i", i))
		host.push(t, c)
	}
	held := c.SwitchWAL(t)
	c.WaitArchived(t, held)
	want := c.Query(t, "SELECT count(*) FROM t0, t2 WHERE t0.i = t2.i")

	owner, calls := plain.with("WALE_STATE_DIR="+filepath.Join(pgtest.TempDir(t), "state"), "GNUPGHOME="+r.home).countGPG(t)
	stranger := owner.with("GNUPGHOME="+newRing(t, "other@example.com").home, "WALE_STATE_DIR="+filepath.Join(pgtest.TempDir(t), "state"))
	nobody := owner.with("GNUPGHOME=/nonexistent")
	r.lock(t)

	// What wal-fetch needs of a data directory, as a standby and as none.
	standby := pgtest.TempDir(t)
	if err := os.Mkdir(filepath.Join(standby, "global"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"PG_VERSION": read(t, filepath.Join(c.Dir, "PG_VERSION")), "global/pg_control": read(t, filepath.Join(c.Dir, "global/pg_control")), "standby.signal": "",
	} {
		if err := os.WriteFile(filepath.Join(standby, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	fetches := func(about string, a *archive, name string, code, asStandby int, word string) {
		t.Helper()
		for dir, want := range map[string]int{c.Dir: code, standby: asStandby} {
			dest := filepath.Join(pgtest.TempDir(t), "RECOVERYXLOG")
			cmd := a.command(t, c, "wal-fetch", "--prefetch", "0", name, dest)
			cmd.Dir = dir
			got := runCommand(t, cmd)
			if got.code != want || !strings.Contains(got.stderr, word) {
				t.Errorf("%s: wal-fetch %s in %s: exit %d, want %d and %q\n%s", about, name, filepath.Base(dir), got.code, want, word, got.stderr)
			}
			files, err := os.ReadDir(filepath.Dir(dest))
			if err != nil || len(files) > 1 || (len(files) == 1) != (want == 0) {
				t.Errorf("%s: wal-fetch with exit %d left %v, %v", about, got.code, files, err)
			}
		}
	}
	for _, x := range []struct {
		about, word string
		a           *archive
	}{
		{"locked agent", "is locked", owner},
		{"another's key", "whose key ring has it", stranger},
		{"no key", "set GNUPGHOME", nobody},
		{"no gpg", "WALE_GPG_PRIVATE_KEY_FILE", owner.with("PATH=/nonexistent")},
		{"no such file", "/nonexistent/key", owner.with("WALE_GPG_PRIVATE_KEY_FILE=/nonexistent/key")},
	} {
		fetches(x.about, x.a, held, 126, 75, x.word)
		fetches(x.about, x.a, "0000000100000000000000EE", 1, 1, "")
		dir := target(t)
		x.a.fails(t, nil, 1, []string{x.word}, "backup-fetch", dir, "LATEST")
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s: a fetch left a folder", x.about)
		}
	}

	// A timeline's history takes no private key on hosts of the epoch, so that
	// monitoring and standbys go on after a failover.
	history := filepath.Join(pgtest.TempDir(t), "00000002.history")
	if err := os.WriteFile(history, []byte("1\t0/300000\tno recovery target specified\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := host.command(t, c, "wal-push", history)
	cmd.Dir = c.Dir
	if r := runCommand(t, cmd); r.code != 0 {
		t.Fatalf("wal-push of a history: exit %d\n%s", r.code, r.stderr)
	}
	fetches("database host", host, filepath.Base(history), 0, 0, "")
	if r := host.must(t, c, "wal-show"); !strings.Contains(r.stdout, "1 at 0/300000") {
		t.Errorf("wal-show on the database host printed:\n%s", r.stdout)
	}
	host.must(t, c, "wal-verify")
	fetches("no keys", nobody, filepath.Base(history), 126, 75, "set GNUPGHOME")

	r.unlock(t)
	calls()
	fetches("unlocked agent", owner, held, 0, 0, "")
	if n := calls(); n != 2 {
		t.Errorf("two fetches of a segment called gpg %d times", n)
	}
	dir := target(t)
	owner.must(t, nil, "backup-fetch", dir, "LATEST")
	if n := calls(); n != 1 {
		t.Errorf("a restore called gpg %d times, want once", n)
	}
	owner.must(t, nil, "verify", "--all", "--read-data")
	if n := calls(); n != 1 {
		t.Errorf("verify --all of one epoch called gpg %d times, want once", n)
	}
	owner.must(t, nil, "verify", "--all", "--read-data", "--wal")
	owner.must(t, nil, "wal-verify", "--read-data")
	owner.must(t, nil, "backup-fetch", "--with-wal", target(t), "LATEST")
	if n := calls(); n != 3 {
		t.Errorf("three commands that read many segments called gpg %d times, want once each", n)
	}
	dir = target(t)
	owner.must(t, nil, "backup-fetch", "--recover", dir, "LATEST")
	if conf := read(t, filepath.Join(dir, "postgresql.auto.conf")); !strings.Contains(conf, "GNUPGHOME="+r.home) {
		t.Errorf("restore_command doesn't say where gpg's keys are:\n%s", conf)
	}
	restored := owner.adopt(t, dir)
	if got := restored.Query(t, "SELECT count(*) FROM t0, t2 WHERE t0.i = t2.i"); got != want {
		t.Errorf("the restored server says %s, want %s", got, want)
	}
	if r := owner.must(t, nil, "check"); !strings.Contains(r.stdout, "a trial decryption succeeded here") {
		t.Errorf("check where the private key is printed:\n%s", r.stdout)
	}
	if r := host.must(t, nil, "check"); !strings.Contains(r.stdout, "so are the backups") || !strings.Contains(r.stdout, "3 of epoch") {
		t.Errorf("check on the database host printed:\n%s", r.stdout)
	}
}

// Keys that nothing may be encrypted to are refused before anything is stored,
// with the reason, and wal-push never with a status that restarts the archiver.
func TestEncryptedToUnusableKeys(t *testing.T) {
	t.Parallel()
	good := newRing(t, "good@example.com")
	expired := newRing(t, "", "--faked-system-time", "20200101T000000", "--quick-gen-key", "old@example.com", "future-default", "default", "1d")
	signing := newRing(t, "", "--quick-gen-key", "sign@example.com", "ed25519", "sign", "never")
	revoked := newRing(t, "gone@example.com")
	certificates, err := filepath.Glob(filepath.Join(revoked.home, "openpgp-revocs.d", "*.rev"))
	if err != nil || len(certificates) != 1 {
		t.Fatalf("gpg made the revocation certificates %v, %v", certificates, err)
	}
	text := strings.Replace(read(t, certificates[0]), ":-----BEGIN", "-----BEGIN", 1) // so that nobody uses it by mistake
	if err := os.WriteFile(certificates[0], []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	revoked.run(t, "gpg", "--batch", "--quiet", "--import", certificates[0])

	plain := newArchive(t)
	host := plain.with("WALE_GPG_PUBLIC_KEY_FILE=" + good.public(t))
	c := host.start(t, pgtest.Options{SegmentSizeMB: 1})
	segment := c.SwitchWAL(t)
	c.WaitArchived(t, segment)
	for _, x := range []struct {
		r         ring
		id, words string
	}{
		{expired, "old@example.com", "has expired"}, {revoked, "gone@example.com", "is revoked"}, {signing, "sign@example.com", "can sign only"},
		{good, "who@example.com", "is unknown"},
	} {
		for _, a := range []*archive{ // from a file, and from gpg's key ring
			plain.with("WALE_GPG_PUBLIC_KEY_FILE="+x.r.public(t), "WALE_GPG_KEY_ID="+x.id), plain.with("GNUPGHOME="+x.r.home, "WALE_GPG_KEY_ID="+x.id),
		} {
			before := a.objects(t)
			a.fails(t, nil, 1, []string{x.words}, "backup-push", c.Dir)
			cmd := a.command(t, nil, "wal-push", "pg_wal/"+segment)
			cmd.Dir = c.Dir
			if r := runCommand(t, cmd); r.code < 1 || r.code > 125 || !strings.Contains(r.stderr, x.words) {
				t.Errorf("wal-push: exit %d, want 1 to 125 and %q\n%s", r.code, x.words, r.stderr)
			}
			if after := a.objects(t); len(after) != len(before) {
				t.Errorf("%s: something was stored: %v, before %v", x.id, after, before)
			}
		}
		fresh := newArchive(t).with("WALE_GPG_PUBLIC_KEY_FILE="+x.r.public(t), "WALE_GPG_KEY_ID="+x.id)
		fresh.fails(t, nil, 1, []string{x.words}, "key", "init")
	}
}

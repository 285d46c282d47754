package openpgp_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/packet"

	pgp "github.com/ProtonMail/go-crypto/openpgp"

	"wal-e/internal/openpgp"
)

// A ring is a folder of gpg's with a key that has a passphrase.
type ring struct{ home string }

const sesame = "sesame"

func newRing(t *testing.T) ring {
	t.Helper()
	home, err := os.MkdirTemp("/tmp", "gpg") // the agent's socket needs a short name
	if err != nil {
		t.Fatal(err)
	}
	r := ring{home}
	t.Cleanup(func() {
		r.lock(t)
		_ = os.RemoveAll(home)
	})
	if err := os.WriteFile(filepath.Join(home, "gpg-agent.conf"), []byte("allow-preset-passphrase\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.run(t, "gpg", "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", sesame,
		"--quick-gen-key", "Backup <dba@example.com>", "future-default", "default", "never")
	r.lock(t)
	return r
}

func (r ring) run(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "GNUPGHOME="+r.home)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v (it comes with the package gnupg)\n%s", name, err, stderr.Bytes())
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

// gpg's agent decrypts when it was given the passphrase. One that wasn't, or
// can't be reached, fails with what to do.
func TestAgent(t *testing.T) {
	t.Parallel()
	r := newRing(t)
	g := openpgp.GPG{Silent: true, Home: r.home}
	to, err := g.Recipients(t.Context(), []string{"dba@example.com"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	message := encrypt(t, to, []byte("text"))
	readers := []openpgp.GPG{g, {Home: r.home}} // nobody can be asked, either way
	fails := func(about, want string) {
		t.Helper()
		for _, g := range readers {
			if got, err := decrypt(t, g, message); !errors.Is(err, openpgp.ErrNoKey) || !strings.Contains(err.Error(), want) || len(got) != 0 {
				t.Errorf("%s: decrypted %q, %v, want %q", about, got, err, want)
			}
		}
	}
	fails("locked", "is locked")
	r.unlock(t)
	if got, err := decrypt(t, g, message); err != nil || string(got) != "text" {
		t.Errorf("unlocked: decrypted %q, %v", got, err)
	}
	r.lock(t)
	readers = readers[:1] // asking takes a second
	fails("locked again", "is locked")

	// What a service of systemd sees.
	r.lock(t)
	conf := filepath.Join(r.home, "gpg.conf")
	if err := os.WriteFile(conf, []byte("agent-program /nonexistent\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	fails("without an agent", "is out of reach")
	if err := os.Remove(conf); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(r.home, "private-keys-v1.d")); err != nil {
		t.Fatal(err)
	}
	fails("without a key", "whose key ring has it")
	g.Home = "/nonexistent"
	if _, err := decrypt(t, g, message); !errors.Is(err, openpgp.ErrNoKey) || !strings.Contains(err.Error(), "set GNUPGHOME") {
		t.Errorf("without a key ring: %v", err)
	}
}

// Compressed text could be of any length. We write none, and a key file reads
// none; what gpg unpacks is a stream that its reader bounds.
func TestCompressedMessage(t *testing.T) {
	t.Parallel()
	k := newKey(t, "dba@example.com", &packet.Config{DefaultCompressionAlgo: packet.CompressionZLIB})
	var message bytes.Buffer
	w, err := pgp.Encrypt(&message, []*pgp.Entity{k}, nil, nil, &packet.Config{DefaultCompressionAlgo: packet.CompressionZLIB})
	if err != nil {
		t.Fatal(err)
	}
	zeros := make([]byte, 1<<20)
	for range 64 {
		if _, err := w.Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if message.Len() > 1<<20 {
		t.Fatalf("the message of zeros has %d bytes: it isn't compressed", message.Len())
	}
	r, err := keyFile(t, private(t, k)).Decrypt(t.Context(), &message)
	var n int64
	if err == nil {
		defer r.Close()
		n, err = io.Copy(io.Discard, r)
	}
	if !errors.Is(err, openpgp.ErrDamaged) || n > 1<<20 {
		t.Errorf("a message of zeros gave %d bytes, %v, want ErrDamaged", n, err)
	}
}

// What was encrypted before a key expired stays readable with it.
func TestExpiredKeyDecrypts(t *testing.T) {
	t.Parallel()
	then := time.Now().Add(-time.Hour)
	config := &packet.Config{KeyLifetimeSecs: 60, Time: func() time.Time { return then }}
	k := newKey(t, "old@example.com", config)
	var message bytes.Buffer
	w, err := pgp.Encrypt(&message, []*pgp.Entity{k}, nil, nil, config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, "text"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := decrypt(t, keyFile(t, private(t, k)), message.Bytes()); err != nil || string(got) != "text" {
		t.Errorf("decrypted %q, %v", got, err)
	}
}

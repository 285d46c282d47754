package openpgp_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pgp "github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"wal-e/internal/openpgp"
)

// newKey makes a key; rsa asks for RSA instead of curve 25519.
func newKey(t testing.TB, email string, config *packet.Config) *pgp.Entity {
	t.Helper()
	if config.Algorithm == 0 {
		config.Algorithm = packet.PubKeyAlgoEdDSA
	}
	k, err := pgp.NewEntity("Backup", "", email, config)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func save(t testing.TB, serialize func(io.Writer) error, armored bool) string {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser = nopCloser{&b}
	if armored {
		var err error
		if w, err = armor.Encode(&b, "PGP PUBLIC KEY BLOCK", nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(serialize(w), w.Close()); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(name, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

func public(t testing.TB, k *pgp.Entity) string { return save(t, k.Serialize, false) }

func private(t testing.TB, k *pgp.Entity) string {
	return save(t, func(w io.Writer) error { return k.SerializePrivateWithoutSigning(w, nil) }, false)
}

func encrypt(t testing.TB, r *openpgp.Recipients, text []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := r.Encrypt(&b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func decrypt(t testing.TB, d openpgp.Decrypter, message []byte) ([]byte, error) {
	t.Helper()
	r, err := d.Decrypt(t.Context(), bytes.NewReader(message))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func recipients(t testing.TB, file string, ids ...string) *openpgp.Recipients {
	t.Helper()
	r, err := openpgp.ReadRecipients([]string{file}, ids, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func keyFile(t testing.TB, name string) *openpgp.KeyFile {
	t.Helper()
	k, err := openpgp.ReadKeyFile(name, "")
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]*packet.Config{
		"ECC": {}, "RSA": {Algorithm: packet.PubKeyAlgoRSA, RSABits: 2048},
	} {
		k := newKey(t, "dba@example.com", config)
		for _, armored := range []bool{false, true} {
			for _, size := range []int{0, 1, 100_000} {
				text := bytes.Repeat([]byte("x"), size)
				message := encrypt(t, recipients(t, save(t, k.Serialize, armored), "DBA@example.com"), text)
				got, err := decrypt(t, keyFile(t, private(t, k)), message)
				if err != nil || !bytes.Equal(got, text) {
					t.Errorf("%s, armored %v: decrypted %d bytes, %v, want %d", name, armored, len(got), err, size)
				}
			}
		}
	}
}

func TestRefusedKeys(t *testing.T) {
	t.Parallel()
	now := time.Now()
	expired := newKey(t, "old@example.com", &packet.Config{KeyLifetimeSecs: 60, Time: func() time.Time { return now.Add(-time.Hour) }})
	revoked := newKey(t, "gone@example.com", &packet.Config{})
	if err := revoked.RevokeKey(packet.KeyCompromised, "", nil); err != nil {
		t.Fatal(err)
	}
	signing := newKey(t, "sign@example.com", &packet.Config{})
	signing.Subkeys = nil
	good := newKey(t, "good@example.com", &packet.Config{})
	for _, test := range []struct {
		key      *pgp.Entity
		id, want string
	}{
		{expired, "old@example.com", "has expired"},
		{revoked, "gone@example.com", "is revoked"},
		{signing, "sign@example.com", "can sign only"},
		{good, "who@example.com", `key "who@example.com" is unknown`},
		{good, "good", `key "good" is unknown`},
	} {
		_, err := openpgp.ReadRecipients([]string{public(t, test.key)}, []string{test.id}, now)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("ReadRecipients(%s) = %v, want %q", test.id, err, test.want)
		}
	}
	fpr := strings.Fields(recipients(t, public(t, good)).Describe()[0])[0]
	for _, id := range []string{fpr, "0x" + fpr[len(fpr)-16:], strings.ToLower(fpr[len(fpr)-8:])} {
		if got := recipients(t, public(t, good), id).Describe(); len(got) != 1 || !strings.Contains(got[0], "good@example.com") {
			t.Errorf("%s names %v", id, got)
		}
	}
	if _, err := openpgp.ReadKeyFile(public(t, good), ""); err == nil || !strings.Contains(err.Error(), "public keys only") {
		t.Errorf("ReadKeyFile of a public key = %v", err)
	}
	message := encrypt(t, recipients(t, public(t, good)), []byte("text"))
	other := newKey(t, "other@example.com", &packet.Config{})
	if _, err := decrypt(t, keyFile(t, private(t, other)), message); !errors.Is(err, openpgp.ErrNoKey) {
		t.Errorf("Decrypt with another key = %v, want ErrNoKey", err)
	}
}

func TestPassphrase(t *testing.T) {
	t.Parallel()
	k := newKey(t, "dba@example.com", &packet.Config{})
	message := encrypt(t, recipients(t, public(t, k)), []byte("text"))
	if err := k.EncryptPrivateKeys([]byte("sesame"), nil); err != nil {
		t.Fatal(err)
	}
	name := private(t, k)
	passphrase := filepath.Join(t.TempDir(), "passphrase")
	if err := os.WriteFile(passphrase, []byte("sesame\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := openpgp.ReadKeyFile(name, passphrase)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := decrypt(t, d, message); err != nil || string(got) != "text" {
		t.Errorf("Decrypt = %q, %v", got, err)
	}
	if _, err := openpgp.ReadKeyFile(name, ""); err == nil || !strings.Contains(err.Error(), "has a passphrase") {
		t.Errorf("ReadKeyFile without a passphrase = %v", err)
	}
	if _, err := openpgp.ReadKeyFile(name, public(t, k)); err == nil || strings.Contains(err.Error(), "sesame") {
		t.Errorf("ReadKeyFile with a wrong passphrase = %v", err)
	}
}

// Whatever byte of the encrypted text is altered, and wherever the message is
// cut, its end isn't reached without an error.
func TestEveryByteCounts(t *testing.T) {
	t.Parallel()
	k := newKey(t, "dba@example.com", &packet.Config{})
	text := []byte("some text that must not be altered")
	message := encrypt(t, recipients(t, public(t, k)), text)
	d := keyFile(t, private(t, k))
	for i := range message {
		altered := bytes.Clone(message)
		altered[i] ^= 0x04
		if got, err := decrypt(t, d, altered); err == nil && !bytes.Equal(got, text) {
			t.Errorf("byte %d of %d: decrypted to %q without an error", i, len(message), got)
		}
		if got, err := decrypt(t, d, message[:i]); err == nil {
			t.Errorf("cut to %d of %d bytes: decrypted to %q without an error", i, len(message), got)
		}
	}
}

// A message opens with its session key, without any other, and not a bit of it
// can be altered, cut off or added.
func TestSessionKey(t *testing.T) {
	t.Parallel()
	k := newKey(t, "dba@example.com", &packet.Config{})
	key := bytes.Repeat([]byte{7}, openpgp.SessionKeySize)
	for _, text := range [][]byte{[]byte("some text that must not be altered"), nil, bytes.Repeat([]byte("x"), 100_000)} {
		var b bytes.Buffer
		w, err := recipients(t, public(t, k)).EncryptWith(&b, key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(text); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		open := func(key, message []byte) ([]byte, error) {
			r, err := openpgp.DecryptWith(t.Context(), key, bytes.NewReader(message))
			if err != nil {
				return nil, err
			}
			return io.ReadAll(r)
		}
		if got, err := open(key, b.Bytes()); err != nil || !bytes.Equal(got, text) {
			t.Fatalf("DecryptWith gives %d bytes, %v, want %d", len(got), err, len(text))
		}
		if got, err := decrypt(t, keyFile(t, private(t, k)), b.Bytes()); err != nil || !bytes.Equal(got, text) {
			t.Errorf("the private key gives %d bytes, %v, want %d", len(got), err, len(text))
		}
		if _, err := open(bytes.Repeat([]byte{8}, openpgp.SessionKeySize), b.Bytes()); !errors.Is(err, openpgp.ErrDamaged) {
			t.Errorf("DecryptWith another key = %v, want ErrDamaged", err)
		}
		if _, err := open(key, append(bytes.Clone(b.Bytes()), b.Bytes()...)); !errors.Is(err, openpgp.ErrDamaged) {
			t.Errorf("DecryptWith of two messages = %v, want ErrDamaged", err)
		}
		for i := 0; i < b.Len(); i += 1 + b.Len()/500 {
			altered := bytes.Clone(b.Bytes())
			altered[i] ^= 0x04
			if got, err := open(key, altered); err == nil && !bytes.Equal(got, text) || err != nil && !errors.Is(err, openpgp.ErrDamaged) {
				t.Errorf("byte %d of %d altered: %d bytes, %v", i, b.Len(), len(got), err)
			}
			if _, err := open(key, b.Bytes()[:i]); !errors.Is(err, openpgp.ErrDamaged) {
				t.Errorf("cut to %d of %d bytes: %v, want ErrDamaged", i, b.Len(), err)
			}
		}
	}
}

// No other session key gets so far as to text: whoever tries one goes on with the
// private key, and would take noise for a damaged object.
func TestOtherSessionKeys(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	w, err := recipients(t, public(t, newKey(t, "dba@example.com", &packet.Config{}))).EncryptWith(&b, make([]byte, openpgp.SessionKeySize))
	if err == nil {
		_, err = w.Write(make([]byte, 1000))
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	key := make([]byte, openpgp.SessionKeySize)
	for i := range 5000 {
		binary.BigEndian.PutUint64(key, uint64(i+1))
		if _, err := openpgp.DecryptWith(t.Context(), key, bytes.NewReader(b.Bytes())); !errors.Is(err, openpgp.ErrDamaged) {
			t.Fatalf("DecryptWith key %d = %v, want ErrDamaged", i+1, err)
		}
	}
}

// gnupg makes a key ring with a key in it, which gpg's agent has no passphrase
// for. The test can't be parallel.
func gnupg(t *testing.T, algorithm string) {
	t.Helper()
	home, err := os.MkdirTemp("/tmp", "gpg") // the agent's socket needs a short name
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("GNUPGHOME", home)
	t.Cleanup(func() {
		_ = exec.Command("gpgconf", "--kill", "gpg-agent").Run() // it may never have run
		_ = os.RemoveAll(home)
	})
	args := []string{"--batch", "--quiet", "--passphrase", "", "--quick-gen-key", "Backup <dba@example.com>", algorithm, "default", "never"}
	if out, err := exec.Command("gpg", args...).CombinedOutput(); err != nil {
		t.Fatalf("gpg: %v (it comes with the package gnupg)\n%s", err, out)
	}
}

// What we write gpg reads, and the other way round.
func TestGPG(t *testing.T) {
	gnupg(t, "future-default")
	text := bytes.Repeat([]byte("wal-e "), 100_000)
	r, err := openpgp.GPG{}.Recipients(t.Context(), []string{"dba@example.com"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	message := encrypt(t, r, text)
	got, err := decrypt(t, openpgp.GPG{Silent: true}, message)
	if err != nil || !bytes.Equal(got, text) {
		t.Fatalf("gpg decrypted %d bytes, %v, want %d", len(got), err, len(text))
	}
	if ids, err := openpgp.KeyIDs(message); err != nil || len(ids) != 1 {
		t.Errorf("KeyIDs = %v, %v, want one", ids, err)
	}
	for _, test := range []struct {
		name    string
		message []byte
		want    error
	}{
		{"cut short", message[:len(message)-10], openpgp.ErrDamaged},
		{"altered", append(bytes.Clone(message[:len(message)-30]), make([]byte, 30)...), openpgp.ErrDamaged},
		{"not encrypted", literal(t, text), openpgp.ErrDamaged},
		{"empty", nil, openpgp.ErrDamaged},
		{"to somebody else", encrypt(t, recipients(t, public(t, newKey(t, "o@example.com", &packet.Config{}))), text), openpgp.ErrNoKey},
	} {
		if _, err := decrypt(t, openpgp.GPG{Silent: true}, test.message); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
	if _, err := (openpgp.GPG{}).Recipients(t.Context(), []string{"who@example.com"}, time.Now()); err == nil || !strings.Contains(err.Error(), "is unknown") {
		t.Errorf("Recipients of an unknown key = %v", err)
	}
}

// literal is a message that isn't encrypted.
func literal(t testing.TB, text []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := packet.SerializeLiteral(nopCloser{&b}, true, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func FuzzDecrypt(f *testing.F) {
	k := newKey(f, "dba@example.com", &packet.Config{})
	d := keyFile(f, private(f, k))
	text := []byte("the only text there is")
	f.Add(encrypt(f, recipients(f, public(f, k)), text))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, message []byte) {
		if len(message) > 1<<20 {
			return
		}
		_, _ = openpgp.KeyIDs(message)
		if r, err := openpgp.DecryptWith(t.Context(), make([]byte, openpgp.SessionKeySize), bytes.NewReader(message)); err == nil {
			if _, err := io.Copy(io.Discard, r); err == nil {
				t.Error("a message opened with a key of zeros")
			}
		}
		if got, err := decrypt(t, d, message); err == nil && !bytes.Equal(got, text) {
			t.Errorf("decrypted to %q", got)
		}
	})
}

// BenchmarkEncrypt encrypts what a busy segment is compressed, by this package
// and, started anew each time as a pipe would, by gpg.
func BenchmarkEncrypt(b *testing.B) {
	k := newKey(b, "dba@example.com", &packet.Config{})
	file := public(b, k)
	text := make([]byte, 4<<20)
	for i := range text {
		text[i] = byte(i * i >> 7)
	}
	b.Run("here", func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		for b.Loop() {
			encrypt(b, recipients(b, file), text)
		}
	})
	b.Run("gpg", func(b *testing.B) {
		home := b.TempDir()
		b.SetBytes(int64(len(text)))
		for b.Loop() {
			cmd := exec.Command("gpg", "--batch", "--quiet", "--homedir", home, "--compress-algo", "none", "--trust-model", "always", "--recipient-file", file, "--encrypt")
			cmd.Stdin = bytes.NewReader(text)
			if out, err := cmd.Output(); err != nil || len(out) < len(text) {
				b.Fatalf("gpg: %v (it comes with the package gnupg)", err)
			}
		}
	})
}

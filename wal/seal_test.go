package wal_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"wal-e/internal/openpgp"
	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
	"wal-e/wal"
)

// newCipher makes a key ring for gpg with a key in it, and a cipher of that. The
// test can't be parallel.
func newCipher(t *testing.T) *wal.Cipher {
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
	args := []string{"--batch", "--quiet", "--passphrase", "", "--quick-gen-key", "dba@example.com", "future-default", "default", "never"}
	if out, err := exec.Command("gpg", args...).CombinedOutput(); err != nil {
		t.Fatalf("gpg: %v (it comes with the package gnupg)\n%s", err, out)
	}
	r, err := openpgp.KeyringRecipients(t.Context(), []string{"dba@example.com"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(t.TempDir(), "secret")
	if out, err := exec.Command("gpg", "--batch", "--output", secret, "--export-secret-keys").CombinedOutput(); err != nil {
		t.Fatalf("gpg: %v\n%s", err, out)
	}
	k, err := openpgp.ReadKeyFile(secret, "")
	if err != nil {
		t.Fatal(err)
	}
	return &wal.Cipher{
		Encrypt: r.Encrypt, Keys: []wal.FingerprintKey{{Epoch: wal.Epoch{1}, Key: [32]byte{2}}},
		Decrypt: func(ctx context.Context, message io.Reader) (io.ReadCloser, error) {
			text, err := k.Decrypt(ctx, message)
			if err != nil {
				return nil, damaged(err)
			}
			return damagedReader{text}, nil
		},
	}
}

type damagedReader struct{ io.ReadCloser }

func (r damagedReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	return n, damaged(err)
}

func damaged(err error) error {
	if errors.Is(err, openpgp.ErrDamaged) {
		return fmt.Errorf("%w: %w", wal.ErrBadMessage, err)
	}
	return err
}

func TestEncrypted(t *testing.T) {
	cipher := newCipher(t)
	c := newCluster(t)
	b := mem.New(nil)
	host := *cipher
	host.Decrypt = nil
	push, fetch := c.config(wal.WithCipher(b, &host)), c.config(wal.WithCipher(b, cipher))
	files := map[string][]byte{
		c.name(1, 3): c.segment(3, 300_000), "00000002.history": []byte("1\t0/A373778\tno recovery target specified\n"), "nothing": {},
	}
	for name, data := range files {
		path := c.write(t, name, data)
		p := mustPush(t, push, path)
		mustFetch(t, fetch, name, data)
		object := readObject(t, b, p.Key)
		if len(data) > 0 && bytes.Contains(object, data[:min(len(data), 40)]) {
			t.Errorf("the object of %s shows its content", name)
		}
		if id, err := wal.ReadIdentity(t.Context(), b, p.Key); err != nil || id.Length != int64(len(data)) || id.Fingerprint == p.Fingerprint || id.Epoch != cipher.Keys[0].Epoch {
			t.Errorf("ReadIdentity(%s) = %+v, %v", name, id, err)
		}
		if _, err := wal.Fetch(t.Context(), push, name, filepath.Join(t.TempDir(), "x")); err == nil || !strings.Contains(err.Error(), "no private key") {
			t.Errorf("Fetch without a private key = %v", err)
		}
		// PostgreSQL archives a file again after a crash; by then level and keys of
		// messages may be others.
		again := push
		again.Level = 19
		if p := mustPush(t, again, path); p.Stored != 0 {
			t.Errorf("a second push of %s stored %d bytes", name, p.Stored)
		}
		altered := bytes.Clone(data)
		altered = append(altered, 'x')
		if name == c.name(1, 3) {
			altered = c.segment(3, 300_001)
		}
		var conflict *wal.ConflictError
		if _, err := wal.Push(t.Context(), push, c.write(t, name, altered)); !errors.As(err, &conflict) {
			t.Errorf("Push of another %s = %v, want a ConflictError", name, err)
		}
		stranger := host
		stranger.Keys = []wal.FingerprintKey{{Epoch: wal.Epoch{9}}}
		if _, err := wal.Push(t.Context(), c.config(wal.WithCipher(b, &stranger)), path); !errors.Is(err, wal.ErrNoEpochKey) {
			t.Errorf("Push with the keys of another epoch = %v, want ErrNoEpochKey", err)
		}
		if name != "nothing" {
			byHand(t, object, data)
		}
	}
}

// byHand opens an object with gpg and zstd.
func byHand(t *testing.T, object, want []byte) {
	t.Helper()
	cmd := exec.Command("sh", "-c", "gpg --batch --quiet -d | zstd -dcq")
	cmd.Stdin = bytes.NewReader(object)
	got, err := cmd.Output()
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("gpg -d | zstd -d gives %d bytes (%v), want the %d pushed", len(got), err, len(want))
	}
}

// Whatever byte is altered, and wherever the object is cut, no file appears.
func TestEncryptedEveryByteCounts(t *testing.T) {
	cipher := newCipher(t)
	c := newCluster(t)
	b := mem.New(nil)
	data := []byte("1\t0/A373778\tno recovery target specified\n")
	p := mustPush(t, c.config(wal.WithCipher(b, cipher)), c.write(t, "00000002.history", data))
	object := readObject(t, b, p.Key)
	fetch := func(object []byte) error {
		other := mem.New(nil)
		if err := storage.CreateBytes(t.Context(), other, p.Key, object, nil); err != nil {
			t.Fatal(err)
		}
		dest := filepath.Join(t.TempDir(), "x")
		_, err := wal.Fetch(t.Context(), c.config(wal.WithCipher(other, cipher)), "00000002.history", dest)
		if err != nil {
			assertNames(t, filepath.Dir(dest))
		} else if !bytes.Equal(readFile(t, dest), data) {
			t.Error("fetched other bytes without an error")
		}
		return err
	}
	for i := range object {
		altered := bytes.Clone(object)
		altered[i] ^= 0x04
		_ = fetch(altered) // bytes that mean nothing may change; what is fetched may not
		if fetch(object[:i]) == nil {
			t.Errorf("fetched an object cut to %d of %d bytes", i, len(object))
		}
	}
	// Another message, made by somebody who has the public key only.
	forger := *cipher
	forger.Keys = []wal.FingerprintKey{{Epoch: wal.Epoch{1}}}
	forged := mem.New(nil)
	mustPush(t, c.config(wal.WithCipher(forged, &forger)), c.write(t, "00000002.history", []byte("1\t0/1000000\tforged\n")))
	if fetch(readObject(t, forged, p.Key)) == nil {
		t.Error("fetched a forged object")
	}
}

// FuzzEncryptedObject reads whatever stands where an encrypted object belongs.
func FuzzEncryptedObject(f *testing.F) {
	header := append([]byte{0xFD, 76}, "WALEWALS"...)
	f.Add(append(header, make([]byte, 68)...))
	f.Add([]byte{0xFD})
	cipher := &wal.Cipher{Decrypt: func(_ context.Context, message io.Reader) (io.ReadCloser, error) { return io.NopCloser(message), nil }}
	f.Fuzz(func(t *testing.T, object []byte) {
		b := mem.New(nil)
		if err := storage.CreateBytes(t.Context(), b, "wal_006/1/x", object, nil); err != nil {
			t.Fatal(err)
		}
		_, _ = wal.ReadIdentity(t.Context(), b, "wal_006/1/x")
		if _, err := wal.Verify(t.Context(), wal.WithCipher(b, cipher), 1, "x"); err == nil && (len(object) == 0 || object[0] == 0xFD) {
			t.Error("an object was taken for whole that nobody wrote")
		}
	})
}

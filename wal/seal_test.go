package wal_test

import (
	"bytes"
	"context"
	"crypto/sha256"
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
	r, err := openpgp.GPG{}.Recipients(t.Context(), []string{"dba@example.com"}, time.Now())
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
		Encrypt: func(w io.Writer, key [32]byte) (io.WriteCloser, error) { return r.EncryptWith(w, key[:]) },
		Keys:    []wal.EpochKeys{newEpoch(1, 2)},
		DecryptWith: func(ctx context.Context, key [32]byte, message io.Reader) (io.ReadCloser, error) {
			text, err := openpgp.DecryptWith(ctx, key[:], message)
			if err != nil {
				return nil, damaged(err)
			}
			return damagedReader{text}, nil
		},
		Decrypt: func(ctx context.Context, message io.Reader) (io.ReadCloser, error) {
			text, err := k.Decrypt(ctx, message)
			if err != nil {
				return nil, damaged(err)
			}
			return damagedReader{text}, nil
		},
	}
}

// newEpoch returns the keys of an epoch, of which secret tells those apart that
// have one name. Sealing is a mask; package seal does better.
func newEpoch(name, secret byte) wal.EpochKeys {
	mask := func(header []byte, key [32]byte) [32]byte {
		h := sha256.Sum256(append(bytes.Clone(header), secret))
		for i := range key {
			key[i] ^= h[i]
		}
		return key
	}
	return wal.EpochKeys{
		Epoch: wal.Epoch{name}, Fingerprint: [32]byte{secret}, History: [32]byte{secret, 1},
		SealKey: func(header []byte, key [32]byte) ([]byte, error) {
			masked := mask(header, key)
			sum := sha256.Sum256(masked[:])
			return append(append(make([]byte, 32), masked[:]...), sum[:16]...), nil
		},
		OpenKey: func(header, sealed []byte) ([32]byte, error) {
			if sum := sha256.Sum256(sealed[32:64]); !bytes.Equal(sum[:16], sealed[64:]) || !bytes.Equal(sealed[:32], make([]byte, 32)) {
				return [32]byte{}, errors.New("seal is broken")
			}
			return mask(header, [32]byte(sealed[32:64])), nil
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
		if name == "00000002.history" {
			mustFetch(t, push, name, data) // which takes no private key
			if _, err := wal.Verify(t.Context(), push.Bucket, p.System, name); err == nil || !strings.Contains(err.Error(), "no private key") {
				t.Errorf("Verify of a history without a private key = %v: it can't have read all of the object", err)
			}
		} else if _, err := wal.Fetch(t.Context(), push, name, filepath.Join(t.TempDir(), "x")); err == nil || !strings.Contains(err.Error(), "no private key") {
			t.Errorf("Fetch without a private key = %v", err)
		}
		owner := *cipher
		owner.Keys = nil
		mustFetch(t, c.config(wal.WithCipher(b, &owner)), name, data)
		opens := 0
		owner.Open = func(_ context.Context, epoch wal.Epoch) (*wal.EpochKeys, error) {
			if opens++; epoch != cipher.Keys[0].Epoch {
				return nil, errors.New("unknown")
			}
			return &cipher.Keys[0], nil
		}
		owner.Decrypt = nil // the epoch's key is enough
		mustFetch(t, c.config(wal.WithCipher(b, &owner)), name, data)
		if opens != 1 {
			t.Errorf("Fetch(%s) asked for the epoch %d times, want once", name, opens)
		}
		owner.Decrypt = cipher.Decrypt // and without it that of a recipient
		owner.Open = func(context.Context, wal.Epoch) (*wal.EpochKeys, error) { return nil, errors.New("locked") }
		mustFetch(t, c.config(wal.WithCipher(b, &owner)), name, data)
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
		stranger.Keys = []wal.EpochKeys{newEpoch(9, 9)}
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

// Whatever byte is altered, and wherever the object is cut: no other file appears,
// with or without the keys of the epoch, and whoever has all keys notices.
func TestEncryptedEveryByteCounts(t *testing.T) {
	cipher := newCipher(t)
	recipient, owner := *cipher, *cipher
	recipient.Keys, owner.Keys = nil, nil
	owner.Open = func(context.Context, wal.Epoch) (*wal.EpochKeys, error) { return &cipher.Keys[0], nil }
	c := newCluster(t)
	for name, data := range map[string][]byte{
		"00000002.history": []byte("1\t0/A373778\tno recovery target specified\n"), "a_file": []byte("of another kind"),
	} {
		b := mem.New(nil)
		p := mustPush(t, c.config(wal.WithCipher(b, cipher)), c.write(t, name, data))
		object := readObject(t, b, p.Key)
		message := bytes.LastIndex(object, []byte("WALE")) + 8 // or before: what follows has no such word
		for i := range object {
			altered := bytes.Clone(object)
			altered[i] ^= 0x04
			if v := c.offered(t, cipher, name, altered, data); v == nil && i < message {
				t.Errorf("%s: nobody noticed that byte %d of %d was altered", name, i, len(object))
			}
			_ = c.offered(t, &recipient, name, altered, data)
			_ = c.offered(t, &owner, name, altered, data)
			for _, reader := range []*wal.Cipher{cipher, &recipient, &owner} {
				if c.offered(t, reader, name, object[:i], data) == nil {
					t.Errorf("%s: nobody noticed that an object of %d bytes was cut to %d", name, len(object), i)
				}
			}
		}
	}
}

// offered verifies and fetches an object that somebody put in place of name's,
// and returns what verifying says. Fetching may fail or give data.
func (c cluster) offered(t *testing.T, cipher *wal.Cipher, name string, object, data []byte) error {
	t.Helper()
	b := mem.New(nil)
	if err := storage.CreateBytes(t.Context(), b, wal.Key(c.system, name), object, nil); err != nil {
		t.Fatal(err)
	}
	cfg := c.config(wal.WithCipher(b, cipher))
	dest := filepath.Join(t.TempDir(), "x")
	if _, err := wal.Fetch(t.Context(), cfg, name, dest); err != nil {
		assertNames(t, filepath.Dir(dest))
	} else if !bytes.Equal(readFile(t, dest), data) {
		t.Errorf("%s: fetched other bytes without an error", name)
	}
	_, err := wal.Verify(t.Context(), cfg.Bucket, c.system, name)
	return err
}

// What somebody makes who can write to the archive and knows the public keys is
// refused where the epoch's keys are.
func TestEncryptedForgeries(t *testing.T) {
	cipher := newCipher(t)
	c := newCluster(t)
	only := *cipher
	only.Only = true
	forger := *cipher
	forger.Keys = []wal.EpochKeys{newEpoch(1, 8)}
	stranger := *cipher
	stranger.Keys = []wal.EpochKeys{newEpoch(9, 9)}
	b := mem.New(nil)
	object := func(cipher *wal.Cipher, name string, data []byte) []byte {
		t.Helper()
		b := storage.Bucket(mem.New(nil))
		p := mustPush(t, c.config(wal.WithCipher(b, cipher)), c.write(t, name, data))
		return readObject(t, b, p.Key)
	}
	history := []byte("1\t0/A373778\tno recovery target specified\n")
	segment := c.segment(3, 300_000)
	for _, test := range []struct {
		about, name string
		reader      *wal.Cipher
		object      []byte
		want        string
	}{
		{"a forged history", "00000002.history", cipher, object(&forger, "00000002.history", history), "altered"},
		{"a forged segment", c.name(1, 3), cipher, object(&forger, c.name(1, 3), segment), "isn't the one that its identity header says"},
		{"another history", "00000003.history", cipher, object(cipher, "00000002.history", history), "isn't the one that its identity header says"},
		{"another file", "b", cipher, object(cipher, "a", []byte("x")), "isn't the one that its identity header says"},
		{"a plain segment", c.name(1, 3), &only, object(&wal.Cipher{}, c.name(1, 3), segment), "isn't encrypted"},
		{"a segment of an epoch that nobody knows", c.name(1, 3), &only, object(&stranger, c.name(1, 3), segment), "isn't on this host"},
	} {
		key := wal.Key(c.system, test.name)
		if err := storage.CreateBytes(t.Context(), b, key, test.object, nil); err != nil {
			t.Fatal(err)
		}
		dest := filepath.Join(t.TempDir(), "x")
		_, err := wal.Fetch(t.Context(), c.config(wal.WithCipher(b, test.reader)), test.name, dest)
		if err == nil || errors.Is(err, wal.ErrNotFound) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.about, err, test.want)
		}
		assertNames(t, filepath.Dir(dest))
		if err := b.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	mustPush(t, c.config(wal.WithCipher(b, cipher)), c.write(t, c.name(1, 3), segment))
	mustFetch(t, c.config(wal.WithCipher(b, &only)), c.name(1, 3), segment)
}

// FuzzEncryptedObject reads whatever stands where an encrypted object belongs.
func FuzzEncryptedObject(f *testing.F) {
	header := append([]byte{0xFD, 156}, "WALEWALS"...)
	f.Add(append(header, make([]byte, 148)...))
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

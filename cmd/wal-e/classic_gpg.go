package main

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"wal-e/compat"
	"wal-e/internal/openpgp"
)

// decryptClassic decrypts classic objects: as classic WAL-E does, with gpg and the
// key ring and agent of the user who runs this, or with a key file. It is a
// compat.Decrypt.
func (s *session) decryptClassic(ctx context.Context, message io.Reader) (io.ReadCloser, error) {
	d, err := s.decrypter(false)
	if err != nil {
		return nil, err
	}
	r, err := d.Decrypt(ctx, message)
	if err != nil {
		return nil, damagedMessage(err)
	}
	return messageReader{r}, nil
}

// encryptClassic returns what encrypts partitions, nil when they are stored in the
// clear. Public keys are enough.
func (s *session) encryptClassic(ctx context.Context) (compat.Encrypt, error) {
	if !s.encryption.on() {
		return nil, nil
	}
	to, err := s.recipients(ctx)
	if err != nil {
		return nil, err
	}
	return to.Encrypt, nil
}

// A classicMessage encrypts one WAL file. Its session key comes from the file and a
// secret of this host, so a push whose answer was lost finds out, without a private
// key, that what is stored is its own.
type classicMessage struct {
	to  *openpgp.Recipients
	key []byte
}

func (s *session) classicMessage(ctx context.Context, path string) (*classicMessage, error) {
	to, err := s.recipients(ctx)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return nil, err
	}
	key := hmac.New(sha256.New, s.classicSecret(ctx))
	key.Write(append([]byte(filepath.Base(path)+"\x00"), sum.Sum(nil)...)) // a hash takes everything
	return &classicMessage{to, key.Sum(nil)}, nil
}

func (m *classicMessage) encrypt(w io.Writer) (io.WriteCloser, error) {
	return m.to.EncryptWith(w, m.key)
}

// decrypt opens what encrypt made, and fails of anything else.
func (m *classicMessage) decrypt(ctx context.Context, message io.Reader) (io.ReadCloser, error) {
	r, err := openpgp.DecryptWith(ctx, m.key, message)
	if err != nil {
		return nil, damagedMessage(err)
	}
	return messageReader{r}, nil
}

// classicSecret is a secret that this host keeps for the prefix. Without local state
// it is one of this run, and then only whoever has the private key can compare.
func (s *session) classicSecret(ctx context.Context) []byte {
	fresh := make([]byte, sha256.Size)
	if _, err := rand.Read(fresh); err != nil {
		panic("wal-e: no randomness: " + err.Error()) // rand.Read never fails
	}
	dir, err := s.prefixState()
	if err == nil {
		path := filepath.Join(dir, "classic-secret")
		err = writeOnce(path, fresh)
		var kept []byte
		if kept, _ = os.ReadFile(path); len(kept) == len(fresh) {
			return kept
		}
	}
	s.log.DebugContext(ctx, "no local secret", "error", err)
	return fresh
}

// writeOnce makes a file that appears whole, unless there is one.
func writeOnce(path string, data []byte) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

type messageReader struct{ io.ReadCloser }

func (r messageReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = damagedMessage(err)
	}
	return n, err
}

// damagedMessage tells package compat of a message that isn't whole.
func damagedMessage(err error) error {
	if errors.Is(err, openpgp.ErrDamaged) {
		return fmt.Errorf("%w: %w", compat.ErrDamagedMessage, err)
	}
	return err
}

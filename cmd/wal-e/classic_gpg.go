package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"wal-e/compat"
	"wal-e/internal/openpgp"
)

// gpgDecrypt decrypts classic objects as classic WAL-E does, with gpg and the key
// ring and agent of the user who runs this. It is a compat.Decrypt.
func gpgDecrypt(ctx context.Context, message io.Reader) (io.ReadCloser, error) {
	r, err := openpgp.GPG{}.Decrypt(ctx, message)
	if err != nil {
		return nil, damagedMessage(err)
	}
	return messageReader{r}, nil
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

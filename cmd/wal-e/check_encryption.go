package main

import (
	"context"
	"errors"
	"io/fs"
	"os/exec"
	"time"

	"wal-e/backup"
	"wal-e/chunkstore"
	"wal-e/internal/checkup"
	"wal-e/internal/openpgp"
	"wal-e/internal/storage"
)

// soon is how long before a key expires a check warns.
const soon = 30 * 24 * time.Hour

// encryptionFacts finds out what check says of encryption. It never asks anybody
// for a passphrase.
func (s *session) encryptionFacts(ctx context.Context, b storage.Bucket, now time.Time) checkup.EncryptionFacts {
	f := checkup.EncryptionFacts{Required: s.encryption.policy == required, KeyFile: s.hostKeysPath(), Backups: make(map[string]int)}
	if s.encryption.on() {
		to, err := s.recipients(ctx)
		if f.RecipientsErr = err; err == nil {
			f.Recipients, f.KeyIDs, f.Expiring = to.Describe(), to.KeyIDs(now), to.UnusableAt(now.Add(soon))
		}
	}
	h, err := s.readHostKeys()
	if f.HostErr = err; err == nil {
		for _, k := range h.Epochs {
			f.Host = append(f.Host, k.Epoch().String())
		}
	} else if errors.Is(err, fs.ErrPermission) && !s.encryption.on() {
		f.HostErr = nil // another user's, who pushes
	}
	epochs, err := chunkstore.ListSecrets(ctx, b)
	f.EpochsErr = err
	for _, e := range epochs {
		f.Epochs = append(f.Epochs, s.tryEpoch(ctx, b, e))
	}
	if err != nil || len(epochs) == 0 && !s.encryption.on() {
		return f // then what backups there are doesn't matter
	}
	list, err := backup.List(ctx, b, "")
	f.BackupsErr = err
	for _, l := range list {
		f.Backups[l.Epoch]++
	}
	return f
}

// tryEpoch opens the secrets of an epoch if the private key is at hand.
func (s *session) tryEpoch(ctx context.Context, b storage.Bucket, e chunkstore.Secrets) checkup.Epoch {
	found := checkup.Epoch{Name: e.Epoch.String(), Sealed: e.Sealed}
	message, err := e.Read(ctx, b)
	if err == nil {
		found.KeyIDs, err = openpgp.KeyIDs(message)
	}
	if found.Damage = err; err != nil {
		return found
	}
	_, found.Opened = s.openSecrets(ctx, b, e, true)
	found.NoKey = isNoKey(found.Opened)
	return found
}

// isNoKey tells that a private key isn't at hand from what else can be wrong.
func isNoKey(err error) bool {
	return errors.Is(err, openpgp.ErrNoKey) || errors.Is(err, exec.ErrNotFound)
}

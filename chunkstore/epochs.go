package chunkstore

import (
	"context"
	"fmt"
	"strings"
	"time"

	"wal-e/internal/seal"
	"wal-e/internal/storage"
)

// epochDir holds the sealed secrets of each epoch: chunks_006/keys/<epoch>/<n>.pgp.
const (
	epochDir    = "chunks_006/keys/"
	epochSuffix = ".pgp"
	epochLimit  = 1 << 20 // bytes
)

// Secrets is where the secrets of an epoch stand, sealed to their recipients.
type Secrets struct {
	Epoch  seal.Epoch
	Key    string    // of the newest object, which counts
	Sealed time.Time // when that was stored, by the store's clock
	number uint32
}

// ListSecrets lists the epochs of a prefix, by name.
func ListSecrets(ctx context.Context, b storage.Bucket) ([]Secrets, error) {
	var list []Secrets
	for o, err := range b.List(ctx, epochDir, "") {
		if err != nil {
			return nil, err
		}
		name, file, _ := strings.Cut(strings.TrimPrefix(o.Key, epochDir), "/")
		epoch, err := seal.ParseEpoch(name)
		text, isSecret := strings.CutSuffix(file, epochSuffix)
		n, isNumber := parseNumber(text)
		if err != nil || !isSecret || !isNumber {
			continue
		}
		s := Secrets{Epoch: epoch, Key: o.Key, Sealed: o.ModTime, number: n}
		if last := len(list) - 1; last >= 0 && list[last].Epoch == epoch {
			list[last] = s
		} else {
			list = append(list, s)
		}
	}
	return list, nil
}

// Read reads the message.
func (s Secrets) Read(ctx context.Context, b storage.Bucket) ([]byte, error) {
	return storage.ReadAll(ctx, b, s.Key, epochLimit)
}

// CreateSecrets stores the first message of a new epoch. It is durable when
// CreateSecrets returns.
func CreateSecrets(ctx context.Context, b storage.Bucket, epoch seal.Epoch, message []byte) (Secrets, error) {
	return Secrets{Epoch: epoch}.create(ctx, b, message)
}

// Replace stores a further message of the same secrets, to other recipients,
// which counts from then on. The old one stays.
func (s Secrets) Replace(ctx context.Context, b storage.Bucket, message []byte) (Secrets, error) {
	s.number++
	return s.create(ctx, b, message)
}

func (s Secrets) create(ctx context.Context, b storage.Bucket, message []byte) (Secrets, error) {
	if len(message) > epochLimit {
		return Secrets{}, fmt.Errorf("secrets of epoch %s take %d bytes: at most %d", s.Epoch, len(message), epochLimit)
	}
	s.Key = epochDir + s.Epoch.String() + "/" + number(s.number) + epochSuffix
	return s, storage.CreateBytes(ctx, b, s.Key, message, nil)
}

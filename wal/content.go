package wal

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"wal-e/internal/postgres"
	"wal-e/internal/storage"
)

// PushContent stores the content of a WAL file of a system that is at hand in
// memory, as Push does with a local file. What is stored already is compared.
func PushContent(ctx context.Context, cfg Config, system postgres.SystemID, name string, content []byte) (Pushed, error) {
	if err := checkName(name); err != nil {
		return Pushed{}, err
	}
	f := bytes.NewReader(content)
	o, err := newObject(ctx, cfg, f, int64(len(content)), system)
	if err != nil {
		return Pushed{}, fmt.Errorf("wal: compress %s: %w", name, err)
	}
	if o, err = cipherOf(cfg.Bucket).encrypt(ctx, o, name, f); err != nil {
		return Pushed{}, fmt.Errorf("wal: encrypt %s: %w", name, err)
	}
	p := Pushed{Identity: o.id, Key: Key(system, name)}
	err = cfg.Bucket.Create(ctx, p.Key, o.body, o.size, nil)
	switch {
	case errors.Is(err, storage.ErrExist):
		return p, cfg.compare(ctx, p, name, f)
	case err != nil:
		return Pushed{}, fmt.Errorf("wal: push %s: %w", name, err)
	}
	p.Stored = o.stored()
	return p, nil
}

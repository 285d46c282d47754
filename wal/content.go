package wal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"

	"wal-e/internal/postgres"
	"wal-e/internal/storage"
)

// ReadContent returns the bytes of a stored file of at most postgres.MaxSegmentSize,
// proven to be what its identity and its name say. An absent one gives ErrNotFound, a
// wrong one a *DamagedError.
func ReadContent(ctx context.Context, b storage.Bucket, system postgres.SystemID, name string) ([]byte, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	var content []byte // decode bounds it by the identity, and that is bounded
	_, err := readObject(ctx, Config{Bucket: b}, Key(system, name), expectation{system, name, true}, func(piece []byte) error {
		content = append(content, piece...)
		return nil
	})
	if errors.Is(err, storage.ErrNotExist) {
		return nil, absent(b, system, name)
	}
	if err != nil {
		return nil, err
	}
	return content, nil
}

// Names lists the files of a system that are stored, in order.
func Names(ctx context.Context, b storage.Bucket, system postgres.SystemID) ([]string, error) {
	var names []string
	for o, err := range b.List(ctx, SystemPrefix(system), "") {
		if err != nil {
			return nil, fmt.Errorf("wal: list the WAL files of system %s: %w", system, err)
		}
		if name := path.Base(o.Key); o.Key == Key(system, name) && postgres.ParseWALFile(name).Kind != postgres.OtherFile {
			names = append(names, name)
		}
	}
	return names, nil
}

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

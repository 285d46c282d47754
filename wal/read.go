package wal

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"path"
	"slices"

	"wal-e/internal/postgres"
	"wal-e/internal/storage"
)

// ReadIdentity returns what the head of an object says that it holds, with one
// short request. An absent object gives storage.ErrNotExist, a header that is
// wrong a *DamagedError. Of an encrypted object the fingerprint is keyed.
func ReadIdentity(ctx context.Context, b storage.Bucket, key string) (Identity, error) {
	return withBody(ctx, b, key, sealedHeaderSize, func(r io.Reader) (Identity, error) {
		id, _, err := readHead(bufio.NewReader(r))
		return id, err
	})
}

// Verify reads a stored file and proves that it is what its identity and its name
// say. An absent one gives ErrNotFound, a wrong one a *DamagedError.
func Verify(ctx context.Context, b storage.Bucket, system postgres.SystemID, name string) (Identity, error) {
	if err := checkName(name); err != nil {
		return Identity{}, err
	}
	discard := func([]byte) error { return nil }
	id, err := readObject(ctx, Config{Bucket: b}, Key(system, name), expectation{system, name, true}, discard)
	if errors.Is(err, storage.ErrNotExist) {
		return Identity{}, absent(b, system, name)
	}
	return id, err
}

// readObject hands the plaintext of an object to sink; see decode.
func readObject(ctx context.Context, cfg Config, key string, want expectation, sink func(piece []byte) error) (Identity, error) {
	return withBody(ctx, cfg.Bucket, key, -1, func(r io.Reader) (Identity, error) {
		return cipherOf(cfg.Bucket).decodeObject(ctx, contextReader{ctx, r}, path.Base(key), want, cfg.workers(), sink)
	})
}

// withBody hands the first length bytes of an object to read and says in its
// error which object that was. Only storage.ErrNotExist of the Get itself means
// that there is none: a body that breaks off proves nothing.
func withBody(ctx context.Context, b storage.Bucket, key string, length int64, read func(io.Reader) (Identity, error)) (Identity, error) {
	body, err := b.Get(ctx, key, 0, length)
	if err != nil {
		return Identity{}, fmt.Errorf("wal: %w", err)
	}
	id, err := read(body)
	if cerr := body.Close(); err == nil {
		err = cerr
	}
	var format formatError
	var sink sinkError
	switch {
	case err == nil:
		return id, nil
	case errors.As(err, &sink):
		return Identity{}, sink.error
	case errors.As(err, &format):
		return Identity{}, &DamagedError{Object: objectURL(b, key), Err: format.error}
	case errors.Is(err, storage.ErrNotExist):
		return Identity{}, fmt.Errorf("wal: read %s: it vanished: %v", objectURL(b, key), err)
	}
	return Identity{}, fmt.Errorf("wal: read %s: %w", objectURL(b, key), err)
}

// Contains reports whether the archive holds a file of that name. It does not
// look at its content.
func Contains(ctx context.Context, b storage.Bucket, system postgres.SystemID, name string) (bool, error) {
	_, err := b.Stat(ctx, Key(system, name))
	switch {
	case errors.Is(err, storage.ErrNotExist):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("wal: look for %s: %w", name, err)
	}
	return true, nil
}

// maxStats is how many names Missing asks for one by one. A listing yields a
// thousand keys for the price of a request.
const maxStats = 8

// Missing returns those of names that the archive does not hold, sorted. It does
// not look at the content of the others.
func Missing(ctx context.Context, b storage.Bucket, system postgres.SystemID, names iter.Seq[string]) ([]string, error) {
	wanted := slices.Compact(slices.Sorted(names))
	if len(wanted) > maxStats {
		return missingOfMany(ctx, b, system, wanted)
	}
	var missing []string
	for _, name := range wanted {
		held, err := Contains(ctx, b, system, name)
		if err != nil {
			return nil, err
		}
		if !held {
			missing = append(missing, name)
		}
	}
	return missing, nil
}

// missingOfMany walks the sorted names and the listing side by side.
func missingOfMany(ctx context.Context, b storage.Bucket, system postgres.SystemID, wanted []string) ([]string, error) {
	first := Key(system, wanted[0])
	var missing []string
	for o, err := range b.List(ctx, SystemPrefix(system), first[:len(first)-1]) {
		if err != nil {
			return nil, fmt.Errorf("wal: list the WAL files from %s on: %w", wanted[0], err)
		}
		for len(wanted) > 0 && Key(system, wanted[0]) < o.Key {
			missing = append(missing, wanted[0])
			wanted = wanted[1:]
		}
		if len(wanted) > 0 && Key(system, wanted[0]) == o.Key {
			wanted = wanted[1:]
		}
		if len(wanted) == 0 {
			break
		}
	}
	return append(missing, wanted...), nil
}

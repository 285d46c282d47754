package wal

import (
	"context"
	"fmt"
	"strings"

	"wal-e/internal/postgres"
	"wal-e/internal/storage"
)

// Prefix is what the keys of all WAL files begin with.
const Prefix = "wal_006/"

// SystemPrefix returns what the keys of a system's WAL files begin with.
func SystemPrefix(system postgres.SystemID) string { return Prefix + system.String() + "/" }

// Key returns the key of a WAL file, whatever its compression or encryption.
func Key(system postgres.SystemID, name string) string { return SystemPrefix(system) + name }

// checkName refuses what cannot be a file of pg_wal. It knows the name before
// the system, and no system identifier has more than 20 digits.
func checkName(name string) error {
	if strings.Contains(name, "/") {
		return fmt.Errorf("wal: %q is not the name of a WAL file: it holds a slash", name)
	}
	if err := storage.CheckKey(Key(1<<64-1, name)); err != nil {
		return fmt.Errorf("wal: %q is not the name of a WAL file: %w", name, err)
	}
	return nil
}

// objectURL names an object for people.
func objectURL(b storage.Bucket, key string) string { return b.URL() + "/" + key }

// Systems returns the system identifiers that b holds WAL files of, in the order
// of their keys. It takes one short listing per identifier, however many files
// there are.
func Systems(ctx context.Context, b storage.Bucket) ([]postgres.SystemID, error) {
	var systems []postgres.SystemID
	for after := ""; ; {
		folder, err := nextFolder(ctx, b, after)
		if err != nil {
			return nil, fmt.Errorf("wal: list the systems in %s: %w", b.URL(), err)
		}
		if folder == "" {
			return systems, nil
		}
		// What is stored under any other name is none of ours.
		if system, err := postgres.ParseSystemID(folder); err == nil {
			systems = append(systems, system)
		}
		// "0" is the byte after "/": every key of this folder is before it, and
		// every key of a later one is behind.
		after = Prefix + folder + "0"
	}
}

// nextFolder returns the first folder of WAL files behind the key after.
func nextFolder(ctx context.Context, b storage.Bucket, after string) (string, error) {
	for o, err := range b.List(ctx, Prefix, after) {
		if err != nil {
			return "", err
		}
		if folder, _, ok := strings.Cut(strings.TrimPrefix(o.Key, Prefix), "/"); ok {
			return folder, nil
		}
	}
	return "", nil
}

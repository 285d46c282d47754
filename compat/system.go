package compat

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"wal-e/internal/postgres"
	"wal-e/internal/storage"
)

// System returns the system identifier of the cluster whose segment was archived
// last in the classic layout. Without any segment the error wraps
// storage.ErrNotExist.
func System(ctx context.Context, b storage.Bucket, decrypt Decrypt) (postgres.SystemID, error) {
	id, _, err := Cluster(ctx, b, decrypt)
	return id, err
}

// Cluster is System, and returns the size of the cluster's segments as well.
func Cluster(ctx context.Context, b storage.Bucket, decrypt Decrypt) (id postgres.SystemID, size postgres.SegmentSize, err error) {
	var name string
	var newest time.Time
	for o, err := range b.List(ctx, walFolder, "") {
		if err != nil {
			return 0, 0, fmt.Errorf("compat: list WAL: %w", err)
		}
		k := ParseKey(o.Key)
		if k.Kind == WAL && postgres.ParseWALFile(k.File).Kind == postgres.SegmentFile && (name == "" || o.ModTime.After(newest)) {
			name, newest = k.File, o.ModTime
		}
	}
	if name == "" {
		return 0, 0, fmt.Errorf("compat: no WAL segment in %s of %s: %w", walFolder, b.URL(), storage.ErrNotExist)
	}
	r, err := openObject(ctx, b, WALKey(name), decrypt, 1)
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	head := make([]byte, postgres.WALHeaderSize)
	if _, err := io.ReadFull(r, head); err != nil {
		return 0, 0, about(b, WALKey(name), err)
	}
	h, err := postgres.ParseWALHeader(head)
	if err != nil {
		return 0, 0, about(b, WALKey(name), err)
	}
	return h.SystemID, h.SegmentSize, nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"wal-e/chunkstore"
	"wal-e/compat"
	"wal-e/internal/postgres"
	"wal-e/internal/storage"
)

// requireDedup makes sure that the archive is to be written in our layout:
// because WALE_LAYOUT says so, or because that is what it holds, or nothing.
func (s *session) requireDedup(ctx context.Context, b storage.Bucket) error {
	switch s.layout {
	case compat.Dedup:
		return nil
	case compat.Classic:
		return &message{
			text: fmt.Sprintf("WALE_LAYOUT: writing the classic layout is %v", errNotBuilt),
			hint: switchHint,
			err:  errNotBuilt,
		}
	}
	contents, err := compat.Detect(ctx, b)
	switch {
	case err != nil:
		return &message{
			text:   "cannot tell which layout the archive has",
			detail: err.Error(),
			hint:   "WALE_LAYOUT=dedup says that it is not to be a classic one.",
			err:    err,
		}
	case contents.Layout() == compat.Dedup:
		return nil
	}
	return &message{
		text: fmt.Sprintf("%s holds a classic archive, and writing the classic layout is %v", s.prefix, errNotBuilt),
		hint: switchHint,
		err:  errNotBuilt,
	}
}

const switchHint = "Set WALE_LAYOUT=dedup to begin the new layout beside the classic one, and push a base backup at once: " +
	"WAL that is archived from then on is not seen by classic WAL-E, so classic base backups can be recovered " +
	"up to that moment only. Or keep to classic WAL-E for this prefix."

// admission returns the function that wal-push asks whether the archive takes
// WAL of a system. Once the archive has said so, the answer is known on this
// host, and pushing a segment costs one request.
func (s *session) admission(b storage.Bucket) func(context.Context, postgres.SystemID) error {
	return func(ctx context.Context, system postgres.SystemID) error {
		known := filepath.Join(s.prefixStatePath(), "admitted-"+system.String())
		if _, err := os.Stat(known); err == nil && s.layout != compat.Classic {
			return nil
		}
		if err := s.requireDedup(ctx, b); err != nil {
			return err
		}
		if _, err := chunkstore.Admit(ctx, b, uint64(system), s.allowNewCluster); err != nil {
			var unknown *chunkstore.UnknownSystemError
			if errors.As(err, &unknown) {
				return err
			}
			return fmt.Errorf("may %s archive here: %w", system, err)
		}
		_, err := s.prefixState()
		if err == nil {
			err = os.WriteFile(known, nil, 0o600)
		}
		if err != nil {
			s.log.WarnContext(ctx, "no local state, so each segment takes more requests", "detail", err.Error())
		}
		return nil
	}
}

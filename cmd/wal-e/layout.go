package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"wal-e/chunkstore"
	"wal-e/compat"
	"wal-e/internal/fault"
	"wal-e/internal/postgres"
	"wal-e/internal/storage"
)

// requireDedup makes sure that the archive is one of our layout: because
// WALE_LAYOUT says so, or because that is what it holds, or nothing. It is for what
// can't be done in a classic archive.
func (s *session) requireDedup(ctx context.Context, b storage.Bucket) error {
	switch s.layout {
	case compat.Dedup:
		return nil
	case compat.Classic:
		return &message{
			kind: fault.NotClassic,
			text: fmt.Sprintf("WALE_LAYOUT: doing this in the classic layout is %v", errNotBuilt),
			hint: switchHint,
			err:  errNotBuilt,
		}
	}
	contents, err := compat.Detect(ctx, b)
	switch {
	case err != nil:
		return layoutUnknown(err)
	case contents.Layout() == compat.Dedup:
		return nil
	}
	return &message{
		kind: fault.NotClassic,
		text: fmt.Sprintf("%s holds a classic archive, and doing this in it is %v", s.prefix, errNotBuilt),
		hint: switchHint,
		err:  errNotBuilt,
	}
}

// layoutUnknown is the error of looking for what an archive holds. What to do is in
// the cause: who can't look can't do anything with WALE_LAYOUT either.
func layoutUnknown(err error) error {
	return &message{kind: fault.Unclear, text: "cannot tell which layout the archive has", detail: err.Error(), err: err}
}

const switchHint = "wal-e upgrade-layout --confirm begins the new layout beside the classic one."

// admission returns the function that wal-push asks whether the archive takes
// WAL of a system. Once the archive has said so, the answer is known on this
// host, and pushing a segment costs one request.
//
// A host that stores in the clear also asks whether others encrypt, when it asks
// for the first time and once a day from then on.
func (s *session) admission(b storage.Bucket) func(context.Context, postgres.SystemID) error {
	plain := !s.encryption.on()
	return func(ctx context.Context, system postgres.SystemID) error {
		if info, err := os.Stat(s.admitted(system)); err == nil && s.layout != compat.Classic {
			if err := s.checkMounted(); err != nil || !plain || time.Since(info.ModTime()) < plainTrusted {
				return err
			}
			if err := s.checkPlain(ctx, b); err != nil {
				return err
			}
			s.remember(ctx, system)
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
		if plain {
			if err := s.checkPlain(ctx, b); err != nil {
				return err
			}
		}
		s.remember(ctx, system)
		return nil
	}
}

// admitted is the file that says that the archive takes WAL of a system.
func (s *session) admitted(system postgres.SystemID) string {
	return filepath.Join(s.prefixStatePath(), "admitted-"+system.String())
}

// plainTrusted is how long WAL goes to an archive in the clear before it is looked
// again whether others encrypt what they store there.
const plainTrusted = 24 * time.Hour

// remember notes that the archive takes WAL of a system, and when it said so.
func (s *session) remember(ctx context.Context, system postgres.SystemID) {
	_, err := s.prefixState()
	if err == nil {
		err = os.WriteFile(s.admitted(system), nil, 0o600)
	}
	if err == nil {
		now := time.Now()
		err = os.Chtimes(s.admitted(system), now, now)
	}
	if err != nil {
		s.log.WarnContext(ctx, "no local state, so each segment takes more requests", "detail", err.Error())
	}
}

// checkMounted makes sure that file storage that this host has archived to is
// there. A mount point without its file system is an empty directory, or none,
// and WAL that went there is lost when the server recycles it.
func (s *session) checkMounted() error {
	if s.prefix.scheme != "file" {
		return nil
	}
	_, err := os.Stat(filepath.Join(s.prefix.dir(), "chunks_006", "config"))
	if errors.Is(err, fs.ErrNotExist) {
		return s.emptyArchive()
	}
	return err
}

// checkKnown makes sure that an archive that this host has pushed to is still
// one, before a base backup begins a new one in its place.
func (s *session) checkKnown(ctx context.Context, b storage.Bucket) error {
	known, err := filepath.Glob(filepath.Join(s.prefixStatePath(), "admitted-*"))
	if err != nil || len(known) == 0 {
		return err
	}
	if _, err := chunkstore.LoadPrefix(ctx, b); errors.Is(err, chunkstore.ErrNoPrefix) {
		return s.emptyArchive()
	}
	return nil // whatever else is wrong shows when it is used
}

func (s *session) emptyArchive() error {
	return &message{
		kind:   fault.Unmounted,
		text:   fmt.Sprintf("the archive %s is empty", s.prefix),
		detail: "It holds nothing of ours; a file system that isn't mounted looks like that.",
		hint: "Check that its file system is mounted and that the prefix is right. If the archive was removed on purpose, remove " +
			s.prefixStatePath() + " to begin a new one.",
	}
}

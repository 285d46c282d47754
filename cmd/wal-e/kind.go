package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"syscall"

	"wal-e/backup"
	"wal-e/chunkstore"
	"wal-e/compat"
	"wal-e/compat/lzop"
	"wal-e/gc"
	"wal-e/index"
	"wal-e/internal/drill"
	"wal-e/internal/envelope"
	"wal-e/internal/fault"
	"wal-e/internal/openpgp"
	"wal-e/internal/postgres"
	"wal-e/internal/seal"
	"wal-e/internal/storage"
	"wal-e/internal/storage/azure"
	"wal-e/internal/storage/gcs"
	"wal-e/internal/storage/swift"
	"wal-e/wal"
)

// kindOf says in which situation err leaves the user. It is the only place that
// turns an error into a number.
func kindOf(err error) fault.Kind {
	if m := (*message)(nil); errors.As(err, &m) && m.kind != 0 {
		if m.err != nil {
			if cause := kindOf(m.err); keepsAnyone(cause) {
				return cause
			}
		}
		return m.kind
	}
	if k := fault.Of(err); k != 0 {
		return k
	}
	for _, s := range situations() {
		if s.is(err) {
			return s.kind
		}
	}
	return fault.Other
}

// keepsAnyone reports whether k would fail any command at this moment: that is what
// to mend, whatever it was in the way of.
func keepsAnyone(k fault.Kind) bool {
	switch k {
	case fault.Denied, fault.Refused, fault.Unreachable, fault.Untrusted, fault.Credentials, fault.LocalSpace:
		return true
	}
	return false
}

// A situation is how to tell a kind by the error itself.
type situation struct {
	kind fault.Kind
	is   func(error) bool
}

// situations lists those of errors that callers branch on. The first that fits
// counts, so what tells more stands before what tells less.
func situations() []situation {
	return []situation{
		{fault.Usage, as[*usageError]},
		{fault.Usage, wraps(errNoSubcommand)},
		{fault.Interrupted, as[*stopped]},
		{fault.Attention, wraps(errCheckFailed)},

		{fault.WALConflict, as[*wal.ConflictError]},
		{fault.WALConflict, wraps(compat.ErrConflict)},
		{fault.WALDamaged, as[*wal.DamagedError]},
		{fault.WALDamaged, wraps(compat.ErrBadWAL)},
		{fault.WALGap, wraps(wal.ErrNotFound)},
		{fault.NoHostKeys, wraps(wal.ErrNoEpochKey)},
		{fault.BadMessage, wraps(wal.ErrBadMessage, openpgp.ErrDamaged, seal.ErrForged, compat.ErrDamagedMessage)},
		{fault.NoSecretKey, wraps(openpgp.ErrNoKey, seal.ErrNoPrivateKey, compat.ErrUndecipherable)},

		{fault.Deleted, wraps(backup.ErrDeleted)},
		{fault.Problems, wraps(backup.ErrProblems)},
		{fault.NoEntry, wraps(backup.ErrNoEntry)},
		{fault.NoBackup, wraps(backup.ErrBadQuery, gc.ErrNotBackup, chunkstore.ErrNoPrefix)},
		{fault.Busy, wraps(backup.ErrBusy, index.ErrLocked)},
		{fault.Fenced, wraps(chunkstore.ErrFenced, chunkstore.ErrCondemned)},
		{fault.OtherCluster, as[*chunkstore.UnknownSystemError]},
		{fault.LostData, as[*chunkstore.PackError]},
		{fault.LostData, as[*chunkstore.ChunkError]},
		{fault.Newer, as[*envelope.VersionError]},
		{fault.Damaged, wraps(chunkstore.ErrDamaged, index.ErrDamaged, envelope.ErrDamaged)},

		{fault.NotClassic, wraps(errNotBuilt)},
		{fault.Incomplete, wraps(compat.ErrIncomplete)},
		{fault.BadMember, wraps(compat.ErrNotClassic, compat.ErrBadMember, lzop.ErrFormat, lzop.ErrDamaged, lzop.ErrUnsupported)},

		{fault.DrillFailed, wraps(drill.ErrCorrupt)},
		{fault.NoServer, wraps(postgres.ErrSessionLost)},
		{fault.BadControl, wraps(postgres.ErrControlFileChecksum)},

		{fault.Credentials, as[*azure.FieldError]},
		{fault.Credentials, as[*gcs.FieldError]},
		{fault.Credentials, as[*swift.MissingError]},
		{fault.Unmounted, as[*unmountedError]},
		{fault.WeakStore, wraps(gc.ErrWeakStore, storage.ErrUnsettled)},
		{fault.Denied, wraps(storage.ErrPermission)},
		{fault.Absent, wraps(storage.ErrNotExist)},
		{fault.NameTaken, wraps(storage.ErrExist)},
		{fault.Refused, wraps(storage.ErrInvalid, storage.ErrSize, storage.ErrNoMeta, errors.ErrUnsupported)},

		{fault.LocalSpace, wraps(wal.ErrNoRoom, syscall.ENOSPC, syscall.EDQUOT)},
		{fault.OutOfTime, wraps(context.DeadlineExceeded)},
		{fault.LocalFile, wraps(fs.ErrNotExist, fs.ErrPermission)},
		{fault.LocalFile, as[*fs.PathError]},
		{fault.LocalFile, as[*os.LinkError]},
		{fault.LocalFile, as[*os.SyscallError]},
	}
}

// wraps tells errors that wrap one of targets.
func wraps(targets ...error) func(error) bool {
	return func(err error) bool {
		for _, t := range targets {
			if errors.Is(err, t) {
				return true
			}
		}
		return false
	}
}

// as tells errors that wrap one of type T.
func as[T error](err error) bool {
	var t T
	return errors.As(err, &t)
}

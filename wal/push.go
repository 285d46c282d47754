package wal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"time"

	"wal-e/internal/postgres"
	"wal-e/internal/storage"
)

// Config holds what Push and Fetch need. Bucket is required; the zero value of
// the rest is usable.
type Config struct {
	Bucket storage.Bucket

	// System is the cluster whose files these are, when the caller knows. Zero
	// means: what the files say; see Push and Fetch.
	System postgres.SystemID
	// WorkDir is where global/pg_control is looked for, "" the working directory,
	// which for a command that PostgreSQL starts is the data directory.
	WorkDir string

	// Admit is asked before anything is stored whether this archive takes files
	// of that system; its error is what Push fails with. Nil takes all.
	Admit func(ctx context.Context, system postgres.SystemID) error
	// Found is called by Fetch once the first bytes of the file have come, and are
	// what they should be. Nil does nothing.
	Found func()
	// Level is the zstd level of new objects, 1 (fastest) to 22; 0 means 1.
	Level int

	Workers int          // pieces of one file (de)compressed at once; 0 means 4, but no more than there are cores
	Log     *slog.Logger // nil discards
	// Compressors are those to use for files that are held in memory, up to 64 MiB;
	// nil makes one for each.
	Compressors *Compressors

	hook func(op, path string) error // seen before each change to the file system by tests; may be nil
}

func (cfg Config) log() *slog.Logger {
	if cfg.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return cfg.Log
}

// A Pushed says what Push did.
type Pushed struct {
	Identity
	Key    string
	Stored int64 // bytes sent; 0 if the archive held the file already
}

// Push archives the file at path under the last element of path. When it returns
// nil, the bytes of the file are durable in the archive: stored now, or by an
// earlier push. When the archive holds other bytes under that name the error is
// a *ConflictError, and when it can't be told what it holds, a *DamagedError. The
// local file's own errors keep their *fs.PathError.
//
// The system identifier of a segment, .partial ones included, is in the file. For
// every other name it is in global/pg_control beside the folder of the file, else
// in that of Config.WorkDir.
func Push(ctx context.Context, cfg Config, path string) (Pushed, error) {
	began := time.Now()
	name := filepath.Base(path)
	if err := checkName(name); err != nil {
		return Pushed{}, err
	}
	f, err := openLocal(path)
	if err != nil {
		return Pushed{}, fmt.Errorf("wal: push %s: %w", name, err)
	}
	defer f.Close() // only read
	system, err := cfg.localSystem(ctx, path, f)
	if err != nil {
		return Pushed{}, err
	}
	if cfg.Admit != nil {
		if err := cfg.Admit(ctx, system); err != nil {
			return Pushed{}, fmt.Errorf("wal: push %s of system %s: %w", name, system, err)
		}
	}
	o, err := newObject(ctx, cfg, f, f.info.Size(), system)
	if err == nil {
		err = f.unchanged()
	}
	if err != nil {
		return Pushed{}, fmt.Errorf("wal: read %s: %w", path, err)
	}
	if o, err = cipherOf(cfg.Bucket).encrypt(ctx, o, name, f); err != nil {
		return Pushed{}, fmt.Errorf("wal: encrypt %s: %w", path, err)
	}
	p := Pushed{Identity: o.id, Key: Key(system, name)}
	err = cfg.Bucket.Create(ctx, p.Key, o.body, o.size, nil)
	switch {
	case errors.Is(err, storage.ErrExist):
		if err := cfg.compare(ctx, p, path, f); err != nil {
			return Pushed{}, err
		}
	case err != nil:
		return Pushed{}, fmt.Errorf("wal: push %s: %w", name, err)
	default:
		p.Stored = o.stored()
	}
	cfg.log().DebugContext(ctx, "wal file archived",
		"file", name, "key", p.Key, "bytes", p.Length, "stored", p.Stored, "held", p.Stored == 0, "took", time.Since(began))
	return p, nil
}

// compare returns nil if what is stored under the key is what was to be pushed.
func (cfg Config) compare(ctx context.Context, p Pushed, path string, f io.ReaderAt) error {
	stored, err := ReadIdentity(ctx, cfg.Bucket, p.Key)
	if errors.Is(err, storage.ErrNotExist) {
		// Nodes of a store that were apart may not agree for a while on a push
		// that broke off.
		return fmt.Errorf("wal: the storage says that %s exists when it is created, and that it doesn't when it is read: push it again: %w",
			objectURL(cfg.Bucket, p.Key), err)
	}
	if err != nil {
		return err
	}
	local := p.Identity
	if stored.Epoch != (Epoch{}) {
		if local, err = cipherOf(cfg.Bucket).keyed(local, filepath.Base(p.Key), stored.Epoch); err != nil {
			return fmt.Errorf("wal: %s is encrypted, and whether it is %s can't be told: %w: bring it here with `wal-e key export-host` on a host that has it",
				objectURL(cfg.Bucket, p.Key), path, err)
		}
	}
	if stored.equal(local) {
		return nil
	}
	conflict := &ConflictError{
		Path:   path,
		Object: objectURL(cfg.Bucket, p.Key),
		Local:  local,
		Stored: stored,
	}
	if postgres.ParseWALFile(filepath.Base(path)).Kind == postgres.HistoryFile {
		cfg.addTexts(ctx, conflict, p.Key, f)
	}
	return conflict
}

// maxText is how much of a history file is shown; a real one has a line of some
// 60 bytes for each timeline.
const maxText = 64 << 10

// addTexts adds what both history files say. That the stored one can't be read
// is no reason to say less about the conflict.
func (cfg Config) addTexts(ctx context.Context, e *ConflictError, key string, f io.ReaderAt) {
	e.LocalText = make([]byte, min(e.Local.Length, maxText))
	n, _ := f.ReadAt(e.LocalText, 0)
	e.LocalText = e.LocalText[:n]
	if e.Stored.Length > maxText {
		return
	}
	var text bytes.Buffer
	if _, err := readObject(ctx, cfg, key, expectation{}, func(piece []byte) error {
		text.Write(piece)
		return nil
	}); err != nil {
		cfg.log().WarnContext(ctx, "stored history file is not readable", "key", key, "error", err)
		return
	}
	e.StoredText = text.Bytes()
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"wal-e/compat"
	"wal-e/internal/fault"
	"wal-e/internal/storage"
)

// layoutToWrite returns the layout to write in: what WALE_LAYOUT says, else what the
// archive has. It never guesses: an archive that was a classic one and is empty now
// is not there.
func (s *session) layoutToWrite(ctx context.Context, b storage.Bucket) (compat.Layout, error) {
	if s.layout == compat.Dedup {
		return compat.Dedup, nil
	}
	if s.layout == "" {
		// The archive has taken WAL of this host in our layout, and never goes back.
		if known, err := filepath.Glob(filepath.Join(s.prefixStatePath(), "admitted-*")); err == nil && len(known) > 0 {
			return compat.Dedup, nil
		}
	}
	contents, err := compat.Detect(ctx, b)
	if err != nil {
		return "", layoutUnknown(err)
	}
	if _, err := os.Stat(s.classicMark()); err == nil && contents.Empty() {
		return "", s.emptyArchive()
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.DebugContext(ctx, "no local state", "error", err)
	}
	if s.layout == compat.Classic {
		return compat.Classic, nil
	}
	return contents.Layout(), nil
}

// classicMark is the file that says that this host has written to the archive in
// the classic layout.
func (s *session) classicMark() string { return filepath.Join(s.prefixStatePath(), "classic") }

// rememberClassic makes it. That it can't costs only what layoutToWrite knows of
// archives that aren't there.
func (s *session) rememberClassic(ctx context.Context) {
	if _, err := os.Stat(s.classicMark()); err == nil {
		return
	}
	_, err := s.prefixState()
	if err == nil {
		err = os.WriteFile(s.classicMark(), nil, 0o600)
	}
	if err != nil {
		s.log.DebugContext(ctx, "no local state", "error", err)
	}
}

// layoutOnce returns a function that asks s.layoutToWrite once, however many files are
// pushed side by side.
func (s *session) layoutOnce(b storage.Bucket) func(context.Context) (compat.Layout, error) {
	var mu sync.Mutex
	var layout compat.Layout
	return func(ctx context.Context) (_ compat.Layout, err error) {
		mu.Lock()
		defer mu.Unlock()
		if layout == "" {
			layout, err = s.layoutToWrite(ctx, b)
		}
		return layout, err
	}
}

// pushClassicFile pushes a WAL file in the classic layout, with the records of
// classic WAL-E.
func (s *session) pushClassicFile(ctx context.Context, b storage.Bucket, path string, workers int) error {
	name := filepath.Base(path)
	key := compat.WALKey(name)
	log := s.log.With("logger", "wal_e.worker.upload")
	began := time.Now()
	log.InfoContext(ctx, "begin archiving a file", append(s.transfer("push-wal", name, key, "begin"),
		"detail", fmt.Sprintf("Uploading %q to %q.", path, b.URL()+"/"+key))...)
	if workers == 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	pushed, err := s.storeClassicFile(ctx, b, path, workers)
	if err != nil {
		return err
	}
	s.rememberClassic(ctx)
	rate := kibPerSecond(pushed.Stored, time.Since(began))
	detail := fmt.Sprintf("Archiving to %q complete at %sKiB/s.", b.URL()+"/"+key, rate)
	if pushed.Stored == 0 {
		detail = fmt.Sprintf("%q was archived before, with the same content.", b.URL()+"/"+key)
	}
	log.InfoContext(ctx, "completed archiving to a file", append(s.transfer("push-wal", name, key, "complete"), "rate", rate, "detail", detail)...)
	return nil
}

// storeClassicFile stores a WAL file, encrypted where keys are set.
func (s *session) storeClassicFile(ctx context.Context, b storage.Bucket, path string, workers int) (compat.PushedWAL, error) {
	cfg := compat.WALConfig{Bucket: b, Decrypt: s.decryptClassic, Workers: workers}
	if !s.encryption.on() {
		return compat.PushWAL(ctx, cfg, path)
	}
	m, err := s.classicMessage(ctx, path)
	if err != nil {
		return compat.PushedWAL{}, fmt.Errorf("push %s: %w", filepath.Base(path), err)
	}
	cfg.Encrypt, cfg.Decrypt = m.encrypt, m.decrypt
	pushed, err := compat.PushWAL(ctx, cfg, path)
	if !errors.Is(err, compat.ErrDamagedMessage) {
		return pushed, err
	}
	// It is stored, and not by this host: only the private key can tell what it is.
	cfg.Decrypt = s.decryptClassic
	if pushed, err = compat.PushWAL(ctx, cfg, path); err != nil && !errors.Is(err, compat.ErrConflict) && ctx.Err() == nil {
		return pushed, &message{
			kind:   fault.WALConflict,
			text:   fmt.Sprintf("%s is archived already, encrypted, and whether it is the same file can't be told without the private key", filepath.Base(path)),
			detail: err.Error(), err: err,
			hint: "Nothing was replaced. Compare it on a host that has the key; if it is not needed, remove " + b.URL() + "/" + compat.WALKey(filepath.Base(path)) + ".",
		}
	}
	return pushed, err
}

// pushClassicBackup takes a base backup in the classic layout.
func pushClassicBackup(ctx context.Context, s *session, b storage.Bucket, f pushFlags, dir string) error {
	for _, o := range []struct {
		name string
		set  bool
	}{{"--include-logs", f.includeLogs}, {"--fail-on-corruption", f.failOnCorruption}} {
		if o.set {
			return &message{
				kind: fault.NotClassic,
				text: fmt.Sprintf("%s is not for the classic layout, in which this archive is", o.name),
				hint: "Leave it away; the classic layout always has the log folder, and page checksums are not verified for it.",
			}
		}
	}
	s.log.InfoContext(ctx, "the archive keeps the classic layout, which stores each backup whole",
		"hint", "wal-e upgrade-layout --confirm switches it to the one that stores what is new only.")
	encrypt, err := s.encryptClassic(ctx)
	if err != nil {
		return err
	}
	meter, stop := s.meter(ctx)
	defer stop()
	report, err := compat.Push(ctx, compat.PushConfig{
		Bucket: b, Encrypt: encrypt, Dir: dir, Offline: f.whileOffline, FastCheckpoint: f.checkpoint == "fast", SkipLinks: f.skipLinks,
		Workers: f.poolSize, ReadRate: int64(f.readRate), WALTimeout: f.walTimeout, Log: s.log.With("logger", "wal_e.operator.backup"), Progress: meter,
	})
	stop()
	if err != nil {
		return err
	}
	s.rememberClassic(ctx)
	if f.json {
		return json.NewEncoder(s.stdout).Encode(report)
	}
	return printClassicPushed(s.stdout, report)
}

func printClassicPushed(w io.Writer, r *compat.PushReport) error {
	_, err := fmt.Fprintf(w, "%s\n  classic layout: %s with %s, %s; %s stored; %.1f s\n",
		r.Name, counted(r.Partitions, "partition"), counted(r.Files, "file"), bytesText(r.Bytes), bytesText(r.Stored), r.Seconds)
	return err
}

package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"wal-e/internal/fault"
	"wal-e/internal/postgres"
)

// plan works out what a fetch does, and refuses what can't be done. It changes
// nothing.
func (f *fetcher) plan(ctx context.Context) error {
	for _, err := range f.b.Unreadable {
		f.warn(ctx, "another backup can't be read", err.Error()+".", "It may be the one that was meant. Run `wal-e verify --all`.")
	}
	if err := checkNoServer(f.dir); err != nil {
		return err
	}
	if err := f.look(); err != nil {
		return err
	}
	if err := f.planSpaces(ctx); err != nil {
		return err
	}
	if err := f.planWAL(); err != nil {
		return err
	}
	if err := f.checkApart(); err != nil {
		return err
	}
	if err := f.planOwner(ctx); err != nil {
		return err
	}
	if err := f.planRecovery(ctx); err != nil {
		return err
	}
	f.checkSpace(ctx)
	return nil
}

// look looks at the directory: is it fresh, or an unfinished fetch?
func (f *fetcher) look() error {
	var err error
	if f.marker, err = readMarker(f.dir); err != nil {
		return err
	}
	if f.marker == nil {
		if f.found, err = f.inspect(); err != nil {
			return err
		}
		f.report.KeptConfig, f.before = f.found.kept, f.found.control
		if f.delta {
			f.report.Delta = &DeltaReport{}
		}
		return nil
	}
	f.found = &inspection{exists: true, kept: f.marker.Kept}
	f.report.KeptConfig = f.marker.Kept
	if f.delta = f.marker.Delta; f.delta {
		f.before, f.report.Delta = f.marker.Control, &DeltaReport{}
	}
	f.report.Resumed = 0
	return f.marker.check(f.dir, f.b)
}

// planWAL decides where pg_wal is.
func (f *fetcher) planWAL() error {
	name := walDirectory(f.version)
	if f.marker != nil {
		f.report.WALDir = f.marker.WALDir
		if d := f.cfg.WALDir; d != "" && filepath.Clean(d) != f.marker.WALDir {
			return fault.TargetInUse.Errorf("this fetch was begun with WAL in %q: it can't go on with %s", f.marker.WALDir, d)
		}
		return nil
	}
	if f.found.wal != "" && f.found.wal != name {
		return fault.TargetInUse.Errorf("%s has %s, but PostgreSQL %s keeps WAL in %s: move it away", f.dir, f.found.wal, f.version.Major(), name)
	}
	f.report.WALDir = f.found.toWAL
	d := f.cfg.WALDir
	if d == "" {
		return nil
	}
	if !filepath.IsAbs(d) {
		return fault.TargetInUse.Errorf("WAL directory %q: want an absolute path", d)
	}
	d = filepath.Clean(d)
	if f.found.wal != "" && filepath.Clean(f.found.toWAL) != d {
		return fault.TargetInUse.Errorf("%s is there already and doesn't lead to %s: remove it, or leave the WAL directory away", filepath.Join(f.dir, name), d)
	}
	if f.delta && f.found.wal != "" {
		f.report.WALDir = d
		return nil
	}
	if err := checkEmpty(d, "archive_status", "summaries"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("WAL directory: %w", err)
	}
	f.report.WALDir = d
	return nil
}

// planRecovery works out the settings of a recovery.
func (f *fetcher) planRecovery(ctx context.Context) error {
	r, m := f.cfg.Recover, f.b.Manifest
	if r == nil {
		f.adviseStart()
		return nil
	}
	if err := r.checkFor(f.version); err != nil {
		return err
	}
	p, err := r.resolve(ctx, f.b)
	if err != nil {
		return err
	}
	if m.Kind == Offline && r.Target.Kind == TargetImmediate {
		return fault.BadTarget.Errorf("an offline backup is consistent as it is: fetch it without a recovery")
	}
	f.report.Recovery = r.report(f.version, p, f.blind())
	if f.report.Recovery.File == recoveryConf && f.isKept(recoveryConf, false) {
		return fault.BadTarget.Errorf("%s has a recovery.conf: move it away, or replace it with --overwrite-config", f.dir)
	}
	if len(p.beside) > 0 && !r.Standby {
		f.warn(ctx, "the archive has several branches after this backup",
			fmt.Sprintf("Recovery goes to timeline %d, the highest. Timelines %s branch off and are not on its way.", p.timeline, timelineList(p.beside)),
			"If one of those is meant, fetch again with its number as target timeline.")
	}
	if k := r.Target.Kind; f.version < postgres.V13 && k != TargetEnd && k != TargetImmediate {
		f.warn(ctx, "a target that isn't reached goes unnoticed",
			"Before 13, PostgreSQL promotes at the end of the WAL without a word when it didn't meet the recovery target.",
			"After the recovery, look in its log for 'recovery stopping'.")
	}
	if !r.keepsArchiving() {
		f.next("archive_mode is off in the restored cluster, so that it can't archive into the original's place. To archive again, remove the line from %s.", autoConf)
	}
	return nil
}

// adviseStart says what a fetch without recovery leaves to the operator.
func (f *fetcher) adviseStart() {
	m := f.b.Manifest
	if m.Kind != Offline && !f.report.WithWAL {
		f.next("The cluster starts only with the WAL from %s to %s: set restore_command and make recovery.signal (before 12: recovery.conf), or fetch with --recover or --with-wal.",
			m.StartLSN, m.StopLSN)
	}
	if f.blind() && f.version >= postgres.V15 {
		f.next("Tablespaces are plain directories in pg_tblspc: set allow_in_place_tablespaces = on, or recovery fails.")
	}
}

// checkSpace warns when a file system has less room than the cluster takes. It
// doesn't refuse: file systems compress, and holes take nothing.
func (f *fetcher) checkSpace(ctx context.Context) {
	if f.marker != nil || f.delta || len(f.spaces) > f.countBlind() {
		return // some of it is there, or goes elsewhere
	}
	at := f.dir
	for !exists(at) && at != filepath.Dir(at) {
		at = filepath.Dir(at)
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs(at, &st); err != nil {
		return // it is only advice
	}
	if free := int64(st.Bavail) * int64(st.Bsize); free < f.b.Manifest.Bytes {
		f.warn(ctx, "the cluster may not fit", fmt.Sprintf("It has %d bytes, and %s has %d left.", f.b.Manifest.Bytes, at, free),
			"If the disk fills, make room and run the same command again: it goes on.")
	}
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}

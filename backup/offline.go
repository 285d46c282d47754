package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"wal-e/internal/fault"
	"wal-e/internal/postgres"
)

// offline takes a backup of a stopped cluster. The segments that hold the
// shutdown checkpoint are never archived, and without them the server won't
// start, so the backup carries them.
func (p *pusher) offline(ctx context.Context) (*PushResult, error) {
	if err := p.checkStopped(); err != nil {
		return nil, err
	}
	if err := CheckReadable(ctx, p.selection()); err != nil {
		return nil, err
	}
	if err := p.open(ctx); err != nil {
		return nil, err
	}
	start, stop := p.control.RecoveryWAL()
	if err := p.begin(ctx, p.control.Checkpoint.Timeline, start); err != nil {
		return nil, err
	}
	p.manifest.Kind = Offline
	p.manifest.ServerVersion = int(p.version)
	p.manifest.StopLSN = stop.String()
	result, err := p.offlineRun(ctx)
	if err != nil {
		return nil, p.abort(ctx, err)
	}
	return result, nil
}

// offlineRun is what happens between the intent and the outcome.
func (p *pusher) offlineRun(ctx context.Context) (*PushResult, error) {
	if err := p.copyFiles(ctx, p.selection()); err != nil {
		return nil, err
	}
	if err := p.checkStopped(); err != nil {
		return nil, err
	}
	before := *p.control
	if err := p.copyControl(ctx); err != nil {
		return nil, err
	}
	if *p.control != before {
		return nil, fault.Changed.Errorf("the cluster was started while it was backed up")
	}
	p.manifest.Stopped = p.cfg.Now().UTC()
	return p.commit(ctx)
}

// checkStopped makes sure that no server runs on the data directory and that
// the last one shut down cleanly.
func (p *pusher) checkStopped() error {
	_, err := os.Lstat(filepath.Join(p.dir, "postmaster.pid"))
	if err == nil {
		return fault.Running.Errorf("%s has a postmaster.pid: a server may be running; stop it, or leave --while-offline away", p.dir)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if s := p.control.State; s != postgres.ShutDown && s != postgres.ShutDownInRecovery {
		return fault.Running.Errorf("pg_control says that the cluster is %q: start it and shut it down cleanly before an offline backup", s)
	}
	return nil
}

// walSources returns the WAL segments that an offline backup carries.
func (p *pusher) walSources() ([]source, error) {
	start, stop := p.control.RecoveryWAL()
	size := p.control.WALSegmentSize
	var sources []source
	for seg := range postgres.Segments(p.control.Checkpoint.Timeline, start, stop, size) {
		s, err := p.walSource(seg)
		if err != nil {
			return nil, fmt.Errorf("WAL segment that the cluster needs to start: %w", err)
		}
		sources = append(sources, s)
	}
	return sources, nil
}

// walSource finds a segment in the WAL folder. A standby may have replayed into
// a later timeline than its last restartpoint's; that one's file has it all.
func (p *pusher) walSource(seg postgres.Segment) (source, error) {
	folder := walDirectory(p.version)
	later := seg
	later.Timeline = max(later.Timeline, p.control.MinRecoveryTimeline)
	name := later.Name(p.control.WALSegmentSize)
	info, err := os.Stat(filepath.Join(p.dir, folder, name))
	if errors.Is(err, fs.ErrNotExist) && later != seg {
		name = seg.Name(p.control.WALSegmentSize)
		info, err = os.Stat(filepath.Join(p.dir, folder, name))
	}
	if err != nil {
		return source{}, err
	}
	owner, group := ownerNames(info)
	return source{
		entry: Entry{Path: folder + "/" + name, Type: File, Mode: info.Mode().Perm(), Owner: owner, Group: group},
		open:  func() (*os.File, error) { return os.Open(filepath.Join(p.dir, folder, name)) },
	}, nil
}

// walDirectory is the name of the WAL folder, which 10 changed.
func walDirectory(v postgres.Version) string {
	if v < postgres.V10 {
		return "pg_xlog"
	}
	return "pg_wal"
}

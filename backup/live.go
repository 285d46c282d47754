package backup

import (
	"context"
	"time"

	"wal-e/internal/fault"
	"wal-e/internal/postgres"
	"wal-e/internal/progress"
)

// live takes a backup of a running server, primary or standby.
func (p *pusher) live(ctx context.Context) (*PushResult, error) {
	session, err := postgres.Connect(ctx, postgres.Config{DataDir: p.dir})
	if err != nil {
		return nil, err
	}
	// The backup ends with its session, so whatever happens the server is left
	// as it was.
	defer func() { _ = session.Close(context.WithoutCancel(ctx)) }()
	standby, err := p.preflight(ctx, session)
	if err != nil {
		return nil, err
	}
	if err := p.open(ctx); err != nil {
		return nil, err
	}
	start, tl, err := p.startBackup(ctx, session)
	if err != nil {
		return nil, err
	}
	if standby {
		if err := p.checkBranch(ctx, tl, p.lastNeeded(start, tl)); err != nil {
			return nil, err
		}
	}
	if err := p.begin(ctx, tl, start); err != nil {
		return nil, err
	}
	if standby {
		p.manifest.Kind = Standby
	}
	p.manifest.ServerVersion = int(session.ServerVersion())
	result, err := p.liveRun(ctx, session, start, tl)
	if err != nil {
		return nil, p.abort(ctx, err)
	}
	return result, nil
}

// preflight checks what would make hours of reading useless.
func (p *pusher) preflight(ctx context.Context, session *postgres.Session) (standby bool, err error) {
	if err := session.CheckRights(ctx); err != nil {
		return false, err
	}
	if err := session.CheckDirectory(ctx, p.dir); err != nil {
		return false, err
	}
	if standby, err = session.InRecovery(ctx); err != nil {
		return false, err
	}
	if _, err := session.CheckArchiving(ctx); err != nil {
		return false, err
	}
	return standby, CheckReadable(ctx, p.selection())
}

// startBackup starts the backup in the server and returns where it starts.
func (p *pusher) startBackup(ctx context.Context, session *postgres.Session) (postgres.LSN, postgres.Timeline, error) {
	how := "spread over checkpoint_completion_target; --checkpoint fast does it at once"
	if p.cfg.FastCheckpoint {
		how = "at once"
	}
	p.cfg.Progress.Begin("checkpoint", progress.Items, 0, nil)
	p.log.InfoContext(ctx, "waiting for the checkpoint that begins the backup", "detail", "It is written "+how+".")
	start, err := session.StartBackup(ctx, "wal-e "+p.started.UTC().Format(time.RFC3339), p.cfg.FastCheckpoint)
	if err != nil {
		return 0, 0, err
	}
	tl, err := session.Timeline(ctx)
	return start, tl, err
}

// keepAlive is how often the session is asked for a sign of life.
const keepAlive = 30 * time.Second

// liveRun is what happens between the intent and the outcome. A lost session
// has ended the backup in the server: then it stops at once.
func (p *pusher) liveRun(ctx context.Context, session *postgres.Session, start postgres.LSN, tl postgres.Timeline) (*PushResult, error) {
	alive, stop := session.Watch(ctx, keepAlive)
	defer stop()
	if err := p.copyFiles(alive, p.selection()); err != nil {
		return nil, err
	}
	if err := p.copyControl(alive); err != nil {
		return nil, err
	}
	stop()
	if err := p.stopBackup(ctx, session, start, tl); err != nil {
		return nil, err
	}
	if err := p.waitForWAL(ctx, session, start, tl); err != nil {
		return nil, err
	}
	return p.commit(ctx)
}

// stopBackup stops the backup and checks that what it gives is of this backup.
func (p *pusher) stopBackup(ctx context.Context, session *postgres.Session, start postgres.LSN, tl postgres.Timeline) error {
	if err := p.checkUnchanged(ctx, session, tl); err != nil {
		return err
	}
	spaces, err := session.Tablespaces(ctx)
	if err != nil {
		return err
	}
	for i, copied := range p.manifest.Tablespaces {
		for _, s := range spaces {
			if s.OID == copied.OID {
				p.manifest.Tablespaces[i].Name = s.Name
			}
		}
	}
	stopped, err := session.StopBackup(ctx)
	if err != nil {
		return err
	}
	label, err := postgres.ParseBackupLabel(stopped.Label)
	if err != nil {
		return err
	}
	if label.Start != start || label.Timeline != 0 && label.Timeline != tl {
		return fault.Changed.Errorf("the server gave a backup_label that starts at %s on timeline %d, the backup started at %s on %d",
			label.Start, label.Timeline, start, tl)
	}
	p.manifest.Label, p.manifest.TablespaceMap = stopped.Label, stopped.TablespaceMap
	p.manifest.StopLSN = stopped.Stop.String()
	p.manifest.Stopped = p.cfg.Now().UTC()
	return nil
}

// checkUnchanged makes sure that the server wasn't promoted meanwhile, and
// didn't change its timeline.
func (p *pusher) checkUnchanged(ctx context.Context, session *postgres.Session, tl postgres.Timeline) error {
	standby, err := session.InRecovery(ctx)
	if err != nil {
		return err
	}
	if standby != (p.manifest.Kind == Standby) {
		return fault.Changed.Errorf("the standby was promoted while it was backed up: run the backup again")
	}
	now, err := session.Timeline(ctx)
	if err != nil {
		return err
	}
	if now != tl {
		return fault.Changed.Errorf("the server went from timeline %d to %d while it was backed up: run the backup again", tl, now)
	}
	return nil
}

// waitForWAL waits until the archive has the backup's WAL.
func (p *pusher) waitForWAL(ctx context.Context, session *postgres.Session, start postgres.LSN, tl postgres.Timeline) error {
	stop, err := postgres.ParseLSN(p.manifest.StopLSN)
	if err != nil {
		return err
	}
	hint := "see in the server's log why archive_command fails, and whether it archives to " + p.cfg.Bucket.URL()
	if p.manifest.Kind == Standby {
		hint = "the primary archives this WAL; on a quiet one run SELECT pg_switch_wal() there"
		if err := p.checkBranch(ctx, tl, postgres.SegmentBefore(tl, stop, p.control.WALSegmentSize).No); err != nil {
			return err
		}
	}
	p.cfg.Progress.Begin("wait for WAL", progress.Items, 0, nil)
	p.log.InfoContext(ctx, "waiting for the WAL of the backup in the archive", "detail", "Up to "+stop.String()+".")
	w := walWait{
		missing: func(ctx context.Context, names []string) ([]string, error) {
			return p.cfg.MissingWAL(ctx, p.system, names)
		},
		archiver: func(ctx context.Context) string {
			s, err := session.ArchiverStatus(ctx)
			if err != nil {
				return "the server doesn't say what its archiver does: " + err.Error()
			}
			return s.String()
		},
		tell: func(detail string) {
			p.log.WarnContext(ctx, "still waiting for WAL", "detail", detail, "hint", hint)
		},
		timeout: p.cfg.WALTimeout,
		hint:    hint,
	}
	return w.wait(ctx, tl, start, stop, p.control.WALSegmentSize)
}

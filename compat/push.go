package compat

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"wal-e/internal/fault"
	"wal-e/internal/postgres"
	"wal-e/internal/progress"
	"wal-e/internal/storage"
)

// PushConfig says what to back up in the classic layout, and how. Bucket and Dir
// are required; the zero value of the rest works.
type PushConfig struct {
	Bucket storage.Bucket
	Dir    string // the data directory; made absolute

	Encrypt Encrypt // of partitions; nil: they are stored in the clear

	Offline        bool     // of a stopped cluster
	FastCheckpoint bool     // don't spread the checkpoint that begins the backup
	SkipLinks      []string // symbolic links to directories that are left out, as paths within Dir or absolute

	Workers  int   // partitions at once; 0 means 4
	ReadRate int64 // bytes read per second in all; 0 means no limit
	// WALTimeout is how long the segments of the backup may take to be archived
	// after it was stopped; 0 means an hour.
	WALTimeout time.Duration
	// MaxPartition is how many bytes the files of a partition have together, and one
	// file at most; 0 means 1.5 GiB, as the original has it.
	MaxPartition int64

	Log *slog.Logger // nil discards
	Now func() time.Time

	Progress *progress.Meter // nil: nobody looks
}

// Limits of a partition.
const (
	maxPartition = 1610612736 // bytes in its files
	maxMembers   = 6144
)

func (c *PushConfig) setDefaults() {
	if c.Workers <= 0 {
		c.Workers = 4
	}
	if c.WALTimeout == 0 {
		c.WALTimeout = time.Hour
	}
	if c.MaxPartition == 0 {
		c.MaxPartition = maxPartition
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
}

// A PushReport describes a backup that exists.
type PushReport struct {
	Name       string  `json:"name"`
	Layout     Layout  `json:"layout"`
	StartLSN   string  `json:"start_lsn"`
	StopLSN    string  `json:"stop_lsn"`
	Partitions int     `json:"partitions"`
	Files      int64   `json:"files"`
	Bytes      int64   `json:"bytes"`
	Stored     int64   `json:"bytes_stored"`
	Seconds    float64 `json:"seconds"`
}

// Push takes a base backup in the classic layout, which classic WAL-E and WAL-G
// restore. When it returns nil the backup is durable and complete, and the archive has
// all WAL that it needs; one of a stopped cluster carries its WAL.
//
// The backup is taken with the non-exclusive functions, so that it works on standbys
// and from PostgreSQL 15 on. backup_label and tablespace_map come from the server
// and stand in the last partition, with pg_control, which is read after every
// other file. The sentinel is stored last. A push that is killed leaves partitions
// without one, which no program takes for a backup.
//
// Nothing is kept on disk. Memory: per worker a few blocks of lzop, and the names of
// one partition's files.
func Push(ctx context.Context, cfg PushConfig) (*PushReport, error) {
	cfg.setDefaults()
	p := &pusher{cfg: cfg, report: &PushReport{Layout: Classic}, began: cfg.Now()}
	if err := p.look(ctx); err != nil {
		return nil, err
	}
	var err error
	if cfg.Offline {
		err = p.offline(ctx)
	} else {
		err = p.live(ctx)
	}
	if err != nil {
		p.tidy(ctx)
		return nil, err
	}
	p.report.Seconds = cfg.Now().Sub(p.began).Seconds()
	return p.report, nil
}

// tidy removes what a push that failed has stored, so that the same backup can be
// taken again. It needs a right that pushes needn't have; without it, begin says what
// to do. Once the sentinel may be there, nothing is removed.
func (p *pusher) tidy(ctx context.Context) {
	if !p.claim || p.ending {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	var keys []string
	for o, err := range p.cfg.Bucket.List(ctx, backupsFolder+p.name.String()+"/", "") {
		if err != nil {
			return
		}
		if k := ParseKey(o.Key); k.Kind == Partition {
			keys = append(keys, o.Key)
		}
	}
	// The version file last: while it is there, no other push takes the name.
	err := p.cfg.Bucket.Delete(ctx, keys...)
	if err == nil {
		err = p.cfg.Bucket.Delete(ctx, p.name.Version())
	}
	if err != nil {
		p.cfg.Log.DebugContext(ctx, "what the push stored stays", "error", err)
	}
}

// A pusher is one push under way.
type pusher struct {
	cfg     PushConfig
	dir     string
	version postgres.Version
	control *postgres.ControlFile
	walker  *walker
	limit   *rate.Limiter // nil: none
	report  *PushReport
	began   time.Time
	total   int64 // bytes there are to copy, as checkReadable found

	name   Name
	claim  bool // the version file is ours, and so is what is beside it
	ending bool // the sentinel may be stored
	start  postgres.LSN
	tl     postgres.Timeline
	next   int // number of the next partition
	files  atomic.Int64
	bytes  atomic.Int64
	stored atomic.Int64
}

// look looks at the data directory.
func (p *pusher) look(ctx context.Context) (err error) {
	if p.dir, err = filepath.Abs(p.cfg.Dir); err != nil {
		return err
	}
	p.version, err = postgres.ReadVersion(p.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return fault.NotCluster.Errorf("%s is not a data directory of PostgreSQL: it has no PG_VERSION", p.dir)
	}
	if err != nil {
		return err
	}
	if p.control, _, err = postgres.ReadControlFile(ctx, p.dir); err != nil {
		return err
	}
	p.walker = &walker{dir: p.dir, still: p.cfg.Offline, folder: postgres.TablespaceDir(p.version, p.control.CatalogVersion)}
	for _, link := range p.cfg.SkipLinks {
		if !filepath.IsAbs(link) {
			link = filepath.Join(p.dir, link)
		}
		p.walker.skipLinks = append(p.walker.skipLinks, filepath.Clean(link))
	}
	if p.cfg.ReadRate > 0 {
		p.limit = rate.NewLimiter(rate.Limit(p.cfg.ReadRate), readStep)
	}
	return nil
}

// live takes a backup of a running server.
func (p *pusher) live(ctx context.Context) error {
	session, err := postgres.Connect(ctx, postgres.Config{DataDir: p.dir})
	if err != nil {
		return err
	}
	// The backup ends with its session, so whatever happens the server is left
	// as it was.
	defer func() { _ = session.Close(context.WithoutCancel(ctx)) }()
	if err := session.CheckRights(ctx); err != nil {
		return err
	}
	if err := session.CheckDirectory(ctx, p.dir); err != nil {
		return err
	}
	standby, err := session.InRecovery(ctx)
	if err != nil {
		return err
	}
	if _, err := session.CheckArchiving(ctx); err != nil {
		return err
	}
	if err := p.checkReadable(ctx); err != nil {
		return err
	}
	p.cfg.Log.InfoContext(ctx, "waiting for the checkpoint that begins the backup", "detail", "With --checkpoint fast it is written at once.")
	if p.start, err = session.StartBackup(ctx, "wal-e "+p.began.UTC().Format(time.RFC3339), p.cfg.FastCheckpoint); err != nil {
		return err
	}
	if p.tl, err = session.Timeline(ctx); err != nil {
		return err
	}
	if err := p.begin(ctx, session.ServerVersion().String()); err != nil {
		return err
	}
	alive, stop := session.Watch(ctx, 30*time.Second)
	defer stop()
	if err := p.pushFiles(alive); err != nil {
		return err
	}
	// On a standby minRecoveryPoint in it is the end of the backup: read earlier,
	// a restored server would call itself consistent too soon.
	control, data, err := postgres.ReadControlFile(alive, p.dir)
	if err != nil {
		return err
	}
	if control.SystemID != p.control.SystemID {
		return fault.Changed.Errorf("%s became another cluster's while it was backed up", p.dir)
	}
	stop()
	stopped, err := p.stop(ctx, session, standby)
	if err != nil {
		return err
	}
	last := []made{{controlPath, data}, {labelPath, stopped.Label}}
	if len(stopped.TablespaceMap) > 0 {
		last = append(last, made{mapPath, stopped.TablespaceMap})
	}
	if err := p.pushMade(ctx, last); err != nil {
		return err
	}
	if err := p.waitForWAL(ctx, session, stopped.Stop); err != nil {
		return err
	}
	segment, offset := stopAt(p.tl, stopped.Stop, p.control.WALSegmentSize)
	return p.commit(ctx, stopped.Stop, segment, offset)
}

// stop stops the backup and checks that what it gives is of this backup.
func (p *pusher) stop(ctx context.Context, session *postgres.Session, standby bool) (*postgres.StoppedBackup, error) {
	now, err := session.InRecovery(ctx)
	if err != nil {
		return nil, err
	}
	tl, err := session.Timeline(ctx)
	if err != nil {
		return nil, err
	}
	if now != standby || tl != p.tl {
		return nil, fault.Changed.Errorf("the server was promoted or changed its timeline while it was backed up: run the backup again")
	}
	stopped, err := session.StopBackup(ctx)
	if err != nil {
		return nil, err
	}
	label, err := postgres.ParseBackupLabel(stopped.Label)
	if err != nil {
		return nil, err
	}
	if label.Start != p.start {
		return nil, fault.Changed.Errorf("the server gave a backup_label that starts at %s, the backup started at %s", label.Start, p.start)
	}
	return stopped, nil
}

// offline takes a backup of a stopped cluster. The segments with the shutdown
// checkpoint are never archived, so it carries them, which the original did not.
func (p *pusher) offline(ctx context.Context) error {
	if err := p.checkStopped(); err != nil {
		return err
	}
	if err := p.checkReadable(ctx); err != nil {
		return err
	}
	var stop postgres.LSN
	p.start, stop = p.control.RecoveryWAL()
	p.tl = p.control.Checkpoint.Timeline
	if err := p.begin(ctx, p.version.Major()); err != nil {
		return err
	}
	if err := p.pushFiles(ctx); err != nil {
		return err
	}
	if err := p.pushWAL(ctx, stop); err != nil {
		return err
	}
	if err := p.checkStopped(); err != nil {
		return err
	}
	control, data, err := postgres.ReadControlFile(ctx, p.dir)
	if err != nil {
		return err
	}
	if *control != *p.control {
		return fault.Changed.Errorf("the cluster was started while it was backed up: stop it, and run the backup again")
	}
	if err := p.pushMade(ctx, []made{{controlPath, data}}); err != nil {
		return err
	}
	// That it stops where it starts is how the format tells that it was taken offline.
	return p.commit(ctx, stop, p.name.Segment, p.name.Offset)
}

func (p *pusher) checkStopped() error {
	if _, err := os.Lstat(filepath.Join(p.dir, "postmaster.pid")); err == nil {
		return fault.Running.Errorf("%s has a postmaster.pid: a server may be running; stop it, or leave --while-offline away", p.dir)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if s := p.control.State; s != postgres.ShutDown && s != postgres.ShutDownInRecovery {
		return fault.Running.Errorf("pg_control says that the cluster is %q: start it and shut it down cleanly before an offline backup", s)
	}
	return nil
}

// checkReadable finds out before hours of reading what this user may not read, and
// what can't be backed up.
func (p *pusher) checkReadable(ctx context.Context) error {
	const readable = 4
	p.total = 0
	for f, err := range p.walker.walk(ctx) {
		if err == nil && f.info.Mode().IsRegular() {
			p.total += f.info.Size()
			err = syscall.Access(f.abs, readable)
			if errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
			if err != nil {
				err = &fs.PathError{Op: "read", Path: f.abs, Err: err}
			}
		}
		if errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("%w: run wal-e as the user that the server runs as", err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// begin names the backup and stores its version file.
func (p *pusher) begin(ctx context.Context, version string) error {
	p.name = nameAt(p.tl, p.start, p.control.WALSegmentSize)
	p.report.Name, p.report.StartLSN = p.name.String(), p.start.String()
	if _, err := p.cfg.Bucket.Stat(ctx, p.name.Sentinel()); !errors.Is(err, storage.ErrNotExist) {
		if err == nil {
			err = fault.NameTaken.Errorf("backup %s is in %s already: it starts where this one would. "+
				"On a standby wait for the next restartpoint, or run CHECKPOINT on the primary; of a cluster that hasn't run since there is nothing to do",
				p.name, p.cfg.Bucket.URL())
		}
		return err
	}
	if err := p.checkNew(ctx); err != nil {
		return err
	}
	log := p.cfg.Log
	log.InfoContext(ctx, "start upload postgres version metadata",
		"detail", fmt.Sprintf("Uploading to %s/%s.", p.cfg.Bucket.URL(), p.name.Version()))
	err := storage.CreateBytes(ctx, p.cfg.Bucket, p.name.Version(), []byte("PostgreSQL "+version), nil)
	if errors.Is(err, storage.ErrExist) {
		return p.begunBefore(err)
	}
	if err != nil {
		return err
	}
	p.claim = true
	log.InfoContext(ctx, "postgres version metadata upload complete")
	return nil
}

// checkNew refuses partitions that are there without a version file. Ours would not
// take their places, and what store finds there it holds for its own.
func (p *pusher) checkNew(ctx context.Context) error {
	for o, err := range p.cfg.Bucket.List(ctx, p.name.partitionFolder(), "") {
		if err != nil {
			return fmt.Errorf("look for partitions of %s: %w", p.name, err)
		}
		if ParseKey(o.Key).Kind == Partition {
			return p.begunBefore(fmt.Errorf("%s: %w", o.Key, storage.ErrExist))
		}
	}
	return nil
}

func (p *pusher) begunBefore(err error) error {
	return fmt.Errorf("%w: a push of %s has begun before and not ended: see that none is running, remove %s%s/ from %s, and run this again",
		err, p.name, backupsFolder, p.name, p.cfg.Bucket.URL())
}

// pushFiles stores everything that is on disk. Partitions are filled in the
// order of the walk, and stored several at once.
func (p *pusher) pushFiles(ctx context.Context) (err error) {
	p.cfg.Progress.Begin("copy", progress.Bytes, p.total, nil)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(p.cfg.Workers)
	defer func() { err = errors.Join(g.Wait(), err) }()
	var members []found
	var size int64
	for f, err := range p.walker.walk(gctx) {
		if err != nil {
			if gctx.Err() != nil && ctx.Err() == nil {
				return nil // a partition failed, and says why
			}
			return err
		}
		n := int64(0)
		if f.info.Mode().IsRegular() {
			n = f.info.Size()
		}
		if n > p.cfg.MaxPartition {
			return fault.Unstorable.Errorf("attempted to archive a file that is too large: %s has %d bytes, and a partition of the classic layout holds %d at most: "+
				"see whether it belongs there", f.abs, n, p.cfg.MaxPartition)
		}
		if len(members) == maxMembers || len(members) > 0 && size+n >= p.cfg.MaxPartition {
			p.goPush(gctx, g, members)
			members, size = nil, 0
		}
		members = append(members, f)
		size += n
	}
	p.goPush(gctx, g, members)
	return nil
}

// goPush stores a partition in the background.
func (p *pusher) goPush(ctx context.Context, g *errgroup.Group, members []found) {
	number := p.next
	p.next++
	// A small cluster is one partition, and of several all work at once.
	cores := runtime.GOMAXPROCS(0)
	g.Go(func() error {
		return p.store(ctx, number, func(w *partitionWriter) error {
			for _, f := range members {
				if err := w.file(ctx, f); err != nil {
					return fmt.Errorf("back up %s: %w", f.abs, err)
				}
			}
			return nil
		}, cores)
	})
}

// A made file is one that isn't on disk.
type made struct {
	name string
	data []byte
}

func (p *pusher) pushMade(ctx context.Context, files []made) error {
	number := p.next
	p.next++
	owner, err := os.Stat(filepath.Join(p.dir, "PG_VERSION"))
	if err != nil {
		return err
	}
	return p.store(ctx, number, func(w *partitionWriter) error {
		for _, f := range files {
			if err := w.made(f, owner, p.cfg.Now()); err != nil {
				return err
			}
		}
		return nil
	}, 1)
}

// pushWAL stores the segments that a stopped cluster needs to start.
func (p *pusher) pushWAL(ctx context.Context, stop postgres.LSN) error {
	folder := "pg_wal"
	if p.version < postgres.V10 {
		folder = "pg_xlog"
	}
	size := p.control.WALSegmentSize
	var members []found
	for seg := range postgres.Segments(p.tl, p.start, stop, size) {
		name := folder + "/" + seg.Name(size)
		abs := filepath.Join(p.dir, name)
		info, err := os.Stat(abs)
		if err != nil {
			return fmt.Errorf("WAL segment that the cluster needs to start: %w", err)
		}
		members = append(members, found{name: name, abs: abs, info: info})
	}
	g, gctx := errgroup.WithContext(ctx)
	p.goPush(gctx, g, members)
	return g.Wait()
}

// waitForWAL waits until the archive has the backup's WAL. That the server calls it
// archived is no proof: an archive_command of /bin/true does as much.
func (p *pusher) waitForWAL(ctx context.Context, session *postgres.Session, stop postgres.LSN) error {
	size := p.control.WALSegmentSize
	deadline := p.cfg.Now().Add(p.cfg.WALTimeout)
	told := p.cfg.Now()
	pause := 100 * time.Millisecond
	for seg := range postgres.Segments(p.tl, p.start, stop, size) {
		name := seg.Name(size)
		for {
			_, err := p.cfg.Bucket.Stat(ctx, WALKey(name))
			if err == nil {
				break
			}
			if !errors.Is(err, storage.ErrNotExist) {
				return fmt.Errorf("look for the backup's WAL in the archive: %w", err)
			}
			if now := p.cfg.Now(); now.After(deadline) || now.Sub(told) > time.Minute {
				told = now
				archiver := "the server doesn't say what its archiver does"
				if s, err := session.ArchiverStatus(ctx); err == nil {
					archiver = s.String()
				}
				text := fmt.Sprintf("the archive lacks WAL that the backup needs: %s in %s (%s); see why archive_command fails, and whether it archives there; "+
					"of a quiet standby run SELECT pg_switch_wal() on the primary", WALKey(name), p.cfg.Bucket.URL(), archiver)
				if now.After(deadline) {
					return fault.WALMissing.Errorf("after %s %s", p.cfg.WALTimeout, text)
				}
				p.cfg.Log.WarnContext(ctx, "still waiting for WAL", "detail", text)
			}
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(pause):
			}
			pause = min(2*pause, 5*time.Second)
		}
	}
	return nil
}

// commit stores the sentinel: from then on there is a backup.
func (p *pusher) commit(ctx context.Context, stop postgres.LSN, segment, offset string) error {
	b, err := marshalSentinel(segment, offset, p.bytes.Load(), p.dir, p.walker.spaces)
	if err != nil {
		return err
	}
	p.ending = true
	err = storage.CreateBytes(ctx, p.cfg.Bucket, p.name.Sentinel(), b, nil)
	if errors.Is(err, storage.ErrExist) { // a lost answer, or another push
		theirs, rerr := storage.ReadAll(ctx, p.cfg.Bucket, p.name.Sentinel(), maxSentinel)
		if rerr == nil && string(theirs) == string(b) {
			err = nil
		}
	}
	if err != nil {
		return err
	}
	p.report.StopLSN, p.report.Partitions = stop.String(), p.next
	p.report.Files, p.report.Bytes, p.report.Stored = p.files.Load(), p.bytes.Load(), p.stored.Load()
	return nil
}

// marshalSentinel writes a sentinel as the original does, on one line.
func marshalSentinel(segment, offset string, size int64, dir string, spaces map[uint32]string) ([]byte, error) {
	text := func(s string) string {
		b, _ := json.Marshal(s) // a string always can be
		return string(b)
	}
	if err := checkSpaces(spaces); err != nil {
		return nil, err
	}
	var oids []string
	var places strings.Builder
	for _, oid := range slices.Sorted(maps.Keys(spaces)) {
		number := strconv.FormatUint(uint64(oid), 10)
		oids = append(oids, text(number))
		fmt.Fprintf(&places, `, %s: {"loc": %s, "link": %s}`, text(number), text(spaces[oid]+"/"), text("pg_tblspc/"+number))
	}
	b := fmt.Appendf(nil, `{"wal_segment_backup_stop": %s, "wal_segment_offset_backup_stop": %s, "expanded_size_bytes": %d, "spec": {"base_prefix": %s, "tablespaces": [%s]%s}}`,
		text(segment), text(offset), size, text(strings.TrimSuffix(dir, "/")+"/"), strings.Join(oids, ", "), places.String())
	_, err := ParseSentinel(b) // what we can't read nobody can
	return b, err
}

// checkSpaces refuses what a sentinel can't hold: in JSON another path would stand,
// and a restore would go there.
func checkSpaces(spaces map[uint32]string) error {
	for oid, dir := range spaces {
		if !utf8.ValidString(dir) {
			return fault.Unstorable.Errorf("tablespace %d is in %q, which isn't UTF-8, and the classic layout has no other paths: move it, or use the new layout", oid, dir)
		}
	}
	return nil
}

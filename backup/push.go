package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/time/rate"

	"wal-e/chunkstore"
	"wal-e/index"
	"wal-e/internal/fault"
	"wal-e/internal/postgres"
	"wal-e/internal/progress"
	"wal-e/internal/seal"
	"wal-e/internal/storage"
)

// PushConfig says what to back up and how. Bucket, Dir and MissingWAL are
// required; the zero value of the rest works.
type PushConfig struct {
	Bucket storage.Bucket
	Dir    string // the data directory; made absolute
	// StateDir gives the folder for local state of a cluster and its data
	// directory. Nil, or an error, which is logged, means to go without.
	StateDir func(system, dir string) (string, error)
	// AllowNewCluster accepts a system identifier that is new to the prefix.
	AllowNewCluster bool
	// Keys encrypt the backup; a host's are enough. Nil stores it in the clear.
	Keys *seal.Keys

	Offline          bool // of a stopped cluster
	FastCheckpoint   bool // don't spread the checkpoint that begins the backup
	IncludeLogs      bool
	SkipLinks        []string // symbolic links to directories that are left out
	FailOnCorruption bool     // pages with wrong checksums fail the push

	// Rescan reads every file. Otherwise those are passed over to which nothing
	// was written since the last push read them, but each is read at least once
	// in Reread pushes; 0 means 30.
	Rescan bool
	Reread int
	// Settle is how long a file must have been left alone when it was read to
	// go unread by the next push; 0 means a minute.
	Settle time.Duration

	Workers  int   // cores that read, hash and compress; 0 means 4
	ReadRate int64 // bytes read per second in all; 0 means no limit
	// Memory is how many bytes a push may take, as far as it can: packs are
	// smaller and fewer cores work when it is little. 0 means what packs of 32 MiB
	// and Workers take.
	Memory int64
	// Fresh stores everything anew: the backup needs no pack that an earlier
	// push stored, so that damage to those doesn't reach it. Every file is read.
	Fresh bool

	// Rewrite is how many bytes of sparse packs are stored anew at most; 0 means
	// 1 GiB, negative none.
	Rewrite int64

	// MissingWAL returns those of names that the archive lacks, in order.
	MissingWAL func(ctx context.Context, system string, names []string) ([]string, error)
	// Timelines returns the timelines that have a history file in the archive, and
	// History one of these, or an error that wraps storage.ErrNotExist. With them a
	// standby that follows a timeline which has ended is refused before it is read.
	// Nil asks nothing.
	Timelines func(ctx context.Context, system string) ([]postgres.Timeline, error)
	History   func(ctx context.Context, system string, tl postgres.Timeline) (postgres.History, error)
	// WALTimeout is how long the segments of the backup may take to be
	// archived after it was stopped; 0 means an hour.
	WALTimeout time.Duration

	Program string // version of wal-e, for people
	Host    string
	Log     *slog.Logger // nil discards
	Now     func() time.Time

	Progress *progress.Meter // nil: nobody looks
}

func (c *PushConfig) setDefaults() {
	if c.Workers <= 0 {
		c.Workers = 4
	}
	if c.Reread == 0 {
		c.Reread = defaultReread
	}
	if c.Settle == 0 {
		c.Settle = defaultSettle
	}
	if c.Memory > 0 {
		c.Workers = min(c.Workers, int(max(1, (c.Memory-baseMemory)/2/workerMemory)))
	}
	if c.WALTimeout == 0 {
		c.WALTimeout = time.Hour
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
}

// What a push takes in bytes, about, beside packs: in all, and for a core.
const (
	baseMemory   = 48 << 20
	workerMemory = 10 << 20
)

// packSize is the size of packs when Memory is set: one is open, one waits,
// three are on their way, and garbage takes as much again as all that.
func (c *PushConfig) packSize() int {
	if c.Memory <= 0 {
		return 0
	}
	left := c.Memory - baseMemory - int64(c.Workers)*workerMemory
	return int(min(32<<20, max(2<<20, left/8)))
}

// A PushResult is a backup that exists.
type PushResult struct {
	Ref      chunkstore.Ref
	Manifest *Manifest
	Parents  []chunkstore.Ref // backups whose packs it may share
	Stats    chunkstore.Stats
}

// Push takes a base backup. When it returns nil the backup is durable, complete
// and has all the WAL that it needs, except that an offline backup carries its
// own.
func Push(ctx context.Context, cfg PushConfig) (*PushResult, error) {
	cfg.setDefaults()
	p, err := newPusher(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer p.close()
	if cfg.Offline {
		return p.offline(ctx)
	}
	return p.live(ctx)
}

// A pusher is one push under way.
type pusher struct {
	cfg     PushConfig
	log     *slog.Logger
	dir     string
	version postgres.Version
	control *postgres.ControlFile
	system  string

	state    *state       // nil: none
	table    *index.Table // nil: none
	scratch  string       // folder of a table that isn't kept
	store    *chunkstore.Store
	push     *chunkstore.Push
	pages    *pageVerifier
	now      recallHeader // when this push began
	notes    *recorder    // for the next push; nil: none
	unread   int64        // bytes of files that were not read
	changed  []string     // files that changed without a sign of it
	started  time.Time
	manifest *Manifest
}

// newPusher looks at the data directory.
func newPusher(ctx context.Context, cfg PushConfig) (*pusher, error) {
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if !info.IsDir() {
		return nil, fault.NotCluster.Errorf("data directory %s is not a directory", dir)
	}
	version, err := postgres.ReadVersion(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.NotCluster.Errorf("%s is not a data directory of PostgreSQL: it has no PG_VERSION", dir)
	}
	if err != nil {
		return nil, err
	}
	control, _, err := postgres.ReadControlFile(ctx, dir)
	if err != nil {
		return nil, err
	}
	return &pusher{
		cfg: cfg, log: cfg.Log, dir: dir, version: version, control: control,
		system: control.SystemID.String(), started: cfg.Now(),
	}, nil
}

// open takes the local state and opens the store.
func (p *pusher) open(ctx context.Context) error {
	if err := p.openState(ctx); err != nil {
		return err
	}
	prefix, err := chunkstore.Admit(ctx, p.cfg.Bucket, uint64(p.control.SystemID), p.cfg.AllowNewCluster)
	if err != nil {
		return err
	}
	if p.store, err = chunkstore.New(p.cfg.Bucket, prefix, p.log); err != nil {
		return err
	}
	if p.cfg.Keys != nil {
		if p.store, err = p.store.Sealed(p.cfg.Keys); err != nil {
			return err
		}
	}
	p.openTable(ctx)
	return p.fencePredecessors(ctx)
}

// openState takes the lock of the local state. A folder that can't be had costs
// deduplication with what other runs stored, not the backup.
func (p *pusher) openState(ctx context.Context) error {
	if p.cfg.StateDir == nil {
		return nil
	}
	dir, err := p.cfg.StateDir(p.system, p.dir)
	if err == nil {
		p.state, err = openState(dir)
	}
	if errors.Is(err, ErrBusy) {
		return err
	}
	if err != nil {
		p.log.WarnContext(ctx, "going without local state", "detail", err.Error(),
			"hint", "Set WALE_STATE_DIR to a folder that this user may write to; until then a push reads more of the store.")
	}
	return nil
}

// openTable opens the index table in the local state, or in a scratch folder.
func (p *pusher) openTable(ctx context.Context) {
	var err error
	if p.state != nil {
		if p.table, err = p.store.OpenTable(p.state.tablePath()); err == nil {
			return
		}
		p.log.WarnContext(ctx, "local index can't be used", "detail", err.Error())
	}
	if p.scratch, err = os.MkdirTemp("", "wal-e-index-"); err == nil {
		if p.table, err = p.store.OpenTable(filepath.Join(p.scratch, "index.db")); err == nil {
			return
		}
	}
	p.log.WarnContext(ctx, "no place for an index of the store: storing everything anew", "detail", err.Error())
}

// fencePredecessors ends runs that this host began and didn't end. The lock
// tells that their process is dead.
func (p *pusher) fencePredecessors(ctx context.Context) error {
	if p.state == nil {
		return nil
	}
	runs, err := chunkstore.Runs(ctx, p.cfg.Bucket)
	if err != nil {
		return err
	}
	for _, r := range runs {
		if !r.Open() {
			continue
		}
		intent, err := chunkstore.ReadIntent(ctx, p.cfg.Bucket, r.Ref)
		if errors.Is(err, storage.ErrNotExist) {
			continue // collected since it was listed
		}
		if isDamage(err) {
			// Whose it is can't be told, so it is left alone.
			p.log.WarnContext(ctx, "intent of a push can't be read", "detail", err.Error(),
				"hint", "Backups go on, but nothing is deleted until that object is removed; see first that no other host is pushing.")
			continue
		}
		if err != nil {
			return err
		}
		if intent.HostID != p.state.hostID {
			continue
		}
		o, err := chunkstore.Fence(ctx, p.cfg.Bucket, r.Ref, p.cfg.Host, "its process ended without an outcome; the next push on the host found it")
		if err != nil {
			return err
		}
		if o.Result == chunkstore.Abort {
			p.log.InfoContext(ctx, "resuming after a push that was killed", "detail", fmt.Sprintf("What backup %s stored is used again.", r.Ref))
		}
	}
	return nil
}

// close gives back what open took. What can fail in it concerns caches only.
func (p *pusher) close() {
	p.notes.abandon()
	if p.table != nil {
		_ = p.table.Close()
	}
	_ = p.state.close()
	if p.scratch != "" {
		_ = os.RemoveAll(p.scratch)
	}
}

// begin begins the run of a backup that starts at lsn.
func (p *pusher) begin(ctx context.Context, tl postgres.Timeline, start postgres.LSN) error {
	name := Name(tl, start, p.control.WALSegmentSize)
	intent := chunkstore.Intent{
		Host: p.cfg.Host, PID: os.Getpid(), System: p.system, Start: start.String(), Program: p.cfg.Program,
	}
	if p.state != nil {
		intent.HostID = p.state.hostID
	}
	var err error
	p.push, err = p.store.Begin(ctx, chunkstore.PushConfig{Name: name, Intent: intent, Table: p.table, PackSize: p.cfg.packSize(), Rewrite: p.cfg.Rewrite, Fresh: p.cfg.Fresh, Now: p.cfg.Now})
	if err != nil {
		return err
	}
	info, err := os.Stat(p.dir)
	if err != nil {
		return p.abort(ctx, err)
	}
	owner, group := ownerNames(info)
	p.manifest = &Manifest{
		Version: manifestVersion, Name: name, Kind: Live,
		System: p.system, Catalog: p.control.CatalogVersion,
		Program: p.cfg.Program, Host: p.cfg.Host, DataDirectory: p.dir,
		Mode: uint32(info.Mode().Perm()), Owner: owner, Group: group,
		Timeline: tl, StartLSN: start.String(),
		SegmentSize: int64(p.control.WALSegmentSize), BlockSize: int(p.control.BlockSize),
		Started: p.started.UTC(), Tablespaces: []Tablespace{},
	}
	p.pages = newPageVerifier(p.control, start)
	p.now = p.clockNow(tl)
	return nil
}

// abort ends the run without a backup, and returns err.
func (p *pusher) abort(ctx context.Context, err error) error {
	return errors.Join(err, p.push.Abort(ctx, err.Error()))
}

// Name is the name of a backup that starts at lsn: base_, the segment's name,
// and the offset in it in decimal, padded to eight digits.
func Name(tl postgres.Timeline, lsn postgres.LSN, size postgres.SegmentSize) string {
	return fmt.Sprintf("base_%s_%08d", postgres.SegmentAt(tl, lsn, size).Name(size), size.Offset(lsn))
}

// maxRounds is how often files are read again because packs that they were
// found in turned out to be gone.
const maxRounds = 3

// copyFiles copies everything but pg_control. Packs that vanished since the
// push began are banned, and all is read again: what is still there is found
// there, the rest is stored anew.
func (p *pusher) copyFiles(ctx context.Context, selection SelectConfig) error {
	c := &copier{push: p.push, extent: p.store.ExtentSize(), workers: p.cfg.Workers, limit: p.limiter(), progress: p.cfg.Progress}
	trust := !p.cfg.Rescan && !p.cfg.Fresh
	for round := 1; ; round++ {
		p.pages.reset()
		p.cfg.Progress.Begin("copy", progress.Bytes, 0, func() int64 { return p.push.Stats().New })
		measured := p.measure(ctx, selection)
		all, err := p.copyRound(ctx, c, selection, trust)
		measured()
		if err != nil {
			return err
		}
		if p.doubt(ctx, c) && c.notes.unreadBytes > 0 {
			trust = false
			round--
			continue
		}
		bad, err := p.push.Unusable(ctx)
		if err != nil {
			return err
		}
		if len(bad) == 0 {
			p.manifest.Tablespaces = c.tablespaces()
			p.manifest.Root, p.manifest.Files, p.manifest.Bytes = all.root.String(), all.files, all.bytes
			return nil
		}
		if round == maxRounds {
			return fault.Fenced.Errorf("packs are gone or condemned again and again (%d, the first %s): is something removing objects from %s?",
				len(bad), chunkstore.PackKey(bad[0]), p.cfg.Bucket.URL())
		}
		p.log.WarnContext(ctx, "packs went away while they were referenced; reading the cluster again",
			"detail", fmt.Sprintf("Of %s, %s is the first.", counted(len(bad), "pack"), chunkstore.PackKey(bad[0])))
		p.push.Ban(bad)
	}
}

// measure adds up in the background what there is to copy, if somebody wants to
// see how far the push is. It looks at each file's size, as the copying does a
// moment later; what it costs is that look. done ends it.
func (p *pusher) measure(ctx context.Context, selection SelectConfig) (done func()) {
	if p.cfg.Progress == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var total int64
		for f, err := range Walk(ctx, selection) {
			if err != nil {
				return // the copying meets it, too
			}
			total += f.Size
		}
		p.cfg.Progress.Expect(total)
	}()
	return func() {
		cancel()
		<-ended
	}
}

// copyRound goes through all files once.
func (p *pusher) copyRound(ctx context.Context, c *copier, selection SelectConfig, trust bool) (copied, error) {
	writer, err := p.push.NewWriter() // for its sums
	if err != nil {
		return copied{}, err
	}
	p.notes.abandon()
	before, after := p.openNotes(ctx, writer.Sum)
	defer before.close()
	p.notes = after
	c.notes = noteTaker{before: before, after: after, every: p.cfg.Reread, settle: p.cfg.Settle, bad: p.pages.isBad}
	if before != nil {
		why := before.trusts(p.now)
		c.notes.trust = why == ""
		c.notes.every = p.cfg.Reread
		if why != "" {
			p.log.InfoContext(ctx, "reading all files", "detail", "Which of them are unchanged can't be told: "+why+".")
		}
		if !trust {
			c.notes.every = 1
		}
	}
	all, err := c.copyAll(ctx, p.sources(ctx, selection))
	p.unread = c.notes.unreadBytes
	return all, err
}

// doubt tells whether files turned out to have changed without a sign of it.
// Then no file's times can be believed, and those of earlier backups neither.
func (p *pusher) doubt(ctx context.Context, c *copier) bool {
	if len(c.notes.unvouched) == 0 {
		return false
	}
	if len(p.changed) > 0 {
		return true // it was said before all was read again
	}
	for _, r := range c.notes.unvouched {
		if len(p.changed) == maxBadPages {
			break
		}
		p.changed = append(p.changed, r.path)
	}
	first := c.notes.unvouched[0]
	p.log.ErrorContext(ctx, "files changed although their size, times and inode didn't; reading all files",
		"detail", fmt.Sprintf("Of %s, %s is the first, read before at %s. Backups since then may hold its old bytes.",
			counted(len(c.notes.unvouched), "file"), first.path, time.Unix(first.read, 0).UTC().Format(time.RFC3339)),
		"hint", "This backup has what the files hold now. Look for a failing disk, or for programs that write below the file system; until it is found use backup-push --rescan.")
	return true
}

func (p *pusher) limiter() *rate.Limiter {
	if p.cfg.ReadRate <= 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(p.cfg.ReadRate), p.store.ExtentSize())
}

// copyControl copies pg_control, which must be read after every other file: on
// a standby its minRecoveryPoint is the end of the backup, and read earlier a
// restored server would call itself consistent too soon.
func (p *pusher) copyControl(ctx context.Context) error {
	control, data, err := postgres.ReadControlFile(ctx, p.dir)
	if err != nil {
		return err
	}
	if control.SystemID != p.control.SystemID {
		return fault.Changed.Errorf("%s became another cluster's while it was backed up", p.dir)
	}
	p.control = control
	info, err := os.Stat(filepath.Join(p.dir, controlPath))
	if err != nil {
		return err
	}
	owner, group := ownerNames(info)
	c := &copier{push: p.push, extent: p.store.ExtentSize()}
	e, err := c.copyOne(Entry{Path: controlPath, Type: File, Mode: info.Mode().Perm(), Owner: owner, Group: group}, data)
	if err != nil {
		return fmt.Errorf("back up %s: %w", controlPath, err)
	}
	p.manifest.Control = appendEntry(nil, e)
	p.manifest.Files++
	p.manifest.Bytes += e.Content.Size
	return nil
}

// controlPath is pg_control within the data directory.
const controlPath = "global/pg_control"

// commit writes what is known by now into the manifest and commits the run.
func (p *pusher) commit(ctx context.Context) (*PushResult, error) {
	p.manifest.Pages = p.pages.report()
	if n := p.manifest.Pages.Failed; n > 0 {
		bad := p.manifest.Pages.Failures[0]
		detail := fmt.Sprintf("Of %s the first: block %d of %s has checksum %d, which should be %d.", counted(n, "page"), bad.Block, bad.Path, bad.Found, bad.Expected)
		if p.cfg.FailOnCorruption {
			return nil, fault.BadPages.Errorf("pages with wrong checksums: %s", detail)
		}
		p.log.WarnContext(ctx, "pages with wrong checksums were backed up", "detail", detail,
			"hint", "Keep older backups. Look for a failing disk, and at the relation with pg_amcheck.")
	}
	if err := p.push.Flush(ctx); err != nil {
		return nil, err
	}
	stats := p.push.Stats()
	p.manifest.Push = PushReport{
		Read: stats.Read, Unread: p.unread, Changed: p.changed, New: stats.New, Stored: stats.Stored, Seconds: p.cfg.Now().Sub(p.started).Seconds(),
	}
	if err := p.push.Commit(ctx, p.manifest); err != nil {
		return nil, err
	}
	p.keepNotes(ctx)
	return &PushResult{Ref: p.push.Ref(), Manifest: p.manifest, Parents: p.push.Parents(), Stats: p.push.Stats()}, nil
}

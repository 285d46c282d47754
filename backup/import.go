package backup

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"wal-e/chunkstore"
	"wal-e/internal/chunk"
	"wal-e/internal/fault"
	"wal-e/internal/postgres"
	"wal-e/internal/progress"
	"wal-e/internal/seal"
	"wal-e/internal/storage"
)

// ImportConfig says what backup to take over from another layout, and how. All but
// the last fields are required.
type ImportConfig struct {
	Bucket storage.Bucket
	Keys   *seal.Keys // nil: in the clear

	// Control and Label are pg_control and backup_label of the backup; Label is nil
	// of one that was taken offline.
	Control, Label []byte
	Stop           postgres.LSN // where a live one stopped
	Taken          time.Time    // when it was complete
	DataDirectory  string       // where the cluster was; may be empty
	Tablespaces    []Tablespace

	// Files calls visit with all members, in any order, maybe from several
	// goroutines at once. Content lasts as long as the call.
	Files func(ctx context.Context, visit func(ctx context.Context, f ImportFile, content io.Reader) error) error
	// NeedWAL makes sure that the archive has the segments of the system, of which
	// it returns the content of each that is asked for.
	NeedWAL func(ctx context.Context, system postgres.SystemID, names []string, content bool) (map[string][]byte, error)

	StateDir        func(system, dir string) (string, error) // as in PushConfig
	AllowNewCluster bool
	Memory          int64 // as in PushConfig
	Program, Host   string
	Log             *slog.Logger // nil discards
	Now             func() time.Time

	// Progress shows the import; nil: nobody looks. Bytes is about how many the
	// files have; 0: not known.
	Progress *progress.Meter
	Bytes    int64
}

// An ImportFile is a file, a directory or a symbolic link of a backup. Its path is
// clean and within the data directory, "." for that itself.
type ImportFile struct {
	Path         string
	Mode         fs.FileMode // permissions, and the type
	Size         int64
	Link         string
	Owner, Group string
}

// Import stores a backup as a push stores a cluster, in the same chunks, without a
// copy on disk; it is a push to everybody else, collections too. What an import
// that was interrupted has stored is used by the next one.
//
// Memory: that of a push, and an entry of some 200 bytes for each file, since they
// come in any order.
func Import(ctx context.Context, cfg ImportConfig) (*PushResult, error) {
	control, err := postgres.ParseControlFile(cfg.Control)
	if err != nil {
		return nil, err
	}
	pc := PushConfig{
		Bucket: cfg.Bucket, Keys: cfg.Keys, StateDir: cfg.StateDir, AllowNewCluster: cfg.AllowNewCluster, Memory: cfg.Memory,
		Program: cfg.Program, Host: cfg.Host, Log: cfg.Log, Now: cfg.Now,
	}
	pc.setDefaults()
	i := &importer{cfg: cfg, p: &pusher{
		cfg: pc, log: pc.Log, dir: cmp.Or(cfg.DataDirectory, "/"), control: control, system: control.SystemID.String(), started: pc.Now(),
	}}
	defer i.p.close()
	return i.run(ctx)
}

// position returns where the backup begins and ends: an offline one where its last
// checkpoint does.
func (cfg *ImportConfig) position(control *postgres.ControlFile) (tl postgres.Timeline, start, stop postgres.LSN, err error) {
	tl = control.Checkpoint.Timeline
	if cfg.Label == nil {
		start, stop = control.RecoveryWAL()
		return tl, start, stop, nil
	}
	label, err := postgres.ParseBackupLabel(cfg.Label)
	if err != nil {
		return 0, 0, 0, err
	}
	if label.Timeline != 0 {
		tl = label.Timeline
	}
	if cfg.Stop <= label.Start {
		return 0, 0, 0, fmt.Errorf("%w: the backup starts at %s and stops at %s", chunkstore.ErrDamaged, label.Start, cfg.Stop)
	}
	return tl, label.Start, cfg.Stop, nil
}

// Identity returns the system identifier of the backup and the name that Import
// gives it. That of a live one is the classic name; that of an offline one is the
// right one, which the original often missed.
func (cfg *ImportConfig) Identity() (postgres.SystemID, string, error) {
	control, err := postgres.ParseControlFile(cfg.Control)
	if err != nil {
		return 0, "", err
	}
	tl, start, _, err := cfg.position(control)
	return control.SystemID, Name(tl, start, control.WALSegmentSize), err
}

// An importer is one import under way.
type importer struct {
	cfg ImportConfig
	p   *pusher

	start, stop postgres.LSN
	timeline    postgres.Timeline

	mu      sync.Mutex
	entries map[string]Entry
	base    ImportFile
	version []byte // PG_VERSION
	tsMap   []byte
	leftOut []string
	writers sync.Pool
}

func (i *importer) run(ctx context.Context) (*PushResult, error) {
	p := i.p
	var err error
	if i.timeline, i.start, i.stop, err = i.cfg.position(p.control); err != nil {
		return nil, err
	}
	if err := p.open(ctx); err != nil {
		return nil, err
	}
	intent := chunkstore.Intent{Host: i.cfg.Host, PID: os.Getpid(), System: p.system, Start: i.start.String(), Program: i.cfg.Program}
	if p.state != nil {
		intent.HostID = p.state.hostID
	}
	name := Name(i.timeline, i.start, p.control.WALSegmentSize)
	p.push, err = p.store.Begin(ctx, chunkstore.PushConfig{Name: name, Intent: intent, Table: p.table, PackSize: p.cfg.packSize(), Now: p.cfg.Now})
	if err != nil {
		return nil, err
	}
	result, err := i.copy(ctx, name)
	if err != nil {
		return nil, p.abort(ctx, err)
	}
	return result, nil
}

// copy is what happens between the intent and the outcome.
func (i *importer) copy(ctx context.Context, name string) (*PushResult, error) {
	p := i.p
	names := i.walNames()
	wal, err := i.cfg.NeedWAL(ctx, p.control.SystemID, names, i.cfg.Label == nil)
	if err != nil {
		return nil, err
	}
	for round := 1; ; round++ {
		i.entries = make(map[string]Entry)
		i.cfg.Progress.Begin("import", progress.Bytes, i.cfg.Bytes, func() int64 { return p.push.Stats().New })
		if err := i.cfg.Files(ctx, i.file); err != nil {
			return nil, err
		}
		bad, err := p.push.Unusable(ctx)
		if err != nil {
			return nil, err
		}
		if len(bad) == 0 {
			break
		}
		if round == maxRounds {
			return nil, fault.Fenced.Errorf("packs are gone or condemned again and again (%d, the first %s): is something removing objects from %s?",
				len(bad), chunkstore.PackKey(bad[0]), p.cfg.Bucket.URL())
		}
		p.push.Ban(bad)
	}
	if err := i.describe(ctx, name, wal); err != nil {
		return nil, err
	}
	if err := p.push.Flush(ctx); err != nil {
		return nil, err
	}
	stats := p.push.Stats()
	p.manifest.Push = PushReport{Read: stats.Read, New: stats.New, Stored: stats.Stored, Seconds: p.cfg.Now().Sub(p.started).Seconds()}
	if err := p.push.Commit(ctx, p.manifest); err != nil {
		return nil, err
	}
	return &PushResult{Ref: p.push.Ref(), Manifest: p.manifest, Parents: p.push.Parents(), Stats: p.push.Stats()}, nil
}

// walNames returns the segments that the backup needs to start.
func (i *importer) walNames() []string {
	var names []string
	size := i.p.control.WALSegmentSize
	for seg := range postgres.Segments(i.timeline, i.start, i.stop, size) {
		names = append(names, seg.Name(size))
	}
	return names
}

// file takes a member.
func (i *importer) file(ctx context.Context, f ImportFile, content io.Reader) error {
	if f.Path != mapFile && isOfAnother(f.Path, f.Mode.IsRegular()) {
		return nil
	}
	e := Entry{Path: f.Path, Mode: f.Mode.Perm(), Owner: f.Owner, Group: f.Group}
	switch f.Mode.Type() {
	case fs.ModeDir:
		if f.Path == "." {
			i.mu.Lock()
			i.base = f
			i.mu.Unlock()
			return nil
		}
		e.Type = Directory
	case fs.ModeSymlink:
		// Of links, only those of tablespaces are a cluster's own, and they are made
		// from what the backup says of those. pg_wal was a directory elsewhere.
		if f.Path == "pg_wal" || f.Path == "pg_xlog" {
			e.Type = Directory
			e.Mode = 0o700
			break
		}
		if path.Dir(f.Path) != "pg_tblspc" {
			i.mu.Lock()
			i.leftOut = append(i.leftOut, f.Path)
			i.mu.Unlock()
		}
		return nil
	case 0:
		switch f.Path {
		case controlPath:
			return nil // known already, as is the label
		case mapFile, "PG_VERSION":
			if f.Size > maxImportedFile {
				return fmt.Errorf("%w: %s has %d bytes: at most %d are allowed", chunkstore.ErrDamaged, f.Path, f.Size, maxImportedFile)
			}
			data, err := io.ReadAll(content)
			if err != nil {
				return err
			}
			if f.Path == mapFile {
				i.tsMap = data
				return nil
			}
			i.version, content = data, bytes.NewReader(data)
		}
		var err error
		if e.Content, e.CRC, err = i.content(ctx, f, content); err != nil {
			return fmt.Errorf("import %s: %w", f.Path, err)
		}
	default:
		return nil
	}
	return i.add(e)
}

// isOfAnother tells whether a member isn't to be restored, since a push would have
// left it out for its name: the original takes slots, which would keep WAL for ever,
// and what makes a restored primary a standby.
func isOfAnother(p string, regular bool) bool {
	if isOfOneServer(p) || regular && (isLeftOutFile(p) || postgres.IsRelationCacheFile(path.Base(p))) {
		return true
	}
	for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
		if isEmptied(dir) {
			return true
		}
	}
	return false
}

// maxImportedFile bounds the small files that are looked into.
const maxImportedFile = 4 << 20

func (i *importer) add(e Entry) error {
	if err := checkPath(e.Path); err != nil {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if old, twice := i.entries[e.Path]; twice && (old.Type != Directory || e.Type != Directory) {
		return fmt.Errorf("%w: the backup has %s twice", chunkstore.ErrDamaged, e.Path)
	}
	i.entries[e.Path] = e
	return nil
}

// content stores the bytes of a file.
func (i *importer) content(ctx context.Context, f ImportFile, r io.Reader) (c chunkstore.Content, sum uint32, err error) {
	if f.Size > chunkstore.MaxFileSize {
		return c, 0, fault.Unstorable.Errorf("it has %d bytes: at most %d can be stored", f.Size, int64(chunkstore.MaxFileSize))
	}
	type tools struct {
		writer *chunkstore.Writer
		buf    []byte
	}
	t, _ := i.writers.Get().(*tools)
	if t == nil {
		w, err := i.p.push.NewWriter()
		if err != nil {
			return c, 0, err
		}
		t = &tools{w, make([]byte, i.p.store.ExtentSize())}
	}
	defer i.writers.Put(t)
	var first chunkstore.List
	var nodes []chunk.ID
	several := f.Size > int64(len(t.buf))
	for left := f.Size; left > 0; {
		if ctx.Err() != nil {
			return c, 0, context.Cause(ctx)
		}
		b := t.buf[:min(left, int64(len(t.buf)))]
		if _, err := io.ReadFull(r, b); err != nil {
			return c, 0, err
		}
		left -= int64(len(b))
		i.cfg.Progress.Add(int64(len(b)))
		sum = crc32.Update(sum, crc32.MakeTable(crc32.Castagnoli), b)
		if first, err = t.writer.Extent(b); err != nil {
			return c, 0, err
		}
		if several {
			id, err := t.writer.ListNode(first)
			if err != nil {
				return c, 0, err
			}
			nodes = append(nodes, id)
		}
	}
	if f.Size == 0 {
		return c, 0, nil
	}
	c, err = t.writer.Content(f.Size, first, nodes)
	return c, sum, err
}

// describe makes the file table and the manifest.
func (i *importer) describe(ctx context.Context, name string, wal map[string][]byte) error {
	p := i.p
	version, err := postgres.ParseVersion(string(i.version))
	if err != nil {
		return fmt.Errorf("PG_VERSION of the backup: %w", err)
	}
	p.version = version
	if err := i.complete(ctx, wal); err != nil {
		return err
	}
	if n := len(i.leftOut); n > 0 {
		p.log.WarnContext(ctx, "links were left out", "detail", fmt.Sprintf("Out of the data directory: %s, %s the first.", counted(n, "link"), i.leftOut[0]))
	}
	writer, err := p.push.NewWriter()
	if err != nil {
		return err
	}
	builder := &tableBuilder{writer: writer}
	paths := make([]string, 0, len(i.entries))
	for path := range i.entries {
		paths = append(paths, path)
	}
	slices.SortFunc(paths, comparePaths)
	for _, path := range paths {
		if err := builder.add(i.entries[path]); err != nil {
			return err
		}
	}
	root, err := builder.finish()
	if err != nil {
		return err
	}
	mode := i.base.Mode.Perm()
	if mode == 0 {
		mode = 0o700
	}
	control := Entry{Path: controlPath, Type: File, Mode: 0o600, Owner: i.base.Owner, Group: i.base.Group}
	c := &copier{push: p.push, extent: p.store.ExtentSize()}
	if control, err = c.copyOne(control, i.cfg.Control); err != nil {
		return err
	}
	kind := Live
	if i.cfg.Label == nil {
		kind = Offline
	}
	p.manifest = &Manifest{
		Version: manifestVersion, Name: name, Kind: kind,
		System: p.system, ServerVersion: int(version), Catalog: p.control.CatalogVersion, Program: i.cfg.Program, Host: i.cfg.Host,
		DataDirectory: i.cfg.DataDirectory, Mode: uint32(mode), Owner: i.base.Owner, Group: i.base.Group,
		Timeline: i.timeline, StartLSN: i.start.String(), StopLSN: i.stop.String(),
		SegmentSize: int64(p.control.WALSegmentSize), BlockSize: int(p.control.BlockSize),
		Started: i.cfg.Taken.UTC(), Stopped: i.cfg.Taken.UTC(), Label: i.cfg.Label, TablespaceMap: i.tsMap,
		Tablespaces: slices.Clone(i.cfg.Tablespaces), Root: root.String(),
		Control: appendEntry(nil, control), Files: builder.files + 1, Bytes: builder.bytes + control.Content.Size,
	}
	if p.manifest.Tablespaces == nil {
		p.manifest.Tablespaces = []Tablespace{}
	}
	return nil
}

// complete adds what a server needs and the other layout doesn't have: folders, the
// links of tablespaces, and to an offline backup its WAL.
func (i *importer) complete(ctx context.Context, wal map[string][]byte) error {
	v := i.p.version
	folder := walDirectory(v)
	for _, dir := range []string{"base", "global", "pg_tblspc", "pg_notify", "pg_subtrans", "pg_twophase", "pg_replslot", "pg_stat", "pg_stat_tmp",
		"pg_serial", "pg_snapshots", "pg_dynshmem", "pg_commit_ts", "pg_logical", "pg_logical/snapshots", "pg_logical/mappings", "pg_multixact",
		folder, folder + "/archive_status"} {
		if _, there := i.entries[dir]; !there {
			i.entries[dir] = Entry{Path: dir, Type: Directory, Mode: 0o700, Owner: i.base.Owner, Group: i.base.Group}
		}
	}
	for _, t := range i.cfg.Tablespaces {
		link := fmt.Sprintf("pg_tblspc/%d", t.OID)
		i.entries[link] = Entry{Path: link, Type: Symlink, Mode: 0o777, Owner: i.base.Owner, Group: i.base.Group, Link: t.Location}
	}
	for name, data := range wal {
		f := ImportFile{Path: folder + "/" + name, Mode: 0o600, Size: int64(len(data)), Owner: i.base.Owner, Group: i.base.Group}
		e := Entry{Path: f.Path, Type: File, Mode: 0o600, Owner: f.Owner, Group: f.Group}
		var err error
		if e.Content, e.CRC, err = i.content(ctx, f, bytes.NewReader(data)); err != nil {
			return err
		}
		i.entries[e.Path] = e
	}
	// Everything is below a folder that the table has.
	for p := range i.entries {
		for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
			if _, there := i.entries[dir]; there {
				break
			}
			if strings.HasPrefix(dir, "pg_tblspc/") && strings.Count(dir, "/") == 1 {
				return fmt.Errorf("%w: it has files of tablespace %s, and doesn't say where that was", chunkstore.ErrDamaged, path.Base(dir))
			}
			i.entries[dir] = Entry{Path: dir, Type: Directory, Mode: 0o700, Owner: i.base.Owner, Group: i.base.Group}
		}
	}
	return nil
}

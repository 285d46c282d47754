package compat

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"wal-e/internal/fault"
	"wal-e/internal/postgres"
	"wal-e/internal/progress"
	"wal-e/internal/storage"
)

// FetchConfig says what to restore where. Bucket, Backup and Dir are required;
// the zero value of the rest works.
type FetchConfig struct {
	Bucket  storage.Bucket
	Backup  Backup
	Dir     string  // the data directory to be; made absolute
	Decrypt Decrypt // nil: encrypted partitions can't be read
	Workers int     // partitions at once; 0 means 4

	// TablespaceMap gives the directories of tablespaces, by OID.
	TablespaceMap map[string]string
	// RestoreSpec is the content of a classic restore specification, which does
	// the same; nil: there is none. Its base_prefix counts for nothing.
	RestoreSpec []byte
	// BlindRestore makes tablespaces without directory of their own, and
	// without a link that is there already, plain directories in pg_tblspc.
	BlindRestore bool
	WALDir       string // where WAL goes, with a link to it; "" means into Dir
	Owner        string // USER or USER:GROUP, for root only; "" means as in the backup

	DryRun bool // only work out the plan
	Log    *slog.Logger
	Now    func() time.Time

	Progress *progress.Meter // nil: nobody looks
}

func (c *FetchConfig) setDefaults() {
	if c.Workers <= 0 {
		c.Workers = 4
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
}

// A FetchReport says what a fetch does, and what it did.
type FetchReport struct {
	Backup      string               `json:"backup"`
	Layout      Layout               `json:"layout"`
	Dir         string               `json:"directory"`
	Tablespaces []RestoredTablespace `json:"tablespaces"`
	WALDir      string               `json:"wal_directory,omitempty"`
	Partitions  int                  `json:"partitions"`
	PackedBytes int64                `json:"partition_bytes"`
	Files       int64                `json:"files"` // 0 of a plan: only the partitions know
	Bytes       int64                `json:"bytes"`
	Warnings    []string             `json:"warnings,omitempty"` // each was logged, too
	Next        []string             `json:"next,omitempty"`     // what is left to do by hand
	Done        bool                 `json:"done"`               // false: it is a plan
}

// A RestoredTablespace says where the data of a tablespace go.
type RestoredTablespace struct {
	OID       uint32 `json:"oid"`
	Original  string `json:"original"`
	Directory string `json:"directory"`
	Blind     bool   `json:"blind,omitempty"` // a plain directory in pg_tblspc
}

// Fetch restores a classic backup into a directory. When it returns nil, all
// partitions were read, verified and unpacked, and the cluster is durable.
//
// What can be refused is refused before anything is written: a directory that
// isn't empty, partitions that are missing, tablespaces without a place. From
// then on a folder, .wal-e-fetch, marks Dir as unfinished, and global/pg_control is
// missing until the end, so that no server starts on half a cluster. The same call
// again begins anew. Nothing is written outside of Dir and the directories of
// tablespaces, whatever names and links the partitions hold: links are made last.
//
// It does not restore WAL or set up recovery. Memory: a few blocks of lzop per
// worker, the names of directories and links, and some 40 bytes for each file.
func Fetch(ctx context.Context, cfg FetchConfig) (*FetchReport, error) {
	cfg.setDefaults()
	f := &fetcher{cfg: cfg, report: &FetchReport{Backup: cfg.Backup.Name.String(), Layout: Classic, Tablespaces: []RestoredTablespace{}}}
	if err := f.plan(ctx); err != nil {
		return nil, err
	}
	if cfg.DryRun {
		return f.report, nil
	}
	defer f.close()
	if err := f.begin(); err != nil {
		return nil, fmt.Errorf("compat: restore to %s: %w", f.dir, err)
	}
	if err := f.unpackAll(ctx); err != nil {
		return nil, err
	}
	if err := f.finish(ctx); err != nil {
		return nil, fmt.Errorf("compat: restore to %s: %w", f.dir, err)
	}
	f.report.Done = true
	return f.report, nil
}

// A fetcher is one fetch under way.
type fetcher struct {
	cfg    FetchConfig
	dir    string
	report *FetchReport

	sentinel SentinelFile
	parts    []storage.Object
	found    *inspection
	marker   *marker // of an earlier try
	spaces   []space
	owner    *ownership // nil: not root
	lock     *os.File
	sites    []*site
	wal      *site    // of WAL, when it is elsewhere
	made     sync.Map // directories by site and path
	members  paths    // that are no directories

	files, bytes atomic.Int64
	spared       atomic.Int64 // bytes of files in whose place others stay

	mu       sync.Mutex
	dirs     []member // to be given mode and time
	base     member   // the data directory, as it was
	links    []member // to be made
	tsMap    []byte   // tablespace_map of the backup
	tsMember member
	label    bool // there was a backup_label
	control  bool // there was a pg_control
	version  postgres.Version
}

// warn logs what the operator should know, and keeps it for the report.
func (f *fetcher) warn(ctx context.Context, msg, detail, hint string) {
	f.cfg.Log.WarnContext(ctx, msg, "detail", detail, "hint", hint)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.report.Warnings = append(f.report.Warnings, msg+": "+detail+" "+hint)
}

// plan finds out what there is and where it goes, and writes nothing.
func (f *fetcher) plan(ctx context.Context) (err error) {
	if f.dir, err = filepath.Abs(f.cfg.Dir); err != nil {
		return err
	}
	f.report.Dir = f.dir
	name := f.cfg.Backup.Name
	if f.sentinel, err = ReadSentinel(ctx, f.cfg.Bucket, name); err != nil {
		return err
	}
	var strange []string
	if f.parts, strange, err = listPartitions(ctx, f.cfg.Bucket, name); err != nil {
		return err
	}
	for _, key := range strange {
		f.warn(ctx, "skipping an object that is no partition", fmt.Sprintf("%s in %s.", key, f.cfg.Bucket.URL()), "The backup is restored without it.")
	}
	f.report.Partitions = len(f.parts)
	for _, p := range f.parts {
		f.report.PackedBytes += p.Size
	}
	if f.marker, err = readMarker(f.dir); err != nil {
		return err
	}
	if f.marker != nil {
		if err := f.marker.check(f.dir, name); err != nil {
			return err
		}
	}
	if f.found, err = inspect(f.dir, f.marker != nil); err != nil {
		return err
	}
	if f.marker != nil {
		for _, name := range f.marker.Kept {
			if _, err := os.Lstat(filepath.Join(f.dir, name)); err == nil {
				f.found.kept[name] = true
			}
		}
	}
	if err := f.planWALDir(); err != nil {
		return err
	}
	if err := f.planSpaces(); err != nil {
		return err
	}
	if f.owner, err = planOwner(f.cfg.Owner); err != nil {
		return err
	}
	if f.sentinel.Offline(name) {
		f.report.Next = append(f.report.Next, "This backup was taken offline and has no WAL: let the server start with a restore_command, for it needs the WAL from the archive.")
	}
	f.report.Next = append(f.report.Next,
		"postgresql.conf, pg_hba.conf and pg_ident.conf are not in a classic backup: put yours there.",
		"The configuration may have the archive_command of the original: start the copy with archive_mode=off until it takes the original's place.")
	return nil
}

func (f *fetcher) planWALDir() error {
	if f.marker != nil {
		f.report.WALDir = f.marker.WALDir
	}
	if f.cfg.WALDir == "" {
		return nil
	}
	dir, err := filepath.Abs(f.cfg.WALDir)
	if err != nil {
		return err
	}
	if f.marker != nil {
		if dir != f.marker.WALDir {
			return fault.TargetInUse.Errorf("this fetch was begun with WAL in %q: it can't go on with %s", f.marker.WALDir, dir)
		}
		return nil
	}
	if f.found.wal != "" {
		return fault.TargetInUse.Errorf("%s in %s is there already: leave --waldir away, or remove it", f.found.wal, f.dir)
	}
	if err := checkEmpty(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f.report.WALDir = dir
	return nil
}

// unpackAll unpacks the partitions, several at once.
func (f *fetcher) unpackAll(ctx context.Context) error {
	f.cfg.Progress.Begin("restore", progress.Bytes, max(0, f.sentinel.ExpandedSize), nil)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(f.cfg.Workers)
	cores := max(1, runtime.GOMAXPROCS(0)/min(f.cfg.Workers, len(f.parts)))
	log := f.cfg.Log
	for _, p := range f.parts {
		g.Go(func() error {
			log.InfoContext(gctx, "beginning partition download",
				"detail", fmt.Sprintf("The partition being downloaded is %s.", filepath.Base(p.Key)),
				"hint", fmt.Sprintf("The absolute S3 key is %s.", f.cfg.Bucket.URL()+"/"+p.Key))
			return f.unpack(gctx, p.Key, cores)
		})
	}
	return g.Wait()
}

func (f *fetcher) unpack(ctx context.Context, key string, cores int) (err error) {
	r, err := openObject(ctx, f.cfg.Bucket, key, f.cfg.Decrypt, cores)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := r.Close(); err == nil && cerr != nil {
			err = about(f.cfg.Bucket, key, cerr)
		}
	}()
	err = readPartition(r, func(m member, content io.Reader) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := f.member(ctx, m, content); err != nil {
			return fmt.Errorf("restore %s: %w", m.Path, err)
		}
		return nil
	})
	if err != nil {
		return about(f.cfg.Bucket, key, err)
	}
	return nil
}

package backup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"wal-e/chunkstore"
	"wal-e/index"
	"wal-e/internal/postgres"
	"wal-e/internal/progress"
	"wal-e/internal/seal"
)

// FetchConfig says what to restore where. Store, Backup and Dir are required;
// the zero value of the rest works.
type FetchConfig struct {
	Store  *chunkstore.Store
	Backup *Backup // as Find returned it
	Dir    string  // the data directory to be; made absolute

	// StateDir gives the folder for local state of a cluster and its data
	// directory. Nil, or an error, means that the index is kept in Dir while
	// the fetch runs.
	StateDir func(system, dir string) (string, error)
	Workers  int // files, and requests, at once; 0 means 4

	// TablespaceMap gives the directories of tablespaces, by OID or name.
	TablespaceMap map[string]string
	// RestoreSpec is the file of a classic restore specification, which does
	// the same, or RestoreSpecSource.
	RestoreSpec string
	// BlindRestore makes tablespaces without directory of their own, and
	// without a link that is there already, plain directories in pg_tblspc.
	BlindRestore bool

	WALDir          string // where WAL goes, with a link to it; "" means into Dir
	OverwriteConfig bool   // replace configuration files that are in Dir
	// Delta restores over a stopped cluster with the same system identifier:
	// what is as in the backup stays, what the backup doesn't have goes, but for
	// configuration files and the folders log and pg_log.
	Delta bool
	// DiscardWAL lets a Delta remove WAL files that were never archived.
	DiscardWAL bool
	Owner      string // USER or USER:GROUP, for root only; "" means as in the backup

	// FetchWAL puts the WAL file name at the path dest, durably. When it is
	// set, the segments that the backup needs are put into pg_wal, and the history
	// of its timeline if the archive has it. An error that wraps storage.ErrNotExist
	// says that it hasn't.
	FetchWAL func(ctx context.Context, system, name, dest string) error
	// Recover sets the cluster up for archive recovery; nil leaves that to
	// the operator.
	Recover *RecoverConfig

	DryRun bool // only work out the plan

	Log *slog.Logger // nil discards
	Now func() time.Time

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
	Backup string `json:"backup"` // NAME@RUN
	Dir    string `json:"directory"`
	System string `json:"system_identifier"`

	Tablespaces []RestoredTablespace `json:"tablespaces"`
	WALDir      string               `json:"wal_directory,omitempty"` // when it isn't in Dir
	Owner       string               `json:"owner"`                   // of the files

	Files int64 `json:"files"`
	Bytes int64 `json:"bytes"`
	// Packs is how many packs the backup draws on, Requests about how many
	// requests a fetch makes.
	Packs    int      `json:"packs"`
	Requests int64    `json:"requests_estimate"`
	WALFiles []string `json:"wal_files"` // that the backup needs to be consistent
	WithWAL  bool     `json:"with_wal"`  // they are in pg_wal

	KeptConfig []string        `json:"kept,omitempty"` // what was there and stays
	Recovery   *RecoveryReport `json:"recovery,omitempty"`

	// Resumed is how many files were whole from an earlier try; -1 when this
	// is the first.
	Resumed int64        `json:"resumed_files"`
	Written int64        `json:"written_bytes"`
	Delta   *DeltaReport `json:"delta,omitempty"` // of a fetch over a cluster

	// Warnings are what the operator should know; each was logged when it was
	// found. Next is what is left to do by hand.
	Warnings []string `json:"warnings,omitempty"`
	Next     []string `json:"next,omitempty"`
	Done     bool     `json:"done"` // false: it is a plan
}

// A RestoredTablespace says where the data of a tablespace go.
type RestoredTablespace struct {
	OID       uint32 `json:"oid"`
	Name      string `json:"name,omitempty"`
	Original  string `json:"original"`
	Directory string `json:"directory"`
	Blind     bool   `json:"blind,omitempty"` // a plain directory in pg_tblspc
}

// Fetch restores a backup into a directory. When it returns nil the cluster is
// complete and durable there: every chunk was proven against its id, every file
// against its CRC.
//
// Everything that can be refused is refused before anything is written. From
// then on a folder, .wal-e-fetch, marks Dir as unfinished, and global/pg_control
// is missing until the end, so that no server starts on half a cluster. The same
// call again goes on: files that are whole stay, others are written anew.
//
// Memory: an extent (Store.ExtentSize) and a read of at most 8 MiB per worker,
// the reader's cache of 16 MiB, the directories of the cluster by name, and a
// bit per file when a fetch is resumed.
func Fetch(ctx context.Context, cfg FetchConfig) (*FetchReport, error) {
	cfg.setDefaults()
	f, err := newFetcher(cfg)
	if err != nil {
		return nil, err
	}
	if err := f.plan(ctx); err != nil {
		return nil, err
	}
	if cfg.DryRun {
		return f.report, nil
	}
	defer f.close()
	if err := f.begin(); err != nil {
		return nil, f.explain(ctx, err)
	}
	if err := f.run(ctx); err != nil {
		return nil, f.explain(ctx, err)
	}
	f.report.Done = true
	return f.report, nil
}

// A fetcher is one fetch under way.
type fetcher struct {
	cfg     FetchConfig
	b       *Backup
	dir     string
	version postgres.Version
	report  *FetchReport

	found   *inspection
	marker  *marker // of an earlier try; nil: none
	delta   bool    // a cluster is there, or was
	before  string  // fingerprint of its pg_control
	spaces  []space
	owner   *ownership
	tsMap   []byte // the tablespace_map to be
	lock    *os.File
	began   bool // files may have been written
	again   bool // some may be there from an earlier try
	madeDir bool // Dir was made by this fetch

	table  *index.Table
	reader *chunkstore.Reader
	sites  []*site
	survey survey

	control     *postgres.ControlFile // nil: it couldn't be parsed
	controlData []byte
}

func newFetcher(cfg FetchConfig) (*fetcher, error) {
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, err
	}
	if err := cfg.Backup.Open(cfg.Store); err != nil {
		return nil, err
	}
	if !cfg.Store.CanRead() && !cfg.DryRun {
		return nil, fmt.Errorf("backup %s: %w", cfg.Backup.Ref, seal.ErrNoPrivateKey)
	}
	m := cfg.Backup.Manifest
	f := &fetcher{
		cfg: cfg, b: cfg.Backup, dir: dir, version: postgres.Version(m.ServerVersion),
		report: &FetchReport{
			Backup: cfg.Backup.Ref.String(), Dir: dir, System: m.System,
			Files: m.Files, Bytes: m.Bytes, Packs: cfg.Backup.Footprint.Len(),
			WALFiles: []string{}, Tablespaces: []RestoredTablespace{}, Resumed: -1,
		},
	}
	f.report.Requests = int64(f.report.Packs) + m.Bytes/int64(cfg.Store.ExtentSize())
	if m.Kind != Offline {
		f.report.WALFiles = cfg.Backup.walNames()
		f.report.WithWAL = cfg.FetchWAL != nil
	}
	return f, nil
}

// warn logs what the operator should know, and keeps it for the report.
func (f *fetcher) warn(ctx context.Context, msg, detail, hint string) {
	f.cfg.Log.WarnContext(ctx, msg, "detail", detail, "hint", hint)
	f.report.Warnings = append(f.report.Warnings, msg+": "+detail+" "+hint)
}

// next notes what is left to do by hand.
func (f *fetcher) next(format string, args ...any) {
	f.report.Next = append(f.report.Next, fmt.Sprintf(format, args...))
}

// run restores into a directory that was marked.
func (f *fetcher) run(ctx context.Context) error {
	if err := f.restore(ctx); err != nil {
		return err
	}
	if err := f.putLabel(); err != nil {
		return err
	}
	if err := f.fetchWAL(ctx); err != nil {
		return err
	}
	if err := f.setUpRecovery(ctx); err != nil {
		return err
	}
	return f.finish()
}

// restore writes all files but those that are made here. An index of the local
// state that turns out to be damaged is made anew once, and what was written
// with it stays.
func (f *fetcher) restore(ctx context.Context) error {
	for first := true; ; first = false {
		fresh, err := f.openReader(ctx, first)
		if err == nil {
			err = f.restoreFiles(ctx)
		}
		cerr := f.closeTable()
		if err == nil && cerr != nil {
			f.cfg.Log.DebugContext(ctx, "local index was not closed", "error", cerr) // it is a cache
		}
		var lost *chunkstore.ChunkError
		if err == nil || fresh || ctx.Err() != nil || !errors.Is(err, index.ErrDamaged) && !errors.As(err, &lost) {
			return err
		}
		f.cfg.Log.WarnContext(ctx, "local index can't be used; reading the index of the backup anew", "detail", err.Error())
	}
}

// restoreFiles walks the file table three times: to learn what is in it, to
// write the files, and to list them in backup_manifest.
func (f *fetcher) restoreFiles(ctx context.Context) error {
	if err := f.surveyTable(ctx); err != nil {
		return err
	}
	if err := f.readControl(ctx); err != nil {
		return err
	}
	f.again = f.began || f.marker != nil || f.delta
	if !f.began {
		if err := f.mark(); err != nil {
			return err
		}
		f.began = true
		if err := f.openSites(); err != nil {
			return err
		}
	}
	if f.again {
		if err := f.reopen(); err != nil {
			return err
		}
	}
	if f.delta {
		if err := f.sweep(ctx); err != nil {
			return err
		}
	}
	if err := f.makeDirectories(); err != nil {
		return err
	}
	if f.again {
		if err := f.verifyWritten(ctx); err != nil {
			return err
		}
	}
	if err := f.writeFiles(ctx); err != nil {
		return err
	}
	return f.writeBaseManifest(ctx)
}

// openReader opens the index table, in the local state if that is wanted and
// can be had, else in the marker's folder. fresh tells that it was empty.
func (f *fetcher) openReader(ctx context.Context, useState bool) (fresh bool, err error) {
	if useState && f.cfg.StateDir != nil {
		dir, err := f.cfg.StateDir(f.b.Manifest.System, f.dir)
		if err == nil {
			f.table, err = f.cfg.Store.OpenTable(filepath.Join(dir, "index.db"))
		}
		if err != nil {
			f.cfg.Log.DebugContext(ctx, "going without local state", "error", err)
		}
	}
	if f.table == nil {
		fresh = true
		folder := filepath.Join(f.dir, markerDir, "index")
		if err := os.RemoveAll(folder); err != nil {
			return fresh, err
		}
		if f.table, err = f.cfg.Store.OpenTable(filepath.Join(folder, "index.db")); err != nil {
			return fresh, err
		}
	}
	f.reader, err = f.cfg.Store.NewReader(ctx, &f.b.Footprint, f.table)
	return fresh, err
}

func (f *fetcher) closeTable() error {
	if f.table == nil {
		return nil
	}
	err := f.table.Close()
	f.table = nil
	return err
}

// close gives back what is open. Nothing that it closes was written to.
func (f *fetcher) close() {
	_ = f.closeTable()
	for _, s := range f.sites {
		s.close()
	}
	f.abandon()
	if f.lock != nil {
		// A child that is just being forked shares the file, so closing it isn't enough.
		_ = syscall.Flock(int(f.lock.Fd()), syscall.LOCK_UN)
		_ = f.lock.Close()
	}
}

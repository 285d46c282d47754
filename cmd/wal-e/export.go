package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"wal-e/backup"
	"wal-e/compat"
	"wal-e/internal/fault"
	"wal-e/internal/postgres"
	"wal-e/internal/progress"
	"wal-e/internal/storage"
	"wal-e/wal"
)

const exportLong = `Write the backup NAME, or LATEST, in the classic layout 005, which classic WAL-E
and WAL-G restore: tar partitions, lzop, a sentinel. It goes to --to: another
prefix, on any storage, with credentials from the same variables, or a local
folder. Nothing is copied to disk on the way. It is encrypted when a key to
encrypt to is named.

The WAL that makes the backup consistent goes along; --wal takes all from there
on. As the original leaves them out, configuration files in the data directory
are not exported. A backup exists there when its sentinel does, which is stored
last. WAL that is there already is compared, and passed over.`

type exportFlags struct {
	to, system string
	wal, json  bool
	poolSize   int
}

func newExportCommand(a *app) *cobra.Command {
	var f exportFlags
	cmd := &cobra.Command{
		Use:     "export NAME",
		Short:   "write a backup in the classic layout",
		Long:    exportLong,
		Example: "  wal-e export LATEST --to /mnt/usb/archive\n  wal-e export --wal --to s3://other-bucket/classic base_000000010000000000000007_00000216",
		Args:    arguments("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case f.to == "":
				return &usageError{cmd, "say where to with --to PREFIX or --to DIR"}
			case f.poolSize < 1:
				return &usageError{cmd, fmt.Sprintf("--pool-size %d: want at least 1", f.poolSize)}
			}
			return a.do(cmd, func(ctx context.Context, s *session) error { return exportBackup(ctx, s, f, args[0]) })
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&f.to, "to", "", "`PREFIX` such as s3://BUCKET/PATH, or a local folder, to write to")
	flags.BoolVar(&f.wal, "wal", false, "export all WAL from the backup's start on")
	flags.StringVar(&f.system, "system", "", "the cluster's `SYSTEM_IDENTIFIER`, when the archive holds several")
	flags.VarP(numberOption(&f.poolSize, 4), "pool-size", "p", "partitions at once")
	flags.BoolVar(&f.json, "json", false, "print the result as JSON")
	return cmd
}

// An exportReport is what --json prints.
type exportReport struct {
	*compat.PushReport
	To          string `json:"to"`
	WAL         int    `json:"wal_files"`       // that were stored
	WALThere    int    `json:"wal_files_there"` // that were there already
	WALStored   int64  `json:"wal_bytes_stored"`
	WALComplete bool   `json:"wal_complete"` // all from the backup's start on, as --wal asks for, without a gap
}

// exporting is one export under way.
type exporting struct {
	s        *session
	from, to storage.Bucket
	reads    storage.Bucket // from, for WAL
	m        *backup.Manifest
	system   postgres.SystemID
	start    postgres.LSN
	stop     postgres.LSN
	size     postgres.SegmentSize
	report   *exportReport
}

func exportBackup(ctx context.Context, s *session, f exportFlags, query string) (err error) {
	from, err := s.openBucket(use{reads: true})
	if err != nil {
		return err
	}
	to, err := s.openExport(ctx, f.to)
	if err != nil {
		return err
	}
	t, err := s.openTree(ctx, from, f.system, query)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	e := &exporting{s: s, from: from, to: to, reads: s.walReadsMany(from), m: t.Backup().Manifest, report: &exportReport{To: to.URL(), WALComplete: f.wal}}
	if err := e.locate(); err != nil {
		return err
	}
	if err := e.checkCluster(ctx); err != nil {
		return err
	}
	// WAL first: a backup without would look like one.
	if err := e.wal(ctx, f.wal); err != nil {
		return err
	}
	if e.report.PushReport, err = e.base(ctx, t, f.poolSize); err != nil {
		return fmt.Errorf("export backup %s: %w", t.Backup().Ref, err)
	}
	if f.json {
		return json.NewEncoder(s.stdout).Encode(e.report)
	}
	if err := printClassicPushed(s.stdout, e.report.PushReport); err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.stdout, "  in %s with %s, %d of them new\n", e.report.To, counted(e.report.WAL+e.report.WALThere, "WAL file"), e.report.WAL)
	return err
}

// openExport opens where an export goes: a prefix, or a folder.
func (s *session) openExport(ctx context.Context, to string) (storage.Bucket, error) {
	if !strings.Contains(to, "://") {
		dir, err := filepath.Abs(to)
		if err != nil {
			return nil, err
		}
		to = "file://localhost" + dir
	}
	p, err := parsePrefix("--to", to)
	if err != nil {
		return nil, err
	}
	there := &session{config: s.config, log: s.log, shown: s.shown, stdin: s.stdin, stdout: s.stdout, stderr: s.stderr}
	there.prefix = p
	b, err := there.openBucket(use{})
	if err != nil {
		return nil, err
	}
	contents, err := compat.Detect(ctx, b)
	if err != nil {
		return nil, layoutUnknown(err)
	}
	if !contents.Empty() && contents.Layout() != compat.Classic {
		return nil, &message{
			kind: fault.NotClassic,
			text: fmt.Sprintf("%s holds an archive in the new layout, and an export would become its newest backup", p),
			hint: "Export to an empty prefix or folder, or to a classic one.",
		}
	}
	return b, nil
}

// locate reads positions from the manifest.
func (e *exporting) locate() (err error) {
	if e.system, err = postgres.ParseSystemID(e.m.System); err != nil {
		return err
	}
	if e.start, err = postgres.ParseLSN(e.m.StartLSN); err != nil {
		return err
	}
	if e.stop, err = postgres.ParseLSN(e.m.StopLSN); err != nil {
		return err
	}
	e.size = postgres.SegmentSize(e.m.SegmentSize)
	return e.size.Check()
}

// checkCluster refuses a destination with the WAL or, without any, the backups of
// another cluster. No name in the classic layout tells clusters apart: a restore would read on in the other's WAL,
// and retention would count the backups of both as one's.
func (e *exporting) checkCluster(ctx context.Context) error {
	what := "the WAL"
	id, err := compat.System(ctx, e.to, e.s.decryptClassic)
	if errors.Is(err, storage.ErrNotExist) {
		list, lerr := compat.List(ctx, e.to)
		newest, ok := compat.Latest(list)
		if lerr != nil || !ok {
			return lerr
		}
		what = "backups"
		id, err = e.systemOf(ctx, newest)
	}
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		e.s.log.WarnContext(ctx, "cannot tell which cluster the destination is of", "detail", err.Error(),
			"hint", "Make sure that it is of system "+e.system.String()+", or export to an empty prefix.")
		return nil
	case id != e.system:
		return &message{
			kind: fault.OtherCluster, text: fmt.Sprintf("%s holds %s of system %s, and the backup is of %s", e.to.URL(), what, id, e.system),
			hint: "Export to an empty prefix or folder.",
		}
	}
	return nil
}

// systemOf returns whose a backup in the destination is.
func (e *exporting) systemOf(ctx context.Context, b compat.Backup) (postgres.SystemID, error) {
	summary, err := compat.Summarize(ctx, compat.ReadConfig{Bucket: e.to, Decrypt: e.s.decryptClassic}, b)
	if err != nil {
		return 0, err
	}
	control, err := postgres.ParseControlFile(summary.Control)
	if err != nil {
		return 0, err
	}
	return control.SystemID, nil
}

// wal exports the WAL that the backup needs to be consistent, or all from its start
// on, with the histories of timelines.
func (e *exporting) wal(ctx context.Context, all bool) error {
	var names []string
	if e.m.Kind != backup.Offline {
		for seg := range postgres.Segments(e.m.Timeline, e.start, e.stop, e.size) {
			names = append(names, seg.Name(e.size))
		}
	}
	if all {
		held, err := wal.Names(ctx, e.from, e.system)
		if err != nil {
			return err
		}
		first := postgres.SegmentAt(e.m.Timeline, e.start, e.size).Name(e.size)[8:] // timelines don't matter
		for _, name := range held {
			if len(name) < 24 || name[8:24] >= first { // a history, or late enough
				names = append(names, name)
			}
		}
		names = slices.Compact(slices.Sorted(slices.Values(names)))
		if err := e.checkGaps(ctx, names); err != nil {
			return err
		}
	}
	encrypt, err := e.s.encryptClassic(ctx)
	if err != nil {
		return err
	}
	cfg := compat.WALConfig{Bucket: e.to, Decrypt: e.s.decryptClassic, Encrypt: encrypt, System: e.system, Workers: 1}
	for _, name := range names {
		data, err := wal.ReadContent(ctx, e.reads, e.system, name)
		if errors.Is(err, wal.ErrNotFound) {
			return &message{
				kind: fault.WALMissing,
				text: fmt.Sprintf("WAL segment %s, which the backup needs to be consistent, is not in %s", name, e.from.URL()),
				hint: "Without it the backup can't be restored by anybody.", err: err,
			}
		}
		if err != nil {
			return err
		}
		pushed, err := compat.PushWALContent(ctx, cfg, name, data, e.m.Stopped)
		if err != nil {
			return err
		}
		if pushed.Stored == 0 {
			e.report.WALThere++
		} else {
			e.report.WAL++
			e.report.WALStored += pushed.Stored
		}
	}
	return nil
}

// checkGaps looks whether the segments of each timeline follow each other, and tells the
// first that don't. What comes behind a gap restores nothing of this backup.
func (e *exporting) checkGaps(ctx context.Context, names []string) error {
	var last postgres.Segment
	for _, name := range names {
		if postgres.ParseWALFile(name).Kind != postgres.SegmentFile {
			continue
		}
		at, err := postgres.ParseSegment(name, e.size)
		if err != nil {
			return err
		}
		if next := last.Next(); last.Timeline == at.Timeline && next != at {
			e.report.WALComplete = false
			e.s.log.WarnContext(ctx, "WAL of the export has a gap", "detail", fmt.Sprintf("%s is missing in %s, and %s is there.", next.Name(e.size), e.from.URL(), name),
				"hint", "The export can't be rolled forward over it. wal-e wal-verify tells all gaps.")
			return nil
		}
		last = at
	}
	return nil
}

// base exports the backup itself.
func (e *exporting) base(ctx context.Context, t *backup.Tree, workers int) (*compat.PushReport, error) {
	encrypt, err := e.s.encryptClassic(ctx)
	if err != nil {
		return nil, err
	}
	m := e.m
	meter, stop := e.s.meter(ctx)
	defer stop()
	meter.Begin("export", progress.Bytes, m.Bytes, nil)
	version := postgres.Version(m.ServerVersion)
	cfg := compat.ExportConfig{
		Bucket: e.to, Encrypt: encrypt, Version: version.String(), Timeline: m.Timeline, Start: e.start, Stop: e.stop, SegmentSize: e.size,
		Taken: m.Stopped, Offline: m.Kind == backup.Offline, Dir: m.DataDirectory, Tablespaces: make(map[uint32]string),
		Files: exportedFiles(ctx, t, m, meter), Label: m.Label, TablespaceMap: m.TablespaceMap, Workers: workers,
		Log: e.s.log.With("logger", "wal_e.operator.backup"),
	}
	if cfg.Offline {
		cfg.Version = version.Major()
	}
	for _, space := range m.Tablespaces {
		cfg.Tablespaces[space.OID] = space.Location
	}
	return compat.Export(ctx, cfg)
}

// exportedFiles yields what a backup holds as members of a classic one.
func exportedFiles(ctx context.Context, t *backup.Tree, m *backup.Manifest, meter *progress.Meter) iter.Seq2[compat.ExportFile, error] {
	return func(yield func(compat.ExportFile, error) bool) {
		root := compat.File{Path: ".", Mode: fs.ModeDir | fs.FileMode(m.Mode), Owner: m.Owner, Group: m.Group}
		if !yield(compat.ExportFile{File: root}, nil) {
			return
		}
		for e, err := range t.Entries(ctx, "") {
			f := compat.ExportFile{File: compat.File{Path: e.Path, Mode: e.Mode, Owner: e.Owner, Group: e.Group}}
			switch e.Type {
			case backup.Directory:
				f.Mode |= fs.ModeDir
			case backup.Symlink:
				f.Mode |= fs.ModeSymlink
				f.Link = e.Link
			case backup.File:
				f.Size = e.Content.Size
				f.Content = func(ctx context.Context, w io.Writer) error { return t.Copy(ctx, meter.Writer(w), e) }
			}
			if !yield(f, err) || err != nil {
				return
			}
		}
	}
}

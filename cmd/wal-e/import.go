package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/spf13/cobra"

	"wal-e/backup"
	"wal-e/chunkstore"
	"wal-e/compat"
	"wal-e/internal/fault"
	"wal-e/internal/postgres"
	"wal-e/internal/storage"
	"wal-e/wal"
)

const importLong = `Take base backups and WAL that classic WAL-E or WAL-E's format 005 wrote over into
the new layout of the prefix, where they are deduplicated, listed, restored and
deleted like any other. Times and positions stay; the source is only read. Nothing
is copied to disk. An import that is interrupted goes on when it is run again, and
what was imported already is passed over.

The source is the same prefix, which wal-e upgrade-layout has switched, or --from,
on any storage, with credentials from the same variables. Encrypted sources are
read with gpg and the key ring of the user who runs this.

A backup comes with the WAL that makes it consistent; --wal takes all of it. With
--all a backup that can't be read is passed over, and the import fails at its end.`

type importFlags struct {
	backup, from string
	all, wal     bool
}

func newImportCommand(a *app) *cobra.Command {
	var f importFlags
	cmd := &cobra.Command{
		Use:     "import",
		Short:   "take classic backups and WAL over into the new layout",
		Long:    importLong,
		Example: "  wal-e import --all --wal\n  wal-e import --from s3://old-bucket/wal-e --backup LATEST",
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.all == (f.backup != "") && (f.all || !f.wal) {
				return &usageError{cmd, "want --backup NAME, --all, or --wal alone"}
			}
			return a.do(cmd, func(ctx context.Context, s *session) error { return importClassic(ctx, s, f) })
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&f.backup, "backup", "", "import the backup `NAME`, or LATEST")
	flags.BoolVar(&f.all, "all", false, "import all backups, the oldest first")
	flags.BoolVar(&f.wal, "wal", false, "import all WAL")
	flags.StringVar(&f.from, "from", "", "read from the prefix `URL` instead of the same one")
	return cmd
}

// importing is one import under way.
type importing struct {
	s      *session
	target storage.Bucket
	source storage.Bucket
	read   compat.ReadConfig
}

func importClassic(ctx context.Context, s *session, f importFlags) error {
	target, err := s.openBucket(use{})
	if err != nil {
		return err
	}
	source := target
	if f.from != "" {
		from := &session{config: s.config, log: s.log, shown: s.shown, stdin: s.stdin, stdout: s.stdout, stderr: s.stderr}
		if from.prefix, err = parsePrefix("--from", f.from); err != nil {
			return err
		}
		if source, err = from.openBucket(use{reads: true}); err != nil {
			return err
		}
	}
	contents, err := compat.Detect(ctx, target)
	if err != nil {
		return layoutUnknown(err)
	}
	if contents.Layout() == compat.Classic {
		return &message{
			kind: fault.NotClassic,
			text: fmt.Sprintf("%s is a classic prefix, and an import would make it another", s.prefix),
			hint: "Switch it with wal-e upgrade-layout --confirm, or choose an empty prefix to import to, and name this one with --from.",
		}
	}
	if err := s.checkKnown(ctx, target); err != nil {
		return err
	}
	i := &importing{s: s, target: target, source: source, read: compat.ReadConfig{Bucket: source, Decrypt: s.decryptClassic}}
	problems, err := i.backups(ctx, f)
	if err == nil && f.wal {
		err = i.allWAL(ctx)
	}
	return errors.Join(problems, err)
}

// backups imports what the flags say, the oldest first. Problems are of backups that
// can't be imported, of several: they don't keep the others.
func (i *importing) backups(ctx context.Context, f importFlags) (problems, err error) {
	list, err := compat.List(ctx, i.source)
	if err != nil {
		return nil, err
	}
	switch {
	case f.backup == backup.Latest:
		newest, ok := compat.Latest(list)
		if list = nil; ok {
			list = []compat.Backup{newest}
		}
	case f.backup != "":
		list = slices.DeleteFunc(list, func(b compat.Backup) bool { return b.Name.String() != f.backup })
	case !f.all:
		return nil, nil
	}
	if len(list) == 0 {
		what := "classic backups"
		if f.backup != "" {
			what = "classic backup " + f.backup
		}
		return nil, &message{kind: fault.NoBackup, text: fmt.Sprintf("no %s in %s", what, i.source.URL()), err: storage.ErrNotExist}
	}
	slices.SortStableFunc(list, func(a, b compat.Backup) int { return a.LastModified.Compare(b.LastModified) })
	var bad []error
	for _, b := range list {
		err := i.backup(ctx, b)
		if err == nil {
			continue
		}
		err = fmt.Errorf("import backup %s: %w", b.Name, err)
		if !f.all || !isBadSource(ctx, err) {
			return nil, errors.Join(errors.Join(bad...), err)
		}
		i.s.log.WarnContext(ctx, "a classic backup can't be imported", "detail", err.Error(), "hint", "The import goes on with the others.")
		bad = append(bad, err)
	}
	if len(bad) == 0 {
		return nil, nil
	}
	all := errors.Join(bad...)
	return &message{
		kind: fault.NoImport, text: fmt.Sprintf("%d of %s could not be imported", len(bad), counted(len(list), "classic backup")),
		detail: all.Error(), hint: "The others were. Leave the classic archive as it is until these are imported, or known to be lost.", err: all,
	}, nil
}

// isBadSource tells errors that are of one backup alone, and not of a storage or of the
// host.
func isBadSource(ctx context.Context, err error) bool {
	if ctx.Err() != nil || errors.Is(err, storage.ErrPermission) {
		return false
	}
	kind := kindOf(err)
	return compat.IsDamage(err) || kind == fault.BadMember || kind == fault.NoImport
}

func (i *importing) backup(ctx context.Context, b compat.Backup) error {
	summary, err := compat.Summarize(ctx, i.read, b)
	if err != nil {
		return err
	}
	cfg := backup.ImportConfig{
		Bucket: i.target, Control: summary.Control, Label: summary.Label, Taken: b.LastModified, DataDirectory: summary.Sentinel.Spec.BasePrefix,
		Files: func(ctx context.Context, visit func(context.Context, backup.ImportFile, io.Reader) error) error {
			var read atomic.Int64
			err := compat.Files(ctx, i.read, b, func(ctx context.Context, f compat.File, content io.Reader) error {
				if f.Mode.IsRegular() {
					read.Add(f.Size)
				}
				return visit(ctx, backup.ImportFile{Path: f.Path, Mode: f.Mode, Size: f.Size, Link: f.Link, Owner: f.Owner, Group: f.Group}, content)
			})
			if want := summary.Sentinel.ExpandedSize; err == nil && want >= 0 && read.Load() != want {
				i.s.log.WarnContext(ctx, "the backup has another size than its sentinel says",
					"detail", fmt.Sprintf("The files of %s have %d bytes, the sentinel says %d.", b.Name, read.Load(), want),
					"hint", "Files that vanished while the backup was taken make the sentinel say more; so does the loss of the last partitions, which nothing else shows.")
			}
			return err
		},
		NeedWAL: func(ctx context.Context, system postgres.SystemID, names []string, content bool) (map[string][]byte, error) {
			return i.needWAL(ctx, b, system, names, content)
		},
		StateDir: i.stateDir, AllowNewCluster: i.s.allowNewCluster,
		Program: version, Host: hostname(), Log: i.s.log.With("logger", "wal_e.operator.backup"),
	}
	for oid, dir := range summary.Sentinel.Spec.Tablespaces {
		cfg.Tablespaces = append(cfg.Tablespaces, backup.Tablespace{OID: oid, Location: dir})
	}
	slices.SortFunc(cfg.Tablespaces, func(a, b backup.Tablespace) int { return int(int64(a.OID) - int64(b.OID)) })
	if !summary.Offline {
		if cfg.Stop, err = summary.Stop(); err != nil {
			return err
		}
	}
	system, name, err := cfg.Identity()
	if err != nil {
		return err
	}
	switch _, err := backup.Find(ctx, backup.FindConfig{Bucket: i.target, Query: name, System: system.String()}); {
	case err == nil:
		i.s.log.InfoContext(ctx, "passing over a backup that is there already", "detail", fmt.Sprintf("Classic backup %s is %s in %s.", b.Name, name, i.target.URL()))
		return nil
	case !errors.Is(err, storage.ErrNotExist):
		return err
	}
	if cfg.Keys, err = i.s.backupKeys(ctx, i.target); err != nil {
		return err
	}
	counter := storage.Counted(i.target)
	cfg.Bucket = counter
	meter, stop := i.s.meter(ctx)
	defer stop()
	cfg.Progress, cfg.Bytes = meter, max(0, summary.Sentinel.ExpandedSize)
	result, err := backup.Import(ctx, cfg)
	stop()
	if err != nil {
		return err
	}
	i.s.remember(ctx, system)
	return printPushed(i.s.stdout, result, counter.Counts(), false)
}

// stateDir is a state folder of its own: the cluster's is for pushes from its host.
func (i *importing) stateDir(system, _ string) (string, error) {
	return makeState(i.s.stateRoot, i.s.prefixStatePath()+"/"+system+"-import")
}

// needWAL brings segments over that a backup needs, and returns the content of them if
// it is asked for: of a backup of a stopped cluster. Such ones of ours carry segments
// that no archive has, and that must not go to one: the cluster may archive them later,
// with more in them.
func (i *importing) needWAL(ctx context.Context, b compat.Backup, system postgres.SystemID, names []string, content bool) (map[string][]byte, error) {
	missing, err := wal.Missing(ctx, i.target, system, slices.Values(names))
	if err != nil {
		return nil, err
	}
	held := make(map[string][]byte)
	for _, name := range names {
		if !content && !slices.Contains(missing, name) {
			continue
		}
		data, err := i.walFile(ctx, system, name)
		if content && errors.Is(err, storage.ErrNotExist) {
			data, err = compat.CarriedWAL(ctx, i.read, system, b, name)
		}
		if errors.Is(err, storage.ErrNotExist) {
			return nil, &message{
				kind: fault.NoImport,
				text: fmt.Sprintf("WAL segment %s, which the backup needs to be consistent, is not in %s", name, i.source.URL()),
				hint: "Without it the backup can't be restored by anybody; leave it out.", err: err,
			}
		}
		if err != nil {
			return nil, err
		}
		if content {
			held[name] = data
		}
	}
	return held, nil
}

// walFile brings one WAL file over and returns its content.
func (i *importing) walFile(ctx context.Context, system postgres.SystemID, name string) ([]byte, error) {
	data, err := compat.ReadWAL(ctx, compat.WALConfig{Bucket: i.source, Decrypt: i.s.decryptClassic, System: system}, name, int64(postgres.MaxSegmentSize))
	if err != nil {
		return nil, err
	}
	to, err := i.s.walWrites(ctx, i.target)
	if err != nil {
		return nil, err
	}
	_, err = wal.PushContent(ctx, wal.Config{Bucket: to, System: system, Level: i.s.level, Log: i.s.log}, system, name, data)
	return data, err
}

// allWAL brings all WAL files over that aren't there. One that can't be read, or is
// another cluster's, doesn't keep the others.
func (i *importing) allWAL(ctx context.Context) error {
	system, err := compat.System(ctx, i.source, i.s.decryptClassic)
	if err != nil {
		return err
	}
	if _, err := chunkstore.Admit(ctx, i.target, uint64(system), i.s.allowNewCluster); err != nil {
		return err
	}
	names, err := compat.WALFiles(ctx, i.source)
	if err != nil {
		return err
	}
	missing, err := wal.Missing(ctx, i.target, system, slices.Values(names))
	if err != nil {
		return err
	}
	var problems []string
	for _, name := range missing {
		if _, err := i.walFile(ctx, system, name); err != nil {
			if ctx.Err() != nil || errors.Is(err, storage.ErrPermission) {
				return err
			}
			problems = append(problems, err.Error())
		}
	}
	_, err = fmt.Fprintf(i.s.stdout, "%s of system %s imported, %d were there\n",
		counted(len(missing)-len(problems), "WAL file"), system, len(names)-len(missing))
	if len(problems) > 0 {
		err = errors.Join(err, &message{
			kind:   fault.NoImport,
			text:   fmt.Sprintf("%s could not be imported", counted(len(problems), "WAL file")),
			detail: strings.Join(problems, "\n"), hint: "The others were. Run the import again when the cause is mended.",
		})
	}
	return err
}

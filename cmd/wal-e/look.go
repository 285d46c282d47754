package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/spf13/cobra"

	"wal-e/backup"
	"wal-e/chunkstore"
	"wal-e/internal/fault"
	"wal-e/internal/storage"
)

// The commands that look into backups: ls, cat and diff.

const lsLong = `List what a backup holds, under PATH if one is given: mode, owner, group, size
in bytes, path within the data directory, and for files of tables and indexes
what they belong to. Nothing is restored; only what it takes is read.

Names come from the catalogs as they are in the backup, before WAL is replayed,
so those of relations that were changed during the push may be missing.`

func newLsCommand(a *app) *cobra.Command {
	var f lsFlags
	cmd := &cobra.Command{
		Use:     "ls BACKUP_NAME [PATH]",
		Short:   "list the files of a backup",
		Long:    lsLong,
		Example: "  wal-e ls LATEST\n  wal-e ls LATEST base/16384 --recursive",
		Args:    arguments("BACKUP_NAME", "[PATH]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.do(cmd, func(ctx context.Context, s *session) error {
				dir := ""
				if len(args) == 2 {
					dir = args[1]
				}
				return ls(ctx, s, f, args[0], dir)
			})
		},
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().BoolVarP(&f.recursive, "recursive", "R", false, "list folders below, too")
	cmd.Flags().StringVar(&f.system, "system", "", "the cluster's `SYSTEM_IDENTIFIER`, when the archive holds several")
	cmd.Flags().BoolVar(&f.json, "json", false, "print a line of JSON for each")
	return cmd
}

type lsFlags struct {
	recursive, json bool
	system          string
}

const catLong = `Write one file of a backup to standard output, as it was when it was pushed: a
configuration file, or a page of a table that is to be looked at. A file of a
table is not usable as one without the WAL after it.

When the exit status isn't 0, what was written isn't the whole file, or not the
right one.`

func newCatCommand(a *app) *cobra.Command {
	var system string
	cmd := &cobra.Command{
		Use:     "cat BACKUP_NAME PATH",
		Short:   "write a file of a backup to standard output",
		Long:    catLong,
		Example: "  wal-e cat LATEST postgresql.conf",
		Args:    arguments("BACKUP_NAME", "PATH"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.do(cmd, func(ctx context.Context, s *session) error { return cat(ctx, s, system, args[0], args[1]) })
		},
	}
	cmd.Flags().StringVar(&system, "system", "", "the cluster's `SYSTEM_IDENTIFIER`, when the archive holds several")
	return cmd
}

const diffLong = `Show what changed from backup A to backup B: files that were added, removed or
changed, with their sizes, how many bytes of each the packs of A don't hold, and
the tables and indexes that they belong to. What both share isn't read.`

func newDiffCommand(a *app) *cobra.Command {
	var f diffFlags
	cmd := &cobra.Command{
		Use:     "diff BACKUP_A BACKUP_B",
		Short:   "show what changed between two backups",
		Long:    diffLong,
		Example: "  wal-e diff base_00000001000000000000000F_00000040 LATEST",
		Args:    arguments("BACKUP_A", "BACKUP_B"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.do(cmd, func(ctx context.Context, s *session) error { return showDiff(ctx, s, f, args[0], args[1]) })
		},
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().StringVar(&f.system, "system", "", "the cluster's `SYSTEM_IDENTIFIER`, when the archive holds several")
	cmd.Flags().BoolVar(&f.json, "json", false, "print a line of JSON for each")
	return cmd
}

type diffFlags struct {
	json   bool
	system string
}

// openTree opens the backup that a query names, for looking.
func (s *session) openTree(ctx context.Context, b storage.Bucket, system, query string) (*backup.Tree, error) {
	found, err := backup.Find(ctx, backup.FindConfig{Bucket: b, Query: query, System: system})
	switch classic, ok, cerr := classicInstead(ctx, b, query, found, err); {
	case cerr != nil:
		return nil, cerr
	case ok:
		return nil, &message{
			kind: fault.NotClassic,
			text: fmt.Sprintf("backup %s is a classic one, which can't be looked into", classic.Name),
			hint: "`wal-e import` makes a backup of it that can be; or restore it with `wal-e backup-fetch`.",
		}
	}
	if err != nil {
		return nil, s.explainMissing(ctx, b, query, "looked into", err)
	}
	store, err := chunkstore.Open(ctx, b, s.log)
	if err != nil {
		return nil, err
	}
	if store, err = s.openFor(ctx, b, store, found, true); err != nil {
		return nil, err
	}
	return backup.OpenTree(ctx, store, found, "")
}

// lookPath is a path as the file table has it; "" is the data directory.
func lookPath(p string) (string, error) {
	clean := strings.TrimPrefix(path.Clean("/"+p), "/")
	if strings.Contains("/"+p+"/", "/../") {
		return "", &message{kind: fault.NoEntry, text: fmt.Sprintf("path %q leads out of the data directory", p), hint: "Want one within it, such as base/16384."}
	}
	return clean, nil
}

// A lookedEntry is a line of ls.
type lookedEntry struct {
	Path     string `json:"path"`
	Type     string `json:"type"` // file, directory or symlink
	Mode     string `json:"mode"` // octal permission bits
	Owner    string `json:"owner"`
	Group    string `json:"group"`
	Size     int64  `json:"bytes"`
	Link     string `json:"link,omitempty"`     // where a symlink points
	Relation string `json:"relation,omitempty"` // DATABASE: SCHEMA.NAME (FORK)
}

func ls(ctx context.Context, s *session, f lsFlags, query, dir string) (err error) {
	if dir, err = lookPath(dir); err != nil {
		return err
	}
	b, err := s.openBucket(use{reads: true})
	if err != nil {
		return err
	}
	t, err := s.openTree(ctx, b, f.system, query)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	names, err := t.Names(ctx)
	if err != nil {
		return err
	}
	found := false
	for e, err := range t.Entries(ctx, dir) {
		if err != nil {
			return err
		}
		found = true
		if rest := strings.TrimPrefix(strings.TrimPrefix(e.Path, dir), "/"); !f.recursive && strings.Contains(rest, "/") || rest == "" && e.Type == backup.Directory {
			continue
		}
		relation, err := names.Name(ctx, e.Path)
		if err != nil {
			return err
		}
		if err := printLooked(s.stdout, e, relation, f.json); err != nil {
			return err
		}
	}
	if !found {
		return notInBackup(t, dir)
	}
	return nil
}

func notInBackup(t *backup.Tree, p string) error {
	return &message{
		kind: fault.NoEntry,
		text: fmt.Sprintf("no %s in backup %s", p, t.Backup().Ref),
		hint: "`wal-e ls` prints what there is. Paths are those within the data directory.",
		err:  backup.ErrNoEntry,
	}
}

func printLooked(w io.Writer, e backup.Entry, relation string, asJSON bool) error {
	mode, kind, tail := e.Mode, "file", ""
	switch e.Type {
	case backup.Directory:
		mode, kind, tail = mode|fs.ModeDir, "directory", "/"
	case backup.Symlink:
		mode, kind, tail = mode|fs.ModeSymlink, "symlink", " -> "+e.Link
	}
	if asJSON {
		return json.NewEncoder(w).Encode(lookedEntry{
			e.Path, kind, fmt.Sprintf("%04o", e.Mode.Perm()), e.Owner, e.Group, e.Content.Size, e.Link, relation,
		})
	}
	if relation != "" {
		tail += "  " + relation
	}
	_, err := fmt.Fprintf(w, "%s %-8s %-8s %12d %s%s\n", mode, e.Owner, e.Group, e.Content.Size, e.Path, tail)
	return err
}

func cat(ctx context.Context, s *session, system, query, p string) (err error) {
	if p, err = lookPath(p); err != nil {
		return err
	}
	b, err := s.openBucket(use{reads: true})
	if err != nil {
		return err
	}
	t, err := s.openTree(ctx, b, system, query)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Close()) }()
	e, err := t.Entry(ctx, p)
	if errors.Is(err, backup.ErrNoEntry) {
		return notInBackup(t, p)
	}
	if err != nil {
		return err
	}
	return t.Copy(ctx, s.stdout, e)
}

// A lookedChange is a line of diff.
type lookedChange struct {
	backup.Change
	Relation string `json:"relation,omitempty"` // DATABASE: SCHEMA.NAME (FORK)
}

func showDiff(ctx context.Context, s *session, f diffFlags, queryA, queryB string) (err error) {
	b, err := s.openBucket(use{reads: true})
	if err != nil {
		return err
	}
	from, err := s.openTree(ctx, b, f.system, queryA)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	to, err := s.openTree(ctx, b, f.system, queryB)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	namesFrom, err := from.Names(ctx)
	if err != nil {
		return err
	}
	namesTo, err := to.Names(ctx)
	if err != nil {
		return err
	}
	var count, fresh int64
	for c, err := range backup.Diff(ctx, from, to) {
		if err != nil {
			return err
		}
		names := namesTo
		if c.Kind == backup.Removed {
			names = namesFrom
		}
		relation, err := names.Name(ctx, c.Path)
		if err != nil {
			return err
		}
		count++
		fresh += c.New
		if f.json {
			err = json.NewEncoder(s.stdout).Encode(lookedChange{c, relation})
		} else {
			err = printChange(s.stdout, c, relation)
		}
		if err != nil {
			return err
		}
	}
	if f.json {
		return nil
	}
	_, err = fmt.Fprintf(s.stdout, "%s differ from %s to %s; %s of new data\n",
		counted(count, "path"), from.Backup().Ref, to.Backup().Ref, bytesText(fresh))
	return err
}

func printChange(w io.Writer, c backup.Change, relation string) error {
	if relation != "" {
		relation = "  " + relation
	}
	sizes := ""
	switch c.Kind {
	case backup.Added:
		sizes = fmt.Sprintf("%s, %s new", bytesText(c.After), bytesText(c.New))
	case backup.Removed:
		sizes = bytesText(c.Before)
	case backup.Changed:
		sizes = fmt.Sprintf("%s to %s, %s new", bytesText(c.Before), bytesText(c.After), bytesText(c.New))
	}
	if sizes != "" {
		sizes = " (" + sizes + ")"
	}
	_, err := fmt.Fprintf(w, "%-10s %s%s%s\n", c.Kind, c.Path, sizes, relation)
	return err
}

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"wal-e/backup"
	"wal-e/internal/fault"
	"wal-e/internal/storage"
)

const backupListLong = `List the base backups, or the one that QUERY names: LATEST, a NAME, or NAME@RUN
for one of several pushes of a name. Columns are separated by tabs and lines end
in CR LF, as classic WAL-E has it. If any is encrypted, --detail adds a column
with its epoch, or "plain".`

func newBackupListCommand(a *app) *cobra.Command {
	var detail, asJSON bool
	cmd := &cobra.Command{
		Use:     "backup-list [QUERY]",
		Short:   "list base backups",
		Long:    backupListLong,
		Example: "  wal-e backup-list --detail\n  wal-e backup-list --json LATEST",
		Args:    arguments("[QUERY]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.do(cmd, func(ctx context.Context, s *session) error {
				query := ""
				if len(args) == 1 {
					query = args[0]
				}
				return backupList(ctx, s, query, detail, asJSON)
			})
		},
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().BoolVar(&detail, "detail", false, "fill in size and stop position, and whose keys encrypted backups need")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print everything known as JSON")
	return cmd
}

func backupList(ctx context.Context, s *session, query string, detail, asJSON bool) error {
	b, err := s.openBucket(use{reads: true})
	if err != nil {
		return err
	}
	list, err := listBoth(ctx, b, query, detail || asJSON)
	if err != nil && !errors.Is(err, backup.ErrBadQuery) && list == nil {
		return err
	}
	if asJSON {
		if list == nil {
			list = []listed{}
		}
		return errors.Join(err, json.NewEncoder(s.stdout).Encode(list))
	}
	if werr := printList(s.stdout, list, detail); werr != nil {
		return werr
	}
	return explainQuery(query, err)
}

const hintBackups = "wal-e backup-list prints those that there are."

// explainQuery puts the errors about the name of a backup into the words of
// classic WAL-E, of which backup-list and backup-fetch are commands; for others there
// is explainMissing.
func explainQuery(query string, err error) error {
	switch {
	case errors.Is(err, backup.ErrBadQuery):
		return &message{
			kind:   fault.NoBackup,
			text:   "invalid backup query submitted",
			detail: fmt.Sprintf("The submitted query operator was %q.", query),
			hint:   "Want LATEST, a name such as base_000000010000000000000004_00000040, or NAME@RUN.",
			err:    err,
		}
	case errors.Is(err, storage.ErrNotExist):
		return &message{
			kind:   fault.NoBackup,
			text:   "no backups found for fetching",
			detail: fmt.Sprintf("No backup matching the query %s was able to be located.\n%v", query, err),
			hint:   hintBackups,
			err:    err,
		}
	}
	return err
}

// shownBackups is how many backups are named when another one was asked for.
const shownBackups = 5

// explainMissing says of an error of Find that there is no such backup, and which
// there are. What the command does is what can't be done to a classic one.
func (s *session) explainMissing(ctx context.Context, b storage.Bucket, query, does string, err error) error {
	if !errors.Is(err, storage.ErrNotExist) {
		return explainQuery(query, err)
	}
	switch classic, ok, cerr := classicInstead(ctx, b, query, nil, err); {
	case cerr != nil:
		return cerr
	case ok:
		return &message{
			kind: fault.NotClassic,
			text: fmt.Sprintf("backup %s is a classic one, which can't be %s", classic.Name, does),
			hint: "`wal-e import` makes a backup of it that can be; or restore it with `wal-e backup-fetch`.",
		}
	}
	list, lerr := listBoth(ctx, b, "", false)
	if lerr != nil && list == nil {
		return errors.Join(err, lerr)
	}
	m := &message{kind: fault.NoBackup, text: strings.TrimSuffix(err.Error(), ": "+storage.ErrNotExist.Error()), hint: hintBackups, err: err}
	if len(list) == 0 {
		m.detail, m.hint = "This prefix holds no backups at all.", "See that the prefix is the right one; `wal-e backup-push` takes a first backup."
		return m
	}
	slices.SortStableFunc(list, func(a, b listed) int { return b.LastModified.Compare(a.LastModified) })
	var names []string
	for _, l := range list[:min(len(list), shownBackups)] {
		names = append(names, l.Name)
	}
	m.detail = fmt.Sprintf("This prefix holds %s: %s.", counted(len(list), "backup"), strings.Join(names, ", "))
	if len(list) > shownBackups {
		m.detail = fmt.Sprintf("This prefix holds %d backups, the newest of them %s.", len(list), strings.Join(names, ", "))
	}
	return m
}

// printList writes the classic table. Without detail its columns are there but
// empty. Where backups are encrypted, detail has a column more.
func printList(w io.Writer, list []listed, detail bool) error {
	const line = "%s\t%s\t%s\t%s\t%s\t%s\t%s"
	epochs := detail && slices.ContainsFunc(list, func(l listed) bool { return l.Epoch != "" })
	end := func(epoch string) error {
		if epochs {
			epoch = "\t" + epoch
		} else {
			epoch = ""
		}
		_, err := io.WriteString(w, epoch+"\r\n")
		return err
	}
	if _, err := fmt.Fprintf(w, line, "name", "last_modified", "expanded_size_bytes", "wal_segment_backup_start",
		"wal_segment_offset_backup_start", "wal_segment_backup_stop", "wal_segment_offset_backup_stop"); err != nil {
		return err
	}
	if err := end("encryption_epoch"); err != nil {
		return err
	}
	for _, l := range list {
		var size, stop, offset string
		if detail {
			if l.ExpandedSize >= 0 {
				size = strconv.FormatInt(l.ExpandedSize, 10)
			}
			stop, offset = l.StopSegment, l.StopSegmentOffset
		}
		if _, err := fmt.Fprintf(w, line, l.Name, l.LastModified.UTC().Format(listTime), size,
			l.StartSegment, l.StartSegmentOffset, stop, offset); err != nil {
			return err
		}
		if err := end(cmp.Or(l.Epoch, "plain")); err != nil {
			return err
		}
	}
	return nil
}

// listTime is the form of last_modified on file storage and Swift.
const listTime = "2006-01-02T15:04:05.000000"

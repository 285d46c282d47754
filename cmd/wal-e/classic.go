package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"

	"wal-e/backup"
	"wal-e/compat"
	"wal-e/internal/fault"
	"wal-e/internal/postgres"
	"wal-e/internal/progress"
	"wal-e/internal/storage"
	"wal-e/wal"
)

// listed is a line of a backup list, of either layout.
type listed struct {
	backup.Listed
	classic bool
}

// A classicListed is the JSON of a classic backup in a list.
type classicListed struct {
	Name               string        `json:"name"`
	Layout             compat.Layout `json:"layout"`
	LastModified       any           `json:"last_modified"`
	ExpandedSize       int64         `json:"expanded_size_bytes"` // -1: the sentinel doesn't say
	StartSegment       string        `json:"wal_segment_backup_start"`
	StartSegmentOffset string        `json:"wal_segment_offset_backup_start"`
	StopSegment        string        `json:"wal_segment_backup_stop"`
	StopSegmentOffset  string        `json:"wal_segment_offset_backup_stop"`
}

// MarshalJSON gives a classic backup the fields that it has.
func (l listed) MarshalJSON() ([]byte, error) {
	if !l.classic {
		return json.Marshal(l.Listed)
	}
	return json.Marshal(classicListed{
		Name: l.Name, Layout: compat.Classic, LastModified: l.LastModified, ExpandedSize: l.ExpandedSize,
		StartSegment: l.StartSegment, StartSegmentOffset: l.StartSegmentOffset,
		StopSegment: l.StopSegment, StopSegmentOffset: l.StopSegmentOffset,
	})
}

// listBoth returns the backups of both layouts that a query names, by name. Errors
// of single backups come with the others.
func listBoth(ctx context.Context, b storage.Bucket, query string, detail bool) ([]listed, error) {
	ours, err := backup.List(ctx, b, query)
	name, nameErr := compat.ParseName(query)
	if errors.Is(err, backup.ErrBadQuery) && nameErr == nil {
		err = nil // the name of one that was taken offline
	}
	if err != nil && ours == nil {
		return nil, err
	}
	list := make([]listed, 0, len(ours))
	for _, l := range ours {
		list = append(list, listed{Listed: l})
	}
	if strings.Contains(query, "@") {
		return list, err
	}
	all, cerr := compat.List(ctx, b)
	if cerr != nil {
		return nil, errors.Join(err, cerr)
	}
	switch {
	case query == backup.Latest:
		newest, ok := compat.Latest(all)
		if !ok || len(ours) > 0 && !newest.LastModified.After(ours[0].Stopped) {
			return list, err
		}
		list, all = nil, []compat.Backup{newest}
	case query != "":
		all = slices.DeleteFunc(all, func(c compat.Backup) bool { return c.Name != name })
	}
	for _, c := range all {
		l, cerr := listClassic(ctx, b, c, detail)
		err = errors.Join(err, cerr)
		list = append(list, l)
	}
	slices.SortStableFunc(list, func(a, b listed) int { return strings.Compare(a.Name, b.Name) })
	return list, err
}

// listClassic makes a line of a classic backup. What only its sentinel knows is
// read for details; a sentinel that can't be read leaves them empty, and is an
// error beside the line.
func listClassic(ctx context.Context, b storage.Bucket, c compat.Backup, detail bool) (listed, error) {
	l := listed{classic: true, Listed: backup.Listed{
		Name: c.Name.String(), LastModified: c.LastModified, ExpandedSize: -1,
		StartSegment: c.Name.Segment, StartSegmentOffset: c.Name.Offset,
	}}
	if !detail {
		return l, nil
	}
	sentinel, err := compat.ReadSentinel(ctx, b, c.Name)
	if err != nil {
		return l, err
	}
	l.ExpandedSize, l.StopSegment, l.StopSegmentOffset = sentinel.ExpandedSize, sentinel.StopSegment, sentinel.StopOffset
	return l, nil
}

// classicInstead returns the classic backup that a query means, if it doesn't mean
// found, ours, which is nil when there was the error err.
func classicInstead(ctx context.Context, b storage.Bucket, query string, found *backup.Backup, err error) (compat.Backup, bool, error) {
	if err != nil && !errors.Is(err, storage.ErrNotExist) && !errors.Is(err, backup.ErrBadQuery) {
		return compat.Backup{}, false, nil
	}
	if query == backup.Latest {
		all, err := compat.List(ctx, b)
		newest, ok := compat.Latest(all)
		if err != nil || !ok || found != nil && !newest.LastModified.After(found.Manifest.Stopped) {
			return compat.Backup{}, false, err
		}
		return newest, true, nil
	}
	name, err := compat.ParseName(query)
	if err != nil || found != nil {
		return compat.Backup{}, false, nil
	}
	c, err := compat.Find(ctx, b, name)
	if errors.Is(err, storage.ErrNotExist) {
		return compat.Backup{}, false, nil
	}
	return c, err == nil, err
}

// fetchClassicBackup restores a classic backup.
func fetchClassicBackup(ctx context.Context, s *session, b storage.Bucket, f fetchFlags, dir string, c compat.Backup) error {
	for _, o := range []struct {
		name string
		set  bool
	}{{"--recover", f.recover}, {"--with-wal", f.withWAL}, {"--overwrite-config", f.overwriteConfig}, {"--delta", f.delta}} {
		if o.set {
			return &message{
				kind: fault.NotClassic,
				text: fmt.Sprintf("%s is a classic backup, and %s is for others", c.Name, o.name),
				hint: "Fetch it without, and write restore_command and recovery.signal (before PostgreSQL 12 recovery.conf) yourself. " +
					"A base backup in the new layout, if there is one, is named with NAME.",
			}
		}
	}
	spaces, err := tablespaceMap(f.tablespaces)
	if err != nil {
		return err
	}
	cfg := compat.FetchConfig{
		Bucket: b, Backup: c, Dir: dir, Decrypt: s.decryptClassic, Workers: f.poolSize,
		TablespaceMap: spaces, BlindRestore: f.blind, WALDir: f.walDir, Owner: f.owner, DryRun: f.dryRun,
		Log: s.log.With("logger", "wal_e.worker.base"),
	}
	if f.restoreSpec != "" && f.restoreSpec != backup.RestoreSpecSource {
		if cfg.RestoreSpec, err = os.ReadFile(f.restoreSpec); err != nil {
			return fmt.Errorf("restore specification does not exist, or can't be read: %w", err)
		}
	}
	meter, stop := s.meter(ctx)
	defer stop()
	cfg.Progress = meter
	report, err := compat.Fetch(ctx, cfg)
	stop()
	if err != nil {
		return err
	}
	if f.json {
		return json.NewEncoder(s.stdout).Encode(report)
	}
	return printClassicFetched(s.stdout, report)
}

func printClassicFetched(w io.Writer, r *compat.FetchReport) error {
	var b strings.Builder
	if r.Done {
		fmt.Fprintf(&b, "restored classic backup %s into %s: %s, %s, from %s of %s\n", r.Backup, r.Dir,
			counted(r.Files, "file"), bytesText(r.Bytes), counted(r.Partitions, "partition"), bytesText(r.PackedBytes))
	} else {
		fmt.Fprintf(&b, "would restore classic backup %s into %s from %s of %s\n", r.Backup, r.Dir,
			counted(r.Partitions, "partition"), bytesText(r.PackedBytes))
	}
	for _, t := range r.Tablespaces {
		fmt.Fprintf(&b, "  tablespace %d: %s (was %s)\n", t.OID, t.Directory, t.Original)
	}
	if r.WALDir != "" {
		fmt.Fprintf(&b, "  WAL directory: %s\n", r.WALDir)
	}
	if !r.Done { // a fetch logs them as it goes
		for _, w := range r.Warnings {
			fmt.Fprintf(&b, "warning: %s\n", w)
		}
	}
	for _, next := range r.Next {
		fmt.Fprintf(&b, "next: %s\n", next)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// fetchClassicWAL fetches a WAL file from the classic archive under the prefix, when
// ours doesn't hold it, which absent says.
func (s *session) fetchClassicWAL(ctx context.Context, b storage.Bucket, system postgres.SystemID, name, dest string, absent error) (wal.Fetched, error) {
	err := compat.FetchWAL(ctx, compat.WALConfig{Bucket: b, Decrypt: s.decryptClassic, System: system, Workers: runtime.GOMAXPROCS(0)}, name, dest)
	if errors.Is(err, storage.ErrNotExist) {
		return wal.Fetched{}, s.explainAbsence(ctx, b, absent)
	}
	if err != nil {
		return wal.Fetched{}, err
	}
	key := compat.WALKey(name)
	s.log.InfoContext(ctx, "completed download and decompression", "logger", s.blobLogger(),
		"detail", fmt.Sprintf("Downloaded and decompressed %q to %q", b.URL()+"/"+key, dest))
	return wal.Fetched{Key: key}, nil
}

// verifyClassic verifies the classic backups that a query names; "" names all. ours is how
// many of our own layout it names: they come first.
func verifyClassic(ctx context.Context, s *session, b storage.Bucket, f verifyFlags, query string, ours int) ([]*compat.Verified, error) {
	all, err := compat.List(ctx, b)
	if err != nil {
		return nil, err
	}
	switch {
	case query == "":
	case query == backup.Latest:
		newest, ok := compat.Latest(all)
		if ok && ours > 0 {
			list, err := backup.List(ctx, b, query)
			ok = err == nil && len(list) > 0 && newest.LastModified.After(list[0].Stopped)
		}
		if all = nil; ok {
			all = []compat.Backup{newest}
		}
	default:
		all = slices.DeleteFunc(all, func(c compat.Backup) bool { return c.Name.String() != query || ours > 0 })
	}
	var verified []*compat.Verified
	if len(all) == 0 {
		return nil, nil
	}
	meter, stop := s.meter(ctx)
	defer stop()
	meter.Begin("look at classic backups", progress.Items, int64(len(all)), nil)
	for _, c := range all {
		v, err := compat.Verify(ctx, compat.VerifyConfig{
			Bucket: b, Decrypt: s.decryptClassic, ReadData: f.readData, WAL: f.wal, Workers: runtime.GOMAXPROCS(0), Log: s.log,
		}, c)
		if err != nil {
			return verified, err
		}
		meter.Add(1)
		verified = append(verified, v)
	}
	return verified, nil
}

// errClassicDamaged is what verify fails with when a classic backup has problems;
// they were printed.
var errClassicDamaged = fault.BadMember.Errorf("damaged")

func printClassicVerified(w io.Writer, list []*compat.Verified, f verifyFlags) error {
	var b strings.Builder
	for _, v := range list {
		state := "ok"
		if !v.OK {
			state = "DAMAGED"
		}
		fmt.Fprintf(&b, "%s: %s, classic, %s", v.Name, state, counted(v.Partitions, "partition"))
		if f.readData {
			fmt.Fprintf(&b, " with %s, %s", counted(v.Files, "file"), bytesText(v.Bytes))
		}
		if f.wal {
			fmt.Fprintf(&b, "; %s found", counted(v.WAL, "WAL segment"))
		}
		b.WriteString("\n")
		for _, p := range v.Problems {
			fmt.Fprintf(&b, "PROBLEM %s: %s\n", p.Object, p.Text)
		}
		for _, p := range v.Warnings {
			fmt.Fprintf(&b, "warning %s: %s\n", p.Object, p.Text)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// classicDamage returns an error if one of the backups has problems.
func classicDamage(list []*compat.Verified) error {
	damaged := 0
	for _, v := range list {
		if !v.OK {
			damaged++
		}
	}
	if damaged > 0 {
		return fmt.Errorf("%d of %s: %w", damaged, counted(len(list), "classic backup"), errClassicDamaged)
	}
	return nil
}

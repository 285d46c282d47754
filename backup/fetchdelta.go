package backup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"wal-e/internal/fault"
	"wal-e/internal/postgres"
)

// A DeltaReport says what a fetch into a directory with a cluster found there.
type DeltaReport struct {
	Files   int64 `json:"unchanged_files"` // that were as in the backup
	Bytes   int64 `json:"unchanged_bytes"` // of those files
	Removed int64 `json:"removed"`         // files, links and folders that the backup doesn't have
}

// inspect looks at the directory that a backup is to be restored to.
func (f *fetcher) inspect() (*inspection, error) {
	if f.cfg.Delta && exists(filepath.Join(f.dir, "PG_VERSION")) {
		f.delta = true
		return f.inspectCluster()
	}
	return inspect(f.dir)
}

// inspectCluster looks at a directory with a cluster, of which only what differs
// from the backup is to be written. It refuses all that the directory's name may
// have been mistaken for, and to destroy the only copy of WAL.
func (f *fetcher) inspectCluster() (*inspection, error) {
	in := &inspection{exists: true, links: make(map[uint32]string), inPlace: make(map[uint32]bool)}
	if err := f.checkSameCluster(in); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return nil, err
	}
	wal := walDirectory(f.version)
	for _, e := range entries {
		name, link := e.Name(), e.Type() == fs.ModeSymlink
		switch {
		case name == "pg_tblspc" && e.IsDir():
			err = in.clusterTablespaces(filepath.Join(f.dir, name))
		case name == wal && (link || e.IsDir()):
			in.wal = wal
			if link {
				in.toWAL, err = leadsTo(filepath.Join(f.dir, name))
			}
		case (name == "log" || name == "pg_log") && e.IsDir():
			in.kept = append(in.kept, name)
		default:
			var kept bool
			if kept, err = in.keep(f.dir, e); err == nil && !kept && link {
				err = fault.TargetInUse.Errorf("%s is a link: only those of tablespaces and of %s are followed; remove it, or restore to an empty directory", filepath.Join(f.dir, name), wal)
			}
		}
		if err != nil {
			return nil, err
		}
	}
	if f.cfg.DiscardWAL {
		return in, nil
	}
	return in, f.checkArchived(in, filepath.Join(f.dir, wal))
}

// checkSameCluster makes sure that a directory's cluster is the backup's.
func (f *fetcher) checkSameCluster(in *inspection) error {
	version, err := postgres.ReadVersion(f.dir)
	if err != nil {
		return err
	}
	if version.Major() != f.version.Major() {
		return fault.TargetInUse.Errorf("%s is of PostgreSQL %s, the backup of %s: restore to another directory", f.dir, version.Major(), f.version.Major())
	}
	b, err := os.ReadFile(filepath.Join(f.dir, filepath.FromSlash(controlPath)))
	var control *postgres.ControlFile
	if err == nil {
		if control, err = postgres.ParseControlFile(b); err == nil && control.SystemID.String() != f.b.Manifest.System {
			return fault.TargetInUse.Errorf("%s holds another cluster, %s, and the backup is of %s: restore to another directory", f.dir, control.SystemID, f.b.Manifest.System)
		}
	}
	if err != nil {
		return fault.TargetInUse.Errorf("whose cluster %s is can't be told: %w: restore to another directory, or empty this one", f.dir, err)
	}
	in.control, in.crashed = fingerprint(b), crashed(control)
	return nil
}

// crashed tells of a cluster that wrote WAL of its own whether it was shut down.
// What a standby has was written, and is archived, elsewhere.
func crashed(control *postgres.ControlFile) bool {
	switch control.State {
	case postgres.ShuttingDown, postgres.InCrashRecovery, postgres.InProduction:
		return true
	}
	return false
}

// fingerprint tells one pg_control from others.
func fingerprint(control []byte) string {
	sum := sha256.Sum256(control)
	return hex.EncodeToString(sum[:])
}

// clusterTablespaces notes where the tablespaces of a cluster are.
func (in *inspection) clusterTablespaces(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		oid, err := strconv.ParseUint(e.Name(), 10, 32)
		switch {
		case err != nil:
		case e.IsDir():
			in.inPlace[uint32(oid)] = true
		case e.Type() == fs.ModeSymlink:
			if err := in.tablespaceLink(uint32(oid), filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkArchived refuses a WAL directory with files that wait to be archived, and of
// a server that crashed those that it had no time to mention: the last transactions
// are in a segment that was never completed, which nothing says of any other file.
func (f *fetcher) checkArchived(in *inspection, dir string) error {
	entries, err := os.ReadDir(filepath.Join(dir, "archive_status"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var names []string
	done := make(map[string]bool)
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".ready"); ok {
			names = append(names, name)
		} else if name, ok := strings.CutSuffix(e.Name(), ".done"); ok {
			done[name] = true
		}
	}
	// With a label the server was never started on what was restored, and has written nothing.
	if in.crashed && !exists(filepath.Join(f.dir, labelFile)) {
		written, err := writtenSegments(dir)
		if err != nil {
			return err
		}
		for _, name := range written {
			if !done[name] && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	if len(names) == 0 {
		return nil
	}
	return fault.Unarchived.Errorf("%s holds WAL that was never archived (%s): push it with `wal-e wal-push` or copy it away, or give --discard-wal if nobody needs it", dir, shorten(names))
}

// writtenSegments returns the segments in a WAL directory that hold WAL of their
// own, and aren't there only to be written to.
func writtenSegments(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if !e.Type().IsRegular() || postgres.ParseWALFile(e.Name()).Kind != postgres.SegmentFile {
			continue
		}
		ok, rerr := holdsWAL(filepath.Join(dir, e.Name()))
		if rerr != nil {
			return nil, rerr
		}
		if ok {
			names = append(names, e.Name())
		}
	}
	return names, err
}

func holdsWAL(segment string) (bool, error) {
	file, err := os.Open(segment)
	if err != nil {
		return false, err
	}
	head := make([]byte, postgres.WALHeaderSize)
	n, err := io.ReadFull(file, head)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return false, err
	}
	h, err := postgres.ParseWALHeader(head[:n])
	if err != nil {
		return false, nil // zeros, or no WAL
	}
	_, err = h.CheckName(filepath.Base(segment))
	return err == nil, nil // under another name it is one that was used before
}

// sweep removes what a directory has and the backup doesn't.
func (f *fetcher) sweep(ctx context.Context) error {
	next, stop := iter.Pull2(f.entries(ctx))
	defer stop()
	s := &sweeper{f: f, pull: next}
	if err := s.advance(); err != nil {
		return err
	}
	root, _ := f.site(".")
	err := s.folder(root, ".", "")
	f.report.Delta.Removed += s.removed
	return err
}

// A sweeper walks a directory and the file table side by side: both are in the
// same order, so neither is held in memory.
type sweeper struct {
	f       *fetcher
	pull    func() (Entry, error, bool)
	entry   Entry // the next one of the table; no path: there is none
	removed int64
}

func (s *sweeper) advance() error {
	e, err, ok := s.pull()
	if !ok {
		e = Entry{}
	}
	s.entry = e
	return err
}

// folder sweeps what is at rel of a site, whose paths begin with prefix.
func (s *sweeper) folder(at *site, rel, prefix string) error {
	d, err := at.root.Open(rel)
	if err != nil {
		return err
	}
	found, err := d.ReadDir(-1)
	if err := errors.Join(err, d.Close()); err != nil {
		return err
	}
	slices.SortFunc(found, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	for _, e := range found {
		if err := s.visit(at, filepath.Join(rel, e.Name()), prefix+e.Name(), e); err != nil {
			return err
		}
	}
	return nil
}

// visit decides what becomes of the thing at rel of a site, whose path in the
// table would be p.
func (s *sweeper) visit(at *site, rel, p string, e fs.DirEntry) error {
	for s.entry.Path != "" && comparePaths(s.entry.Path, p) < 0 {
		if err := s.advance(); err != nil {
			return err
		}
	}
	if s.f.stays(at, rel, p) {
		return nil
	}
	for _, other := range s.f.sites {
		if other.prefix == p {
			return s.folder(other, ".", p+"/")
		}
	}
	oid, itself, ok := spaceOID(p)
	inPlace := ok && itself && s.f.isBlind(oid) && e.IsDir()
	is := s.entry.Path == p
	switch {
	case inPlace, is && s.entry.Type == Directory && e.IsDir(), e.IsDir() && (p == "pg_tblspc" || s.f.keepsBelow(p)):
		return s.folder(at, rel, p+"/")
	case is && s.entry.Type == File && e.Type().IsRegular():
		return nil // compared later
	case p == "postmaster.pid":
		return checkNoServer(s.f.dir)
	}
	if err := at.root.RemoveAll(rel); err != nil {
		return fmt.Errorf("remove what isn't in the backup: %w", err)
	}
	s.removed++
	return nil
}

func (f *fetcher) isBlind(oid uint32) bool {
	return slices.ContainsFunc(f.spaces, func(s space) bool { return s.OID == oid && s.blind })
}

// stays tells whether something is none of the backup's business: what is kept,
// what belongs to the file system, the links of other tablespaces, and what another
// server has in the directory of a tablespace.
func (f *fetcher) stays(at *site, rel, p string) bool {
	top := !strings.Contains(rel, "/")
	oid, itself, isSpace := spaceOID(p)
	switch {
	case p == markerDir, f.isKept(p, true), top && isBystander(rel):
		return true
	case isSpace && itself:
		return !slices.ContainsFunc(f.spaces, func(s space) bool { return s.OID == oid })
	case strings.HasPrefix(at.prefix, "pg_tblspc/") && top:
		return !slices.ContainsFunc(f.survey.dirs, func(e Entry) bool { return e.Path == p })
	}
	return false
}

// keepsBelow tells whether something in a folder is kept.
func (f *fetcher) keepsBelow(p string) bool {
	return slices.ContainsFunc(f.report.KeptConfig, func(k string) bool { return strings.HasPrefix(k, p+"/") })
}

// wasThere tells whether pg_control is still that of the cluster that the fetch
// found in the directory.
func (f *fetcher) wasThere(control []byte) bool {
	return f.delta && fingerprint(control) == f.before
}

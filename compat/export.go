package compat

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"path"
	"runtime"
	"time"

	"golang.org/x/sync/errgroup"

	"wal-e/internal/fault"
	"wal-e/internal/postgres"
	"wal-e/internal/storage"
)

// ExportConfig describes a backup that was taken in another layout, and says where
// it goes. All but Encrypt, Label, TablespaceMap, Tablespaces, Workers, Log and Now
// is required.
type ExportConfig struct {
	Bucket  storage.Bucket
	Encrypt Encrypt // of partitions; nil: they are stored in the clear

	Version     string // of the server, such as 15 or 15.4
	Timeline    postgres.Timeline
	Start, Stop postgres.LSN
	SegmentSize postgres.SegmentSize
	Taken       time.Time // members have no times of their own
	Offline     bool      // of a stopped cluster; its WAL is among the files

	Dir         string            // where the cluster was
	Tablespaces map[uint32]string // where those outside of Dir were

	// Files yields what the backup holds in the order of paths, directories before
	// what is in them.
	Files iter.Seq2[ExportFile, error]

	Label, TablespaceMap []byte // as the server gave them; nil offline

	Workers int // partitions at once; 0 means 4
	Log     *slog.Logger
	Now     func() time.Time
}

// An ExportFile is a member of a backup, with what writes the content of a file. That is
// called from several goroutines at once, and again when the store asks for a
// partition again.
type ExportFile struct {
	File
	Content func(ctx context.Context, w io.Writer) error
}

// Export writes a backup in the classic layout, as Push does with a cluster. When it
// returns nil the backup is durable and complete. Its WAL is the caller's to bring, before: a
// backup is one as soon as its sentinel is there. What the original never stores,
// configuration files among it, is left out.
func Export(ctx context.Context, cfg ExportConfig) (*PushReport, error) {
	push := PushConfig{Bucket: cfg.Bucket, Encrypt: cfg.Encrypt, Workers: cfg.Workers, Log: cfg.Log, Now: cfg.Now}
	push.setDefaults()
	p := &pusher{
		cfg: push, report: &PushReport{Layout: Classic}, began: push.Now(), dir: cfg.Dir,
		control: &postgres.ControlFile{WALSegmentSize: cfg.SegmentSize}, walker: &walker{spaces: cfg.Tablespaces},
		start: cfg.Start, tl: cfg.Timeline,
	}
	if err := checkSpaces(cfg.Tablespaces); err != nil {
		return nil, err
	}
	name := nameAt(cfg.Timeline, cfg.Start, cfg.SegmentSize)
	switch _, err := cfg.Bucket.Stat(ctx, name.Sentinel()); {
	case err == nil:
		return nil, fault.NameTaken.Errorf("backup %s is in %s already", name, cfg.Bucket.URL())
	case !errors.Is(err, storage.ErrNotExist):
		return nil, err
	}
	if err := p.export(ctx, cfg); err != nil {
		p.tidy(ctx)
		return nil, err
	}
	p.report.Seconds = push.Now().Sub(p.began).Seconds()
	return p.report, nil
}

func (p *pusher) export(ctx context.Context, cfg ExportConfig) error {
	if err := p.begin(ctx, cfg.Version); err != nil {
		return err
	}
	if err := p.exportFiles(ctx, cfg); err != nil {
		return err
	}
	if cfg.Offline {
		return p.commit(ctx, cfg.Stop, p.name.Segment, p.name.Offset)
	}
	segment, offset := stopAt(cfg.Timeline, cfg.Stop, cfg.SegmentSize)
	return p.commit(ctx, cfg.Stop, segment, offset)
}

// nameAt is how a backup is called that starts at a position. In segments of more than
// 100 MB an offset may have more digits than the eight of a name; the first eight
// count then, since the original has it from PostgreSQL's lpad, which cuts.
func nameAt(tl postgres.Timeline, at postgres.LSN, size postgres.SegmentSize) Name {
	segment, offset := stopAt(tl, at, size)
	return Name{Segment: segment, Offset: offset[:8]}
}

// stopAt is how a sentinel says where a backup stops: with all digits.
func stopAt(tl postgres.Timeline, at postgres.LSN, size postgres.SegmentSize) (segment, offset string) {
	return postgres.SegmentAt(tl, at, size).Name(size), fmt.Sprintf("%08d", size.Offset(at))
}

// exportFiles fills partitions as pushFiles does. pg_control, backup_label and
// tablespace_map stand in the last one.
func (p *pusher) exportFiles(ctx context.Context, cfg ExportConfig) (err error) {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(p.cfg.Workers)
	defer func() { err = errors.Join(g.Wait(), err) }()
	owner := File{Mode: 0o600}
	var last, members []ExportFile
	var size int64
	for f, err := range cfg.Files {
		if err != nil {
			return err
		}
		switch {
		case f.Path == controlPath:
			last = append(last, f)
			continue
		case isNotStored(f.Path):
			continue
		case f.Mode&fs.ModeSymlink != 0 && path.Dir(f.Path) == "pg_tblspc":
			continue // the sentinel says where it led
		case f.Path == "PG_VERSION":
			owner.Owner, owner.Group = f.Owner, f.Group
		}
		if f.Size > p.cfg.MaxPartition {
			return fault.Unstorable.Errorf("%s has %d bytes, and a partition of the classic layout holds %d at most", f.Path, f.Size, p.cfg.MaxPartition)
		}
		if len(members) == maxMembers || len(members) > 0 && size+f.Size >= p.cfg.MaxPartition {
			p.goExport(gctx, g, cfg.Taken, members)
			members, size = nil, 0
		}
		members = append(members, f)
		size += f.Size
	}
	if len(last) != 1 {
		return fmt.Errorf("%w: it has no %s", ErrIncomplete, controlPath)
	}
	p.goExport(gctx, g, cfg.Taken, members)
	for _, m := range []made{{labelPath, cfg.Label}, {mapPath, cfg.TablespaceMap}} {
		if len(m.data) > 0 {
			owner.Path, owner.Size = m.name, int64(len(m.data))
			last = append(last, ExportFile{owner, func(_ context.Context, w io.Writer) error {
				_, err := w.Write(m.data)
				return err
			}})
		}
	}
	p.goExport(gctx, g, cfg.Taken, last)
	return nil
}

// goExport stores a partition in the background.
func (p *pusher) goExport(ctx context.Context, g *errgroup.Group, at time.Time, members []ExportFile) {
	number := p.next
	p.next++
	cores := runtime.GOMAXPROCS(0)
	g.Go(func() error {
		return p.store(ctx, number, func(w *partitionWriter) error {
			for _, f := range members {
				if err := w.member(ctx, f, at); err != nil {
					return fmt.Errorf("export %s: %w", f.Path, err)
				}
			}
			return nil
		}, cores)
	})
}

// member adds a file, a directory or a link of another archive.
func (w *partitionWriter) member(ctx context.Context, f ExportFile, at time.Time) error {
	h := &tar.Header{Format: tar.FormatPAX, Name: f.Path, Mode: int64(f.Mode.Perm()), Uname: f.Owner, Gname: f.Group, ModTime: at}
	switch f.Mode.Type() {
	case fs.ModeDir:
		h.Typeflag, h.Name = tar.TypeDir, f.Path+"/"
		if f.Path == "." {
			h.Name = "/" // the original's empty name, as it stands in the archive
		}
		return w.tar.WriteHeader(h)
	case fs.ModeSymlink:
		h.Typeflag, h.Linkname = tar.TypeSymlink, f.Link
		return w.tar.WriteHeader(h)
	}
	h.Typeflag, h.Size = tar.TypeReg, f.Size
	if err := w.tar.WriteHeader(h); err != nil {
		return err
	}
	w.files++
	w.bytes += f.Size
	if err := f.Content(ctx, w.tar); err != nil {
		return err
	}
	return w.tar.Flush() // which fails when bytes are missing
}

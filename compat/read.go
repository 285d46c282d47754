package compat

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"wal-e/internal/postgres"
	"wal-e/internal/storage"
)

// ReadConfig says how a backup is read. Bucket is required.
type ReadConfig struct {
	Bucket  storage.Bucket
	Decrypt Decrypt // nil: encrypted partitions can't be read
	Workers int     // partitions at once; 0 means 4
}

// A File is a member of a backup: a file, a directory, or a symbolic link. Its path
// is clean and within the data directory, "." for that itself.
type File struct {
	Path         string
	Mode         fs.FileMode // permissions, and the type
	Size         int64       // of a file
	Link         string      // where a symbolic link leads; nobody has looked where that is
	Owner, Group string      // may be empty
	ModTime      time.Time
}

// A Summary is what a backup says of itself.
type Summary struct {
	Sentinel SentinelFile
	Offline  bool
	Control  []byte // pg_control
	Label    []byte // backup_label; nil of an offline backup
}

var errFound = errors.New("compat: internal: found")

// maxSmallFile bounds pg_control and backup_label.
const maxSmallFile = 64 << 10

// Summarize reads the sentinel of a backup, and its partitions until it has found
// pg_control and backup_label: the last one first, which is where we put them.
func Summarize(ctx context.Context, cfg ReadConfig, b Backup) (*Summary, error) {
	sentinel, err := ReadSentinel(ctx, cfg.Bucket, b.Name)
	if err != nil {
		return nil, err
	}
	s := &Summary{Sentinel: sentinel, Offline: sentinel.Offline(b.Name)}
	parts, _, err := listPartitions(ctx, cfg.Bucket, b.Name)
	if err != nil {
		return nil, err
	}
	order := slices.Concat(parts[len(parts)-1:], parts[:len(parts)-1])
	for _, p := range order {
		err := cfg.partition(ctx, p.Key, func(m member, content io.Reader) (err error) {
			switch m.Path {
			case controlPath:
				s.Control, err = readSmall(m, content)
			case "backup_label":
				if !s.Offline {
					s.Label, err = readSmall(m, content)
				}
			}
			if err == nil && s.Control != nil && (s.Offline || s.Label != nil) {
				err = errFound
			}
			return err
		})
		if errors.Is(err, errFound) {
			return s, nil
		}
		if err != nil {
			return nil, err
		}
	}
	what := controlPath
	if s.Control != nil {
		what = "backup_label"
	}
	return nil, fmt.Errorf("compat: backup %s in %s: %w: it has no %s", b.Name, cfg.Bucket.URL(), ErrIncomplete, what)
}

func readSmall(m member, content io.Reader) ([]byte, error) {
	if m.Type != memberFile || m.Size > maxSmallFile {
		return nil, fmt.Errorf("%w: %q: want a small file", ErrBadMember, m.Path)
	}
	return io.ReadAll(content)
}

func (cfg ReadConfig) partition(ctx context.Context, key string, each func(m member, content io.Reader) error) (err error) {
	r, err := openObject(ctx, cfg.Bucket, key, cfg.Decrypt, 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if err := readPartition(contextReader{ctx, r}, each); err != nil {
		return about(cfg.Bucket, key, err)
	}
	return nil
}

// Files calls visit with all members of a backup, in any order and from several
// goroutines at once, with the content of files, which only lasts as long as the
// call. It returns nil only when all partitions are there and were read and
// verified to their ends. Pipes are left out; hard links are an error, since the
// original never writes one of what a cluster holds.
func Files(ctx context.Context, cfg ReadConfig, b Backup, visit func(ctx context.Context, f File, content io.Reader) error) error {
	parts, _, err := listPartitions(ctx, cfg.Bucket, b.Name)
	if err != nil {
		return err
	}
	if cfg.Workers <= 0 {
		cfg.Workers = 4
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(cfg.Workers)
	var members paths
	for _, p := range parts {
		g.Go(func() error {
			return cfg.partition(ctx, p.Key, func(m member, content io.Reader) error {
				if err := members.add(m); err != nil {
					return err
				}
				f := File{Path: m.Path, Mode: fs.FileMode(m.Mode & 0o777), Size: m.Size, Link: m.Link, Owner: m.Owner, Group: m.Group, ModTime: m.ModTime}
				switch m.Type {
				case memberDirectory:
					f.Mode |= fs.ModeDir
				case memberSymlink:
					f.Mode |= fs.ModeSymlink
				case memberHardlink:
					return fmt.Errorf("%w: %q is a hard link", ErrBadMember, m.Path)
				case memberFifo:
					return nil
				}
				return visit(ctx, f, content)
			})
		})
	}
	return g.Wait()
}

// ReadWAL returns the content of a WAL file of up to limit bytes, verified: a
// segment is of the size and under the name that it says itself. One that isn't
// there gives an error that wraps storage.ErrNotExist.
func ReadWAL(ctx context.Context, cfg WALConfig, name string, limit int64) (data []byte, err error) {
	r, err := openObject(ctx, cfg.Bucket, WALKey(name), cfg.Decrypt, cfg.Workers)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	var held limitedBuffer
	held.left = limit
	if err := copyWAL(ctx, cfg, name, &held, r); err != nil {
		return nil, err
	}
	return held.data, nil
}

// CarriedWAL returns the content of a segment that a backup of a stopped cluster carries
// itself, as ours do, verified as ReadWAL does. One that it doesn't carry gives an
// error that wraps storage.ErrNotExist.
func CarriedWAL(ctx context.Context, cfg ReadConfig, system postgres.SystemID, b Backup, name string) ([]byte, error) {
	parts, _, err := listPartitions(ctx, cfg.Bucket, b.Name)
	if err != nil {
		return nil, err
	}
	held := limitedBuffer{left: int64(postgres.MaxSegmentSize)}
	for _, p := range slices.Backward(parts) { // at the end is where a push puts them
		err := cfg.partition(ctx, p.Key, func(m member, content io.Reader) error {
			folder, file := path.Split(m.Path)
			if m.Type != memberFile || !isWALFolder(path.Clean(folder)) || file != name {
				return nil
			}
			head := &header{}
			n, err := io.Copy(io.MultiWriter(head, &held), content)
			if err == nil {
				err = head.check(name, n, system)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", m.Path, err)
			}
			return errFound
		})
		if errors.Is(err, errFound) {
			return held.data, nil
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("compat: backup %s in %s carries no WAL segment %s: %w", b.Name, cfg.Bucket.URL(), name, storage.ErrNotExist)
}

type limitedBuffer struct {
	data []byte
	left int64
}

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if b.left -= int64(len(p)); b.left < 0 {
		return 0, errors.New("compat: WAL file is too large")
	}
	b.data = append(b.data, p...)
	return len(p), nil
}

// WALFiles lists the names of the WAL files of the classic layout that PostgreSQL
// archives, in order.
func WALFiles(ctx context.Context, b storage.Bucket) ([]string, error) {
	var names []string
	for o, err := range b.List(ctx, walFolder, "") {
		if err != nil {
			return nil, fmt.Errorf("compat: list WAL: %w", err)
		}
		if k := ParseKey(o.Key); k.Kind == WAL && postgres.ParseWALFile(k.File).Kind != postgres.OtherFile {
			names = append(names, k.File)
		}
	}
	return names, nil
}

// Stop returns where a live backup stopped, as its sentinel says.
func (s *Summary) Stop() (postgres.LSN, error) {
	control, err := postgres.ParseControlFile(s.Control)
	if err != nil {
		return 0, err
	}
	return locate(s.Sentinel.StopSegment, s.Sentinel.StopOffset, control.WALSegmentSize)
}

package compat

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"wal-e/internal/fault"
	"wal-e/internal/postgres"
	"wal-e/internal/storage"
)

// VerifyConfig says what to verify. Bucket is required.
type VerifyConfig struct {
	Bucket   storage.Bucket
	Decrypt  Decrypt // nil: encrypted objects can't be read
	ReadData bool    // read every partition, and WAL with WAL
	WAL      bool    // look for the WAL that a backup needs
	Workers  int     // blocks at once; 0 means 1
	Log      *slog.Logger
}

// Verified says what was found of a classic backup.
type Verified struct {
	Name       string    `json:"name"`
	OK         bool      `json:"ok"`
	Partitions int       `json:"partitions"`
	Files      int64     `json:"files"` // 0 unless its data were read
	Bytes      int64     `json:"bytes"`
	WAL        int       `json:"wal"` // segments found
	Problems   []Problem `json:"problems,omitempty"`
	Warnings   []Problem `json:"warnings,omitempty"`
}

// A Problem is what is wrong with an object.
type Problem struct {
	Object string `json:"object"`
	Text   string `json:"text"`
}

// Verify proves, as far as the format lets anybody, that a backup can be restored:
// its sentinel reads, and its partitions are there without a gap. With ReadData every
// partition is read to its end, all checksums are verified, and what makes a cluster is
// among the files. Damage is a problem in the report; an error means that the store
// couldn't be read.
func Verify(ctx context.Context, cfg VerifyConfig, backup Backup) (*Verified, error) {
	v := &verifier{cfg: cfg, name: backup.Name, report: &Verified{Name: backup.Name.String()}}
	if err := v.run(ctx); err != nil {
		return nil, err
	}
	v.report.OK = len(v.report.Problems) == 0
	return v.report, nil
}

type verifier struct {
	cfg    VerifyConfig
	name   Name
	report *Verified

	members                 paths
	control, version, label bool
	segmentSize             postgres.SegmentSize // 0: not known
}

func (v *verifier) problem(object string, err error) {
	v.report.Problems = append(v.report.Problems, Problem{Object: object, Text: err.Error()})
}

// damage keeps err as a problem if it is one of the object, and returns it if it
// is one of the store.
func (v *verifier) damage(ctx context.Context, object string, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil || errors.Is(err, storage.ErrPermission) || !IsDamage(err) {
		return err
	}
	v.problem(object, err)
	return nil
}

func (v *verifier) run(ctx context.Context) error {
	sentinel, err := ReadSentinel(ctx, v.cfg.Bucket, v.name)
	if err != nil {
		if ctx.Err() == nil && !errors.Is(err, storage.ErrPermission) {
			v.problem(v.name.Sentinel(), err)
			return nil
		}
		return err
	}
	parts, strange, err := listPartitions(ctx, v.cfg.Bucket, v.name)
	for _, key := range strange {
		v.report.Warnings = append(v.report.Warnings, Problem{Object: key, Text: "it is no partition"})
	}
	if err != nil {
		return v.damage(ctx, v.name.partitionFolder(), err)
	}
	v.report.Partitions = len(parts)
	if v.cfg.ReadData {
		for _, p := range parts {
			if err := v.damage(ctx, p.Key, v.partition(ctx, p.Key)); err != nil {
				return err
			}
		}
		v.whole(sentinel)
	}
	if v.cfg.WAL {
		return v.wal(ctx, sentinel)
	}
	return nil
}

func (v *verifier) partition(ctx context.Context, key string) (err error) {
	r, err := openObject(ctx, v.cfg.Bucket, key, v.cfg.Decrypt, v.cfg.Workers)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return readPartition(contextReader{ctx, r}, func(m member, content io.Reader) error {
		if err := v.members.add(m); err != nil {
			return err
		}
		switch m.Path {
		case controlPath:
			v.control = true
			b, err := io.ReadAll(io.LimitReader(content, 64<<10))
			if err != nil {
				return err
			}
			if c, err := postgres.ParseControlFile(b); err == nil {
				v.segmentSize = c.WALSegmentSize
			}
		case "PG_VERSION":
			v.version = true
		case labelPath:
			v.label = true
		}
		if m.Type == memberFile {
			v.report.Files++
			v.report.Bytes += m.Size
		}
		return nil
	})
}

// whole looks whether the files make a cluster.
func (v *verifier) whole(sentinel SentinelFile) {
	if len(v.report.Problems) > 0 {
		return // partitions that weren't read may have what is missing
	}
	folder := v.name.partitionFolder()
	for name, found := range map[string]bool{controlPath: v.control, "PG_VERSION": v.version, labelPath: v.label || sentinel.Offline(v.name)} {
		if !found {
			v.problem(folder, fmt.Errorf("%w: no partition has %s", ErrIncomplete, name))
		}
	}
	if want := sentinel.ExpandedSize; want >= 0 && want != v.report.Bytes {
		v.report.Warnings = append(v.report.Warnings, Problem{
			Object: folder, Text: fmt.Sprintf("its files have %d bytes, the sentinel says %d: files that vanish while a backup is taken make the sentinel say more", v.report.Bytes, want),
		})
	}
}

// wal looks for the segments from the start to the stop of a live backup. Of one
// taken offline the name doesn't tell reliably which it needs.
func (v *verifier) wal(ctx context.Context, sentinel SentinelFile) error {
	if sentinel.Offline(v.name) {
		v.report.Warnings = append(v.report.Warnings, Problem{
			Object: v.name.Sentinel(), Text: "the backup was taken offline: nothing here says reliably which WAL it needs",
		})
		return nil
	}
	size := v.segmentSize
	if size == 0 {
		size = postgres.DefaultSegmentSize
	}
	first, err := postgres.ParseSegment(v.name.Segment, size)
	last, err2 := postgres.ParseSegment(sentinel.StopSegment, size)
	if err := errors.Join(err, err2); err != nil {
		v.problem(v.name.Sentinel(), err)
		return nil
	}
	if last.Timeline != first.Timeline || last.No < first.No || last.No-first.No > maxSegments {
		v.problem(v.name.Sentinel(), fault.BadMember.Errorf("it says that the backup goes from %s to %s", v.name.Segment, sentinel.StopSegment))
		return nil
	}
	for seg := first; seg.No <= last.No; seg = seg.Next() {
		name := seg.Name(size)
		if err := v.segment(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// maxSegments bounds the segments of one backup: 16 TB of WAL.
const maxSegments = 1 << 20

func (v *verifier) segment(ctx context.Context, name string) error {
	key := WALKey(name)
	_, err := v.cfg.Bucket.Stat(ctx, key)
	if err == nil && v.cfg.ReadData {
		err = VerifyWAL(ctx, WALConfig{Bucket: v.cfg.Bucket, Decrypt: v.cfg.Decrypt, Workers: v.cfg.Workers}, name)
	}
	if err == nil {
		v.report.WAL++
	}
	return v.damage(ctx, key, err)
}

// VerifyWAL reads a WAL file and checks it as FetchWAL does.
func VerifyWAL(ctx context.Context, cfg WALConfig, name string) (err error) {
	r, err := openObject(ctx, cfg.Bucket, WALKey(name), cfg.Decrypt, cfg.Workers)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return copyWAL(ctx, cfg, name, io.Discard, r)
}

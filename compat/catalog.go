package compat

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"wal-e/internal/storage"
)

// A Backup is a classic base backup: one whose sentinel is there.
type Backup struct {
	Name         Name
	LastModified time.Time // of the sentinel, by the store's clock
}

// List returns the classic backups of an archive, sorted by name.
func List(ctx context.Context, b storage.Bucket) ([]Backup, error) {
	var list []Backup
	for o, err := range b.List(ctx, backupsFolder+"base_", "") {
		if err != nil {
			return nil, fmt.Errorf("compat: list backups: %w", err)
		}
		if k := ParseKey(o.Key); k.Kind == Sentinel {
			list = append(list, Backup{Name: k.Name, LastModified: o.ModTime})
		}
	}
	slices.SortFunc(list, func(a, b Backup) int { return cmp.Compare(a.Name.String(), b.Name.String()) })
	return list, nil
}

// Latest returns the backup whose sentinel was stored last, the greater name of
// two at the same time; ok is false when there is none. It is what the original
// calls LATEST: an archive that was copied has another one.
func Latest(list []Backup) (newest Backup, ok bool) {
	if len(list) == 0 {
		return Backup{}, false
	}
	return slices.MaxFunc(list, func(a, b Backup) int {
		return cmp.Or(a.LastModified.Compare(b.LastModified), cmp.Compare(a.Name.String(), b.Name.String()))
	}), true
}

// Find returns the classic backup of a name. One that isn't there gives an error
// that wraps storage.ErrNotExist.
func Find(ctx context.Context, b storage.Bucket, name Name) (Backup, error) {
	a, err := b.Stat(ctx, name.Sentinel())
	if err != nil {
		return Backup{}, fmt.Errorf("compat: look for backup %s: %w", name, err)
	}
	return Backup{Name: name, LastModified: a.ModTime}, nil
}

// ReadSentinel reads the sentinel of a backup.
func ReadSentinel(ctx context.Context, b storage.Bucket, name Name) (SentinelFile, error) {
	data, err := storage.ReadAll(ctx, b, name.Sentinel(), maxSentinel)
	if err != nil {
		return SentinelFile{}, fmt.Errorf("compat: %w", err)
	}
	s, err := ParseSentinel(data)
	if err != nil {
		return SentinelFile{}, fmt.Errorf("compat: %s in %s: %w", name.Sentinel(), b.URL(), err)
	}
	return s, nil
}

// ErrIncomplete is wrapped when a backup has a sentinel and lacks partitions.
var ErrIncomplete = errors.New("backup is incomplete")

// listPartitions returns the partitions of a backup in the order of their
// numbers, and the keys beside them that are none.
func listPartitions(ctx context.Context, b storage.Bucket, name Name) (parts []storage.Object, strange []string, err error) {
	for o, err := range b.List(ctx, name.partitionFolder(), "") {
		if err != nil {
			return nil, nil, fmt.Errorf("compat: list partitions of %s: %w", name, err)
		}
		if ParseKey(o.Key).Kind != Partition {
			strange = append(strange, o.Key)
			continue
		}
		parts = append(parts, o)
	}
	// Numbers have eight digits, or more and then a greater length.
	slices.SortFunc(parts, func(a, b storage.Object) int {
		return cmp.Compare(ParseKey(a.Key).Number, ParseKey(b.Key).Number)
	})
	if len(parts) == 0 {
		return nil, strange, fmt.Errorf("compat: %w: there is nothing in %s of %s", ErrIncomplete, name.partitionFolder(), b.URL())
	}
	for i, p := range parts {
		if ParseKey(p.Key).Number != i {
			return nil, strange, fmt.Errorf("compat: %w: %s is missing in %s", ErrIncomplete, name.Partition(i), b.URL())
		}
	}
	return parts, strange, nil
}

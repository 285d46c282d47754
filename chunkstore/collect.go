package chunkstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"wal-e/internal/envelope"
	"wal-e/internal/runid"
	"wal-e/internal/storage"
)

// This file and its neighbours collect*.go are what a collector needs of the
// layout: it lists, condemns and removes without a key and without chunks.

// keepDir is where people say that a backup is to be kept.
const keepDir = "marks_006/"

// IntentKey is the name of the object that says that the run has begun.
func (r Ref) IntentKey() string { return r.intentKey() }

// OutcomeKey is the name of the object that says how the run ended.
func (r Ref) OutcomeKey() string { return r.outcomeKey() }

// TombstoneKey is the name of the object that says that the backup was deleted.
func (r Ref) TombstoneKey() string { return r.tombstoneKey() }

// KeepPrefix is what the names of the keep marks of a backup begin with.
func (r Ref) KeepPrefix() string { return keepDir + r.Name + "/" + r.Run.String() + "/" }

// On returns the store s as another view of its bucket shows it, such as one
// with a request limit of its own.
func (s *Store) On(b storage.Bucket) *Store {
	t := *s
	t.bucket = b
	return &t
}

// A RunObjects lists what is stored under the name of one run in a folder of
// packs or of index objects.
type RunObjects struct {
	Keys   []string
	Newest time.Time // of those that its push made, by the store's clock
}

// ListIndexes lists the index objects of all runs, or of one.
func ListIndexes(ctx context.Context, b storage.Bucket, run *runid.ID) (map[runid.ID]*RunObjects, error) {
	dir := indexDir
	if run != nil {
		dir += run.String() + "/"
	}
	objects := make(map[runid.ID]*RunObjects)
	for o, err := range b.List(ctx, dir, "") {
		if err != nil {
			return nil, err
		}
		name, number, _ := strings.Cut(strings.TrimPrefix(o.Key, indexDir), "/")
		id, err := runid.Parse(name)
		n, ok := parseNumber(number)
		if err != nil || !ok {
			continue
		}
		if objects[id] == nil {
			objects[id] = &RunObjects{}
		}
		objects[id].Keys = append(objects[id].Keys, o.Key)
		// What a repair made is no sign that the push is alive.
		if n < repairNumber && o.ModTime.After(objects[id].Newest) {
			objects[id].Newest = o.ModTime
		}
	}
	return objects, nil
}

// ListKeepMarks returns the names of all keep marks, by backup, each list in
// order: the last of a backup counts.
func ListKeepMarks(ctx context.Context, b storage.Bucket) (map[Ref][]string, error) {
	marks := make(map[Ref][]string)
	for o, err := range b.List(ctx, keepDir, "") {
		if err != nil {
			return nil, err
		}
		i := strings.LastIndexByte(o.Key, '/')
		if i < len(keepDir) {
			continue
		}
		if ref, err := parseRef(o.Key[len(keepDir):i]); err == nil {
			marks[ref] = append(marks[ref], o.Key)
		}
	}
	return marks, nil
}

// A Tombstone says who deleted a backup. That it is there deletes the backup;
// what it says is for people.
type Tombstone struct {
	Host    string    `json:"host"`
	Deleted time.Time `json:"deleted"` // by the clock of Host
}

const (
	tombstoneKind    = "tombstone"
	tombstoneVersion = 1
)

// CreateTombstone deletes a backup, for good: a tombstone is never taken back.
// It is durable when CreateTombstone returns.
func CreateTombstone(ctx context.Context, b storage.Bucket, ref Ref, t Tombstone) error {
	data, err := envelope.Encode(tombstoneKind, tombstoneVersion, t)
	if err != nil {
		return err
	}
	return createOnce(ctx, b, ref.tombstoneKey(), data)
}

// A Condemnation is a Mark as a collector writes it.
type Condemnation struct {
	Mark
	// SegmentSizes are the sizes of WAL segments in bytes, by system
	// identifier, so that a horizon can be told from the name of a file.
	SegmentSizes map[string]uint32 `json:"wal_segment_sizes,omitempty"`
	Host         string            `json:"host"` // for people
}

// A StandingMark is a condemnation that stands in the store.
type StandingMark struct {
	ID runid.ID
	Condemnation
	// Grace lists the runs that were open when the mark was there for all to
	// see. Nil means that nobody has looked yet.
	Grace []Ref
}

// Keys are the names of the mark's objects, the mark first.
func (m *StandingMark) Keys() []string { return []string{markKey(m.ID), markKey(m.ID) + graceSuffix} }

func markKey(id runid.ID) string { return condemnedDir + id.String() }

// A MarkList is what stands under the folder of marks.
type MarkList struct {
	Marks []*StandingMark // by id
	// Orphans are graces without a mark: their mark was removed by somebody who
	// then died.
	Orphans []string
}

// ReadMarks reads the marks that stand and their graces. Marks that were
// removed while it read are left out.
func ReadMarks(ctx context.Context, b storage.Bucket) (*MarkList, error) {
	ids, graces, err := listMarkIDs(ctx, b)
	if err != nil {
		return nil, err
	}
	l := &MarkList{}
	for _, id := range ids {
		m := &StandingMark{ID: id}
		err := readEnvelope(ctx, b, markKey(id), markKind, markVersion, markLimit, &m.Condemnation)
		if errors.Is(err, storage.ErrNotExist) {
			continue
		}
		if err == nil && graces[id] {
			m.Grace, err = readGrace(ctx, b, id)
			if errors.Is(err, storage.ErrNotExist) {
				err = nil // on its way out; a new grace serves as well
			}
		}
		if err != nil {
			return nil, err
		}
		l.Marks = append(l.Marks, m)
		delete(graces, id)
	}
	for id := range graces {
		if !slices.Contains(ids, id) {
			l.Orphans = append(l.Orphans, markKey(id)+graceSuffix)
		}
	}
	slices.Sort(l.Orphans)
	return l, nil
}

// listMarkIDs returns the marks that stand, in order, and for which there is a
// grace.
func listMarkIDs(ctx context.Context, b storage.Bucket) (ids []runid.ID, graces map[runid.ID]bool, err error) {
	graces = make(map[runid.ID]bool)
	for o, err := range b.List(ctx, condemnedDir, "") {
		if err != nil {
			return nil, nil, err
		}
		name, grace := strings.CutSuffix(strings.TrimPrefix(o.Key, condemnedDir), graceSuffix)
		id, err := runid.Parse(name)
		if err != nil {
			continue
		}
		if grace {
			graces[id] = true
		} else {
			ids = append(ids, id)
		}
	}
	return ids, graces, nil
}

// CreateMark condemns. The name must be new; the mark is durable and can be
// seen by everybody when CreateMark returns.
func CreateMark(ctx context.Context, b storage.Bucket, id runid.ID, c Condemnation) error {
	data, err := envelope.Encode(markKind, markVersion, c)
	if err != nil {
		return err
	}
	if int64(len(data)) > markLimit {
		return fmt.Errorf("mark of %d packs is %d bytes long: at most %d", c.Packs.Len(), len(data), markLimit)
	}
	return createOnce(ctx, b, markKey(id), data)
}

// A grace is the content of <G>.grace.
type grace struct {
	Runs []Ref `json:"runs"`
}

const (
	graceKind    = "grace"
	graceVersion = 1
	graceLimit   = 16 << 20 // bytes
)

// CreateGrace writes down which runs were open when the mark was there for all
// to see. It returns the list that counts, which is another collector's when
// that was first.
func CreateGrace(ctx context.Context, b storage.Bucket, id runid.ID, open []Ref) ([]Ref, error) {
	if open == nil {
		open = []Ref{}
	}
	data, err := envelope.Encode(graceKind, graceVersion, grace{Runs: open})
	if err != nil {
		return nil, err
	}
	key := markKey(id) + graceSuffix
	err = storage.CreateBytes(ctx, b, key, data, nil)
	if errors.Is(err, storage.ErrExist) {
		stands, err := readGrace(ctx, b, id)
		if errors.Is(err, storage.ErrNotExist) {
			return open, nil // removed with its mark since; ours holds as well
		}
		return stands, err
	}
	if err != nil {
		return nil, err
	}
	return open, nil
}

func readGrace(ctx context.Context, b storage.Bucket, id runid.ID) ([]Ref, error) {
	g := grace{}
	if err := readEnvelope(ctx, b, markKey(id)+graceSuffix, graceKind, graceVersion, graceLimit, &g); err != nil {
		return nil, err
	}
	if g.Runs == nil {
		g.Runs = []Ref{}
	}
	return g.Runs, nil
}

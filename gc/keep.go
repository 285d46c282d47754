package gc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"wal-e/chunkstore"
	"wal-e/internal/envelope"
	"wal-e/internal/fault"
	"wal-e/internal/runid"
	"wal-e/internal/storage"
)

// A Keep is a mark by which a backup is kept whatever a policy says.
type Keep struct {
	Until time.Time `json:"until,omitzero"` // zero: until it is released
	Host  string    `json:"host"`           // for people
	Made  time.Time `json:"made"`           // by the clock of Host
}

// Holds tells whether the mark still keeps the backup.
func (k Keep) Holds(now time.Time) bool { return k.Until.IsZero() || now.Before(k.Until) }

func (k Keep) String() string {
	if k.Until.IsZero() {
		return "marked to be kept"
	}
	return "marked to be kept until " + k.Until.UTC().Format(time.RFC3339)
}

const (
	keepKind      = "keep"
	keepVersion   = 1
	keepLimit     = 1 << 20 // bytes
	keepSuffix    = ".keep"
	releaseSuffix = ".release"
)

// A keepMark is the name of a mark's object.
type keepMark struct {
	key     string
	id      runid.ID
	release bool
}

// parseKeepMark parses the last element of a mark's name. Names that aren't
// ours are passed over, but not those that seem to keep a backup.
func parseKeepMark(key string) (m keepMark, ok bool, err error) {
	name := key[strings.LastIndexByte(key, '/')+1:]
	id, keep := strings.CutSuffix(name, keepSuffix)
	if !keep {
		if id, m.release = strings.CutSuffix(name, releaseSuffix); !m.release {
			return m, false, nil
		}
	}
	m.key = key
	if m.id, err = runid.Parse(id); err != nil {
		if keep {
			return m, false, fmt.Errorf("%s: is it a mark to keep a backup? %w", key, err)
		}
		return m, false, nil
	}
	return m, true, nil
}

// newestKeepMark returns the mark of a backup that counts.
func newestKeepMark(keys []string) (*keepMark, error) {
	var newest *keepMark
	for _, key := range keys {
		m, ok, err := parseKeepMark(key)
		if err != nil {
			return nil, err
		}
		if ok && (newest == nil || slices.Compare(m.id[:], newest.id[:]) >= 0) {
			newest = &m
		}
	}
	return newest, nil
}

// keepRequests is how many marks are read at once.
const keepRequests = 8

// ReadKeeps returns the marks that keep backups, those that ran out too. One
// that can't be read is an error: what it protects isn't known.
func ReadKeeps(ctx context.Context, b storage.Bucket) (map[chunkstore.Ref]Keep, error) {
	marks, err := chunkstore.ListKeepMarks(ctx, b)
	if err != nil {
		return nil, err
	}
	keeps := make(map[chunkstore.Ref]Keep)
	var mu sync.Mutex // of keeps
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(keepRequests)
	for ref, keys := range marks {
		m, err := newestKeepMark(keys)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", b.URL(), err), g.Wait())
		}
		if m == nil || m.release {
			continue
		}
		g.Go(func() error {
			k, err := readKeep(gctx, b, m.key)
			if errors.Is(err, storage.ErrNotExist) {
				return nil // removed since, and so was the backup
			}
			mu.Lock()
			defer mu.Unlock()
			keeps[ref] = k
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return keeps, nil
}

func readKeep(ctx context.Context, b storage.Bucket, key string) (k Keep, err error) {
	data, err := storage.ReadAll(ctx, b, key, keepLimit)
	if err == nil {
		err = envelope.Decode(data, keepKind, keepVersion, &k)
	}
	if err != nil {
		return k, fmt.Errorf("keep mark %s of %s: %w", key, b.URL(), err)
	}
	return k, nil
}

// A Marker marks backups. Bucket is required.
type Marker struct {
	Bucket storage.Bucket
	Host   string           // for people
	Now    func() time.Time // nil means time.Now
	Rand   io.Reader        // for names; nil means the system's
}

// Keep marks a backup: until a time, or with a zero time until Release, no
// policy deletes it. The mark counts for every delete that begins after Keep
// has returned nil.
func (m Marker) Keep(ctx context.Context, ref chunkstore.Ref, until time.Time) error {
	if !until.IsZero() && !until.After(m.now()) {
		return fault.Usage.Errorf("keep %s until %s: that is over", ref, until.UTC().Format(time.RFC3339))
	}
	return m.mark(ctx, ref, keepSuffix, until)
}

// Release ends what Keep began. A backup without a mark is released, too.
func (m Marker) Release(ctx context.Context, ref chunkstore.Ref) error {
	return m.mark(ctx, ref, releaseSuffix, time.Time{})
}

func (m Marker) mark(ctx context.Context, ref chunkstore.Ref, suffix string, until time.Time) error {
	if err := m.checkStands(ctx, ref); err != nil {
		return err
	}
	id, err := m.newID(ctx, ref)
	if err != nil {
		return err
	}
	data, err := envelope.Encode(keepKind, keepVersion, Keep{Until: until.UTC(), Host: m.Host, Made: m.now().UTC()})
	if err != nil {
		return err
	}
	key := ref.KeepPrefix() + id.String() + suffix
	err = storage.CreateBytes(ctx, m.Bucket, key, data, nil)
	if err != nil && !errors.Is(err, storage.ErrExist) { // exists: a retry after a lost answer
		return fmt.Errorf("mark backup %s: %w", ref, err)
	}
	// A delete that saw no mark may have come in between.
	return m.checkStands(ctx, ref)
}

// checkStands makes sure that a run is a backup and isn't deleted. Classic
// backups have no run, and their sentinel isn't looked for here.
func (m Marker) checkStands(ctx context.Context, ref chunkstore.Ref) error {
	if ref.Run == (runid.ID{}) {
		return nil
	}
	_, err := m.Bucket.Stat(ctx, ref.TombstoneKey())
	switch {
	case err == nil:
		return fmt.Errorf("%s %w: it was deleted", ref, ErrNotBackup)
	case !errors.Is(err, storage.ErrNotExist):
		return err
	}
	o, err := chunkstore.ReadOutcome(ctx, m.Bucket, ref)
	switch {
	case errors.Is(err, storage.ErrNotExist):
		return fmt.Errorf("%s %w", ref, ErrNotBackup)
	case err != nil:
		return err
	case o.Result != chunkstore.Commit:
		return fmt.Errorf("%s %w: its push was aborted", ref, ErrNotBackup)
	}
	return nil
}

// newID makes a name after those of all marks of the backup, so that the newest
// mark counts when a clock is slow.
func (m Marker) newID(ctx context.Context, ref chunkstore.Ref) (runid.ID, error) {
	at := m.now()
	for o, err := range m.Bucket.List(ctx, ref.KeepPrefix(), "") {
		if err != nil {
			return runid.ID{}, err
		}
		old, ok, err := parseKeepMark(o.Key)
		if err != nil {
			return runid.ID{}, err
		}
		if ok && !at.After(old.id.Time()) {
			at = old.id.Time().Add(time.Millisecond)
		}
	}
	return runid.New(at, m.Rand)
}

func (m Marker) now() time.Time {
	if m.Now == nil {
		return time.Now()
	}
	return m.Now()
}

// ParseUntil parses the time until which a backup is kept: a date, which is
// kept to its end in UTC, or a time with its zone.
func ParseUntil(s string) (time.Time, error) {
	if t, err := time.Parse(time.DateOnly, s); err == nil {
		return t.AddDate(0, 0, 1), nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02 15:04:05Z07:00", "2006-01-02 15:04Z07:00"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fault.Usage.Errorf("%q is not a time: want a date such as 2027-01-31, or a time with its zone such as 2027-01-31T18:00:00+01:00", s)
}

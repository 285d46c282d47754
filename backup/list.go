package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"wal-e/chunkstore"
	"wal-e/internal/postgres"
	"wal-e/internal/runid"
	"wal-e/internal/storage"
)

// Listed is a line of a backup list.
type Listed struct {
	Name         string    `json:"name"`
	Run          runid.ID  `json:"run"`
	LastModified time.Time `json:"last_modified"` // of its outcome, by the store's clock

	ExpandedSize       int64  `json:"expanded_size_bytes"` // of all its files
	StartSegment       string `json:"wal_segment_backup_start"`
	StartSegmentOffset string `json:"wal_segment_offset_backup_start"` // decimal, eight digits
	StopSegment        string `json:"wal_segment_backup_stop"`
	StopSegmentOffset  string `json:"wal_segment_offset_backup_stop"`

	Kind     string            `json:"kind"`
	System   string            `json:"system_identifier"`
	Timeline postgres.Timeline `json:"timeline"`
	StartLSN string            `json:"start_lsn"`
	StopLSN  string            `json:"stop_lsn"`
	Started  time.Time         `json:"started"`
	Stopped  time.Time         `json:"stopped"`
	Host     string            `json:"host"`
	Files    int64             `json:"files"`

	PageChecksums bool  `json:"page_checksums"` // the cluster had them
	PageFailures  int64 `json:"page_failures"`

	NewBytes    int64 `json:"new_bytes"`    // that its push found new, uncompressed
	StoredBytes int64 `json:"stored_bytes"` // that its push added to the archive
	Packs       int   `json:"packs"`        // that it needs

	Epoch string `json:"epoch,omitempty"` // whose keys it is encrypted with; "" when it isn't
}

// List returns the valid backups that a query names, sorted by name, those of
// one name by run. The query is "" for all, LATEST, a NAME, or NAME@RUN;
// anything else is ErrBadQuery. A backup that isn't there is no error.
//
// When some outcomes can't be read or are damaged, List returns the other
// backups, and an error that names each.
func List(ctx context.Context, b storage.Bucket, q string) ([]Listed, error) {
	parsed, err := parseQuery(q)
	if err != nil {
		return nil, err
	}
	backups, damage, err := readBackups(ctx, b, parsed)
	if err != nil {
		return nil, err
	}
	return (&Catalog{b, backups, damage}).List()
}

// A query says which backups are meant: all, the newest, those of a name, or
// one run of it.
type query struct {
	latest bool
	name   string   // "": any
	run    runid.ID // zero: any
}

// Latest is the query for the newest backup.
const Latest = "LATEST"

// ErrBadQuery is wrapped when a query is none.
var ErrBadQuery = errors.New("not a backup")

func parseQuery(s string) (query, error) {
	switch s {
	case "":
		return query{}, nil
	case Latest:
		return query{latest: true}, nil
	}
	name, run, one := strings.Cut(s, "@")
	q := query{name: name}
	if !isName(name) {
		return query{}, fmt.Errorf("%q is %w: want LATEST, or a name such as base_000000010000000000000004_00000040, or NAME@RUN", s, ErrBadQuery)
	}
	if one {
		var err error
		if q.run, err = runid.Parse(run); err != nil {
			return query{}, fmt.Errorf("%q is %w: %w", s, ErrBadQuery, err)
		}
	}
	return q, nil
}

// isName tells whether s has the form that Name gives.
func isName(s string) bool {
	rest, ok := strings.CutPrefix(s, "base_")
	segment, offset, ok2 := strings.Cut(rest, "_")
	if !ok || !ok2 || len(segment) != 24 || len(offset) != 8 {
		return false
	}
	return strings.Trim(segment, "0123456789ABCDEF") == "" && strings.Trim(offset, "0123456789") == ""
}

func (q query) matches(ref chunkstore.Ref) bool {
	return (q.name == "" || q.name == ref.Name) && (q.run == runid.ID{} || q.run == ref.Run)
}

// A validBackup is a run that committed and stands.
type validBackup struct {
	ref       chunkstore.Ref
	outcome   storage.Object
	footprint chunkstore.Footprint
	manifest  *Manifest
	alone     bool                // it needs no packs of other backups
	epoch     string              // "" when it isn't encrypted
	sealed    *chunkstore.Outcome // nil, or what open opens
}

// A damagedRun is a run whose outcome can't be used.
type damagedRun struct {
	key string
	ref chunkstore.Ref
	err error
}

// outcomeReaders is how many outcomes are read at once.
const outcomeReaders = 16

// readBackups returns the valid backups that a query names, sorted by name,
// then run, and beside them the runs of which nobody can say whether they are
// backups. It lists the catalog once and reads each outcome in question.
func readBackups(ctx context.Context, b storage.Bucket, q query) ([]validBackup, []damagedRun, error) {
	runs, err := chunkstore.Runs(ctx, b)
	if err != nil {
		return nil, nil, err
	}
	runs = slices.DeleteFunc(runs, func(r chunkstore.Run) bool { return !r.Ended() || !q.matches(r.Ref) })
	found := make([]*validBackup, len(runs))
	bad := make([]*damagedRun, len(runs))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(outcomeReaders)
	for i, r := range runs {
		g.Go(func() (err error) {
			found[i], err = readBackup(gctx, b, r)
			if err == nil {
				return nil
			}
			if gctx.Err() != nil {
				return err
			}
			bad[i] = &damagedRun{key: r.Outcome.Key, ref: r.Ref, err: err}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, nil, err
	}
	var backups []validBackup
	var damage []damagedRun
	for i := range runs {
		if found[i] != nil {
			backups = append(backups, *found[i])
		}
		if bad[i] != nil {
			damage = append(damage, *bad[i])
		}
	}
	slices.SortFunc(backups, func(a, b validBackup) int {
		return cmp.Or(strings.Compare(a.ref.Name, b.ref.Name), slices.Compare(a.ref.Run[:], b.ref.Run[:]))
	})
	if q.latest && len(backups) > 0 {
		backups = []validBackup{slices.MaxFunc(backups, compareAge)}
	}
	return backups, damage, nil
}

// compareAge orders backups by when they were taken, not by when they were
// stored: an imported one may have been stored last.
func compareAge(a, b validBackup) int {
	return cmp.Or(a.manifest.Stopped.Compare(b.manifest.Stopped), slices.Compare(a.ref.Run[:], b.ref.Run[:]))
}

// readBackup returns the backup of a run, or nil when it was aborted or was
// collected since it was listed.
func readBackup(ctx context.Context, b storage.Bucket, r chunkstore.Run) (*validBackup, error) {
	o, err := chunkstore.ReadOutcome(ctx, b, r.Ref)
	if errors.Is(err, storage.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if o.Result != chunkstore.Commit {
		return nil, nil
	}
	m, err := parseManifest(o)
	if err == nil && (m.SegmentSize>>31 != 0 || postgres.SegmentSize(m.SegmentSize).Check() != nil) {
		err = fmt.Errorf("WAL segments of %d bytes", m.SegmentSize)
	}
	if err != nil {
		return nil, &manifestError{key: r.Outcome.Key, url: b.URL(), err: err}
	}
	v := &validBackup{ref: r.Ref, outcome: *r.Outcome, footprint: o.Footprint, manifest: m, epoch: o.Epoch}
	v.alone = slices.Equal(o.Footprint.Runs(), []runid.ID{o.Origin(r.Ref)})
	if o.Epoch != "" {
		v.sealed = o
	}
	return v, nil
}

// A manifestError says that an outcome is whole but what it says can't be used.
type manifestError struct {
	key, url string
	err      error
}

func (e *manifestError) Error() string { return fmt.Sprintf("%s of %s: %v", e.key, e.url, e.err) }

func (e *manifestError) Unwrap() error { return e.err }

// lsns returns where the backup starts and stops; parseManifest checked both.
func (b validBackup) lsns() (start, stop postgres.LSN) {
	start, _ = postgres.ParseLSN(b.manifest.StartLSN)
	stop, _ = postgres.ParseLSN(b.manifest.StopLSN)
	return start, stop
}

func (b validBackup) listed() Listed {
	m := b.manifest
	size := postgres.SegmentSize(m.SegmentSize)
	start, stop := b.lsns()
	return Listed{
		Name: b.ref.Name, Run: b.ref.Run, LastModified: b.outcome.ModTime,
		ExpandedSize:       m.Bytes,
		StartSegment:       postgres.SegmentAt(m.Timeline, start, size).Name(size),
		StartSegmentOffset: fmt.Sprintf("%08d", size.Offset(start)),
		StopSegment:        postgres.SegmentAt(m.Timeline, stop, size).Name(size),
		StopSegmentOffset:  fmt.Sprintf("%08d", size.Offset(stop)),
		Kind:               m.Kind, System: m.System, Timeline: m.Timeline, StartLSN: m.StartLSN, StopLSN: m.StopLSN,
		Started: m.Started, Stopped: m.Stopped, Host: m.Host, Files: m.Files,
		PageChecksums: m.Pages.Enabled, PageFailures: m.Pages.Failed,
		NewBytes: m.Push.New, StoredBytes: m.Push.Stored, Packs: b.footprint.Len(),
		Epoch: b.epoch,
	}
}

// counted is a number of things for people: 1 pack, 2 packs.
func counted[N int | int64](n N, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

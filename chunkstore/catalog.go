package chunkstore

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"wal-e/internal/envelope"
	"wal-e/internal/runid"
	"wal-e/internal/storage"
)

// An Intent is a run's birth certificate: a push has begun. Until its outcome
// stands, nothing that it may reference is removed.
type Intent struct {
	Host    string    `json:"host"`    // for people
	HostID  string    `json:"host_id"` // of the state folder that pushed; "" without one
	PID     int       `json:"pid"`
	Begun   time.Time `json:"begun"` // by the clock of Host
	System  string    `json:"system_identifier"`
	Start   string    `json:"start_lsn"`
	Program string    `json:"program"`         // version of wal-e
	Parents []Ref     `json:"parents"`         // backups whose packs it may reference, as far as W1 knows
	Epoch   string    `json:"epoch,omitempty"` // whose keys seal the run; "" when it is plain. Begin fills it in

	// CopyOf is the run of another prefix whose backup is copied, and Copies the
	// packs it needs, so that collections spare those that are here already.
	CopyOf *runid.ID  `json:"copy_of,omitempty"`
	Copies *Footprint `json:"copies,omitempty"`
}

// MarshalText writes NAME/RUN.
func (r Ref) MarshalText() ([]byte, error) { return []byte(r.Name + "/" + r.Run.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (r *Ref) UnmarshalText(b []byte) error {
	parsed, err := parseRef(string(b))
	if err != nil {
		return err
	}
	*r = parsed
	return nil
}

// Results of a run.
const (
	Commit = "commit"
	Abort  = "abort"
)

// An Outcome is how a run ended. It is created once, under a name that commit
// and abort compete for, and it is the only point at which a backup comes to
// be.
type Outcome struct {
	Result string `json:"result"` // Commit or Abort
	System string `json:"system_identifier,omitempty"`
	Start  string `json:"start_lsn,omitempty"`
	// Reason and By tell people why and by whom a run was aborted.
	Reason string `json:"reason,omitempty"`
	By     string `json:"by,omitempty"`
	// Manifest is package backup's; Footprint names the packs it needs.
	Manifest  json.RawMessage `json:"manifest,omitempty"`
	Footprint Footprint       `json:"footprint"`
	// Sparse are the packs of the footprint of which the backup needs little.
	// The next push refers to them no more.
	Sparse []SparsePack `json:"sparse,omitempty"`
	// Epoch says whose keys seal an encrypted run, of which Sealed is the whole
	// manifest and Manifest what everybody may know. See Store.OpenManifest.
	Epoch  string `json:"epoch,omitempty"`
	Sealed []byte `json:"sealed_manifest,omitempty"`
	// SealedBy is the run whose key sealed it: another one's, when a deleted
	// backup was taken back by somebody without keys.
	SealedBy *runid.ID `json:"sealed_by,omitempty"`
	// CopyOf is the run that took the backup, when this is a copy of another
	// prefix's.
	CopyOf *runid.ID `json:"copy_of,omitempty"`
}

const (
	intentKind     = "intent"
	intentVersion  = 1
	intentLimit    = 1 << 20 // bytes
	outcomeKind    = "outcome"
	outcomeVersion = 1
)

// A Run is what a listing tells of a push.
type Run struct {
	Ref
	Intent  *storage.Object // nil: none, so what else is there is litter
	Outcome *storage.Object // nil: open
	Deleted *storage.Object // nil: no tombstone
}

// Open tells whether the run may still commit.
func (r Run) Open() bool { return r.Intent != nil && r.Outcome == nil }

// Ended tells whether the run has an outcome and isn't deleted. Whether it is
// a backup, only the outcome tells.
func (r Run) Ended() bool { return r.Intent != nil && r.Outcome != nil && r.Deleted == nil }

// Runs lists all runs of a prefix, sorted by run id. Names that aren't ours are
// passed over.
func Runs(ctx context.Context, b storage.Bucket) ([]Run, error) {
	runs := make(map[Ref]*Run)
	at := func(ref Ref) *Run {
		if runs[ref] == nil {
			runs[ref] = &Run{Ref: ref}
		}
		return runs[ref]
	}
	for o, err := range b.List(ctx, runDir, "") {
		if err != nil {
			return nil, err
		}
		rest := strings.TrimPrefix(o.Key, runDir)
		if s, ok := strings.CutSuffix(rest, intentSuffix); ok {
			if ref, err := parseRef(s); err == nil {
				at(ref).Intent = &o
			}
		} else if s, ok := strings.CutSuffix(rest, outcomeSuffix); ok {
			if ref, err := parseRef(s); err == nil {
				at(ref).Outcome = &o
			}
		}
	}
	for o, err := range b.List(ctx, tombstoneDir, "") {
		if err != nil {
			return nil, err
		}
		if ref, err := parseRef(strings.TrimPrefix(o.Key, tombstoneDir)); err == nil {
			at(ref).Deleted = &o
		}
	}
	list := make([]Run, 0, len(runs))
	for _, r := range runs {
		list = append(list, *r)
	}
	slices.SortFunc(list, func(a, b Run) int {
		return cmp.Or(strings.Compare(a.Ref.Run.String(), b.Ref.Run.String()), strings.Compare(a.Name, b.Name))
	})
	return list, nil
}

// ReadOutcome reads the outcome of a run.
func ReadOutcome(ctx context.Context, b storage.Bucket, ref Ref) (*Outcome, error) {
	o := &Outcome{}
	if err := readEnvelope(ctx, b, ref.outcomeKey(), outcomeKind, outcomeVersion, envelope.MaxSize, o); err != nil {
		return nil, err
	}
	if o.Result != Commit && o.Result != Abort {
		return nil, fmt.Errorf("%s of %s: %w: result is %q", ref.outcomeKey(), b.URL(), ErrDamaged, o.Result)
	}
	return o, nil
}

// ReadIntent reads the intent of a run.
func ReadIntent(ctx context.Context, b storage.Bucket, ref Ref) (*Intent, error) {
	i := &Intent{}
	if err := readEnvelope(ctx, b, ref.intentKey(), intentKind, intentVersion, intentLimit, i); err != nil {
		return nil, err
	}
	return i, nil
}

// readEnvelope reads and decodes one of the archive's small objects.
func readEnvelope(ctx context.Context, b storage.Bucket, key, kind string, version int, limit int64, v any) error {
	data, err := storage.ReadAll(ctx, b, key, limit)
	if err != nil {
		return err
	}
	if err := envelope.Decode(data, kind, version, v); err != nil {
		return fmt.Errorf("%s of %s: %w", key, b.URL(), err)
	}
	return nil
}

// createOnce creates an object whose name only this run writes; that it exists
// is a retry after a lost answer.
func createOnce(ctx context.Context, b storage.Bucket, key string, data []byte) error {
	err := storage.CreateBytes(ctx, b, key, data, nil)
	if err != nil && !errors.Is(err, storage.ErrExist) {
		return err
	}
	return nil
}

// Fence ends an open run from outside: it creates the outcome ABORT. It returns
// the outcome that stands afterwards, which is the run's own when that was
// first.
func Fence(ctx context.Context, b storage.Bucket, ref Ref, by, reason string) (*Outcome, error) {
	o := &Outcome{Result: Abort, By: by, Reason: reason}
	data, err := envelope.Encode(outcomeKind, outcomeVersion, o)
	if err != nil {
		return nil, err
	}
	err = storage.CreateBytes(ctx, b, ref.outcomeKey(), data, nil)
	if errors.Is(err, storage.ErrExist) {
		return ReadOutcome(ctx, b, ref)
	}
	if err != nil {
		return nil, err
	}
	return o, nil
}

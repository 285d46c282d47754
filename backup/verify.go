package backup

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"wal-e/chunkstore"
	"wal-e/index"
	"wal-e/internal/envelope"
	"wal-e/internal/progress"
	"wal-e/internal/runid"
	"wal-e/internal/storage"
)

// VerifyConfig says what to verify. Bucket is required; the zero value of the
// rest works.
type VerifyConfig struct {
	Bucket storage.Bucket
	Query  string // as for List; "" means all valid backups

	// ReadData reads every pack that the backups need, each once however many
	// of them share it, and hashes every chunk in it.
	ReadData bool
	// Share bounds what ReadData reads: the packs that were read longest ago, as a
	// ledger in the archive says, to which it adds what it found whole. WAL is
	// looked for, and not read.
	Share Share
	// Record writes down in the archive what a verification of all backups came to,
	// for Catalog.Verified, and which packs it read. A host that may not write is warned.
	Record bool
	Host   string // for people who read the ledger and marks

	// Repair mends what can be: see the package's repair.go. Found problems stay in
	// the report, with what was done about each. When something was done about all
	// objects, the backups are verified again, and how they are then is what counts.
	Repair bool
	// CopyFrom is a copy of the archive from which lost and damaged packs come
	// back; nil: none.
	CopyFrom storage.Bucket

	Now func() time.Time // nil means time.Now

	// MissingWAL returns those of names that the archive lacks, in order. Nil
	// leaves WAL alone.
	MissingWAL func(ctx context.Context, system string, names []string) ([]string, error)
	// ReadWAL reads a WAL file and says what is wrong with it, if anything; err
	// says that it couldn't be read. It is called when ReadData and MissingWAL
	// are set too; nil leaves the files unread.
	ReadWAL func(ctx context.Context, system, name string) (damage, err error)

	// Sealed takes a backup in the clear for a problem: whoever can write to the
	// archive can have made it.
	Sealed bool
	// Keys finds the keys of encrypted backups; without ReadData a host's are
	// enough. Nil means that there are none.
	Keys KeyFinder

	Workers int    // requests and cores at once; 0 means 4
	TempDir string // where the index is kept meanwhile; "" means the system's
	Log     *slog.Logger

	Progress *progress.Meter // nil: nobody looks
}

func (c *VerifyConfig) setDefaults() {
	if c.Workers <= 0 {
		c.Workers = 4
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
}

// A VerifyReport says what was verified and what is wrong.
type VerifyReport struct {
	Backups []VerifiedBackup `json:"backups"`
	// Packs that the backups need, each once, and their bytes.
	Packs     int   `json:"packs"`
	PackBytes int64 `json:"pack_bytes"`
	// ReadPacks and ReadBytes are what ReadData read and found right or wrong.
	ReadPacks int   `json:"read_packs"`
	ReadBytes int64 `json:"read_bytes"`
	// Sealed is how many of them are encrypted and were read without a private
	// key: their checksums were compared, their data was not opened.
	Sealed int `json:"sealed_packs"`
	// Share is where reading by shares stands; nil without one.
	Share *ShareReport `json:"share,omitempty"`
	// WAL is how many segments were looked for, each once; ReadWAL how many
	// were read.
	WAL     int `json:"wal_segments"`
	ReadWAL int `json:"read_wal_segments"`

	// Problems cost data or may. Warnings cost time or bytes only.
	Problems []Problem `json:"problems"`
	Warnings []Problem `json:"warnings"`

	// Repairs are what was done about them; nil when nothing was asked for.
	Repairs []Repair `json:"repairs,omitempty"`
	// Mended tells that there were problems, that all are mended, and that another
	// verification found none. Backups says then how they are now.
	Mended bool `json:"mended"`

	// Open are pushes under way, or killed. Orphans are packs that no valid
	// backup needs; nil when that can't be known, or wasn't asked because the
	// query was for less than all.
	Open    []OpenRun `json:"open_runs"`
	Orphans *Orphans  `json:"orphans,omitempty"`
}

// A VerifiedBackup is a backup that was verified.
type VerifiedBackup struct {
	Name  string   `json:"name"`
	Run   runid.ID `json:"run"`
	OK    bool     `json:"ok"`
	Files int64    `json:"files"` // that its table lists
	Bytes int64    `json:"bytes"`
	Packs int      `json:"packs"`
}

// A Problem is what is wrong with one object.
type Problem struct {
	Object  string   `json:"object"` // its key
	Text    string   `json:"problem"`
	Backups []string `json:"backups,omitempty"` // NAME@RUN that need it
	// Files are the first of those that can't be restored from it, FileCount
	// how many there are in all these backups together.
	Files     []string `json:"files,omitempty"`
	FileCount int64    `json:"file_count"`
}

// An OpenRun is a push without outcome.
type OpenRun struct {
	Name  string    `json:"name"`
	Run   runid.ID  `json:"run"`
	Since time.Time `json:"since"` // by the store's clock
}

// Orphans are packs that no valid backup needs. Open and aborted runs have
// some, which the next push uses; a collection removes the others.
type Orphans struct {
	Packs int   `json:"packs"`
	Bytes int64 `json:"bytes"`
}

// ErrProblems is wrapped by Verify when the archive has problems.
var ErrProblems = errors.New("verification found problems")

// Verify proves that backups can be restored: that the packs of their
// footprints are stored with the size that the index gives, that every node of
// their file tables and lists reads back with the hash that it is named by,
// that every chunk in those lists is in a pack of the footprint and long enough
// for the pages that are taken from it, and that the files add up to what the
// manifest says. With ReadData it also reads each pack once and proves every
// chunk in it. Lists and chunks that are proven give the bytes that were
// backed up, so files are not put together again for it; what a restore checks
// beyond that is the CRC of each file.
//
// Problems are collected in the report, and the error then wraps ErrProblems, unless
// all of them were mended.
// Any other error means that the verification couldn't be finished, and that
// the report says less than all. A backup that is deleted meanwhile is none.
//
// Memory grows with the number of packs, backups and bad objects, not with the
// number of chunks or files: those are looked up in an index in TempDir.
func Verify(ctx context.Context, cfg VerifyConfig) (report *VerifyReport, err error) {
	cfg.setDefaults()
	q, err := parseQuery(cfg.Query)
	if err != nil {
		return nil, err
	}
	v := &verifier{cfg: cfg, query: q, report: &VerifyReport{}, problems: newProblems(), warnings: newProblems()}
	err = v.run(ctx)
	if err == nil {
		err = v.forgetDeleted(ctx)
	}
	v.report.Problems, v.report.Warnings = v.problems.list(), v.warnings.list()
	v.settle()
	if err == nil {
		err = v.again(ctx)
	}
	if err == nil {
		v.repairOthers()
	}
	err = errors.Join(err, v.storeLedger(ctx, err == nil))
	if err == nil && len(v.report.Problems) > 0 && !v.report.Mended {
		first := v.report.Problems[0]
		err = fmt.Errorf("%w: %s of %s, the first: %s: %s",
			ErrProblems, counted(len(v.report.Problems), "object"), cfg.Bucket.URL(), first.Object, first.Text)
	}
	return v.report, err
}

// A verifier is one verification under way.
type verifier struct {
	cfg    VerifyConfig
	query  query
	report *VerifyReport

	store   *chunkstore.Store
	table   *index.Table
	backups []validBackup
	needed  chunkstore.Footprint // of all backups together
	sizes   map[index.PackID]int64
	bad     badPacks

	ledger *ledger               // what was read when; nil when nothing is written down
	chosen *chunkstore.Footprint // what of it is read now; nil: all
	whole  map[index.PackID]bool // what was read and found whole; under bad.mu

	problems, warnings *problems
}

func (v *verifier) run(ctx context.Context) error {
	unknown, err := v.findBackups(ctx)
	if err != nil {
		return err
	}
	if len(v.backups) == 0 && v.query != (query{}) && unknown == 0 {
		return fmt.Errorf("no backup %s in %s: %w", v.cfg.Query, v.cfg.Bucket.URL(), storage.ErrNotExist)
	}
	v.store, err = chunkstore.Open(ctx, v.cfg.Bucket, v.cfg.Log)
	if errors.Is(err, chunkstore.ErrNoPrefix) && len(v.backups) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	if err := v.listPacks(ctx, unknown); err != nil {
		return err
	}
	byShare := v.cfg.ReadData && v.cfg.Share != (Share{})
	if byShare || v.cfg.Record && v.query == (query{}) {
		if err := v.readLedger(ctx); err != nil {
			return err
		}
	}
	if byShare {
		v.choose()
	}
	if err := v.verifyEpochs(ctx); err != nil {
		return err
	}
	return v.verifyWAL(ctx)
}

// findBackups reads the catalog. It returns the number of runs of which it
// isn't known whether they are backups.
func (v *verifier) findBackups(ctx context.Context) (unknown int, err error) {
	var damage []damagedRun
	v.backups, damage, err = readBackups(ctx, v.cfg.Bucket, v.query)
	if err != nil {
		return 0, err
	}
	for _, d := range damage {
		if !isDamage(d.err) {
			return 0, d.err
		}
		v.problems.add(d.key, d.err, d.ref.String(), "")
	}
	runs, err := chunkstore.Runs(ctx, v.cfg.Bucket)
	if err != nil {
		return 0, err
	}
	for _, r := range runs {
		if r.Open() {
			v.report.Open = append(v.report.Open, OpenRun{Name: r.Name, Run: r.Ref.Run, Since: r.Intent.ModTime})
		}
	}
	if v.query == (query{}) {
		if err := v.checkIntents(ctx, runs); err != nil {
			return 0, err
		}
	}
	for _, b := range v.backups {
		if v.cfg.Sealed && b.epoch == "" {
			v.problems.add(b.outcome.Key, errPlain, b.ref.String(), "")
		}
		v.needed.Union(&b.footprint)
		v.report.Backups = append(v.report.Backups, VerifiedBackup{Name: b.ref.Name, Run: b.ref.Run, Packs: b.footprint.Len()})
	}
	return len(damage), nil
}

var errPlain = errors.New("the backup isn't encrypted, so anybody who can write to the archive can have made or altered it; restores refuse it here")

// checkIntents reads what nothing but pushes and collections read. No backup
// needs it.
func (v *verifier) checkIntents(ctx context.Context, runs []chunkstore.Run) error {
	for _, r := range runs {
		if r.Intent == nil {
			continue
		}
		_, err := chunkstore.ReadIntent(ctx, v.cfg.Bucket, r.Ref)
		switch {
		case err == nil || errors.Is(err, storage.ErrNotExist): // collected since it was listed
		case isDamage(err):
			v.warnings.add(r.Intent.Key, err, "", "")
		default:
			return err
		}
	}
	return nil
}

// isDamage tells what is wrong with an object from what is wrong with the way
// to it: the former is collected, the latter ends a verification.
func isDamage(err error) bool {
	var version *envelope.VersionError
	var manifest *manifestError
	return errors.Is(err, storage.ErrNotExist) || errors.Is(err, chunkstore.ErrDamaged) ||
		errors.Is(err, index.ErrDamaged) || errors.Is(err, envelope.ErrDamaged) ||
		errors.As(err, &version) || errors.As(err, &manifest)
}

// openTable opens an index of its own: a push's may be damaged or in use, and
// what is verified is the store.
func (v *verifier) openTable() (closeTable func(), err error) {
	dir, err := os.MkdirTemp(v.cfg.TempDir, "wal-e-verify-")
	if err != nil {
		return nil, fmt.Errorf("make a folder for the index: %w", err)
	}
	v.table, err = v.store.OpenTable(filepath.Join(dir, "index.db"))
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return func() {
		// What can fail here concerns files that nobody needs any more.
		_ = v.table.Close()
		_ = os.RemoveAll(dir)
	}, nil
}

// settle says of each backup whether a problem concerns it.
func (v *verifier) settle() {
	hit := make(map[string]bool)
	for _, p := range v.report.Problems {
		for _, b := range p.Backups {
			hit[b] = true
		}
	}
	for i := range v.report.Backups {
		b := &v.report.Backups[i]
		b.OK = !hit[chunkstore.Ref{Name: b.Name, Run: b.Run}.String()]
	}
}

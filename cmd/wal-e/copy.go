package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"wal-e/backup"
	"wal-e/chunkstore"
	"wal-e/compat"
	"wal-e/internal/envelope"
	"wal-e/internal/fault"
	"wal-e/internal/postgres"
	"wal-e/internal/progress"
	"wal-e/internal/runid"
	"wal-e/internal/storage"
	"wal-e/wal"
)

const copyLong = `Copy backups, all or the named ones (NAME, NAME@RUN or LATEST), to another prefix
on any storage: a second archive that stands alone. Every command works on it
without the first. Only what it lacks is sent, so a copy that was stopped goes
on; all checksums are compared on the way. No key is needed: what is encrypted
is copied as it is.

The WAL that makes each backup consistent goes along; --wal takes all from the
oldest of these backups on. The destination must be empty, or have been made by
copy from the same archive. It has its own retention: run delete there.

Credentials for the destination come from the same variables, unless --to-envdir
names a folder with others. What was copied is recorded at the source, where
status shows it, if its credentials allow that.`

type copyFlags struct {
	to, envdir string
	last       int
	wal, json  bool
	noRecord   bool
	poolSize   int
}

func newCopyCommand(a *app) *cobra.Command {
	var f copyFlags
	cmd := &cobra.Command{
		Use:     "copy [NAME…]",
		Short:   "copy backups to another prefix, on any storage",
		Long:    copyLong,
		Example: "  wal-e copy --to s3://other-bucket/main --wal --last 7\n  wal-e copy --to file://localhost/mnt/vault LATEST",
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case f.to == "":
				return &usageError{cmd, "say where to with --to PREFIX"}
			case f.last < 0, f.last > 0 && len(args) > 0:
				return &usageError{cmd, "--last N takes a number above 0, and no names beside it"}
			case f.poolSize < 1:
				return &usageError{cmd, fmt.Sprintf("--pool-size %d: want at least 1", f.poolSize)}
			}
			return a.do(cmd, func(ctx context.Context, s *session) error {
				to, err := a.elsewhere(s, f.to, f.envdir)
				if err != nil {
					return fmt.Errorf("destination: %w", err)
				}
				return copyBackups(ctx, s, to, f, args)
			})
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&f.to, "to", "", "`PREFIX` to copy to, such as s3://BUCKET/PATH")
	flags.StringVar(&f.envdir, "to-envdir", "", "folder `DIR` with the destination's variables, in the form of WALE_ENVDIR")
	flags.BoolVar(&f.wal, "wal", false, "copy all WAL from the oldest of these backups on")
	flags.IntVar(&f.last, "last", 0, "copy the newest `N` backups of each cluster alone")
	flags.VarP(numberOption(&f.poolSize, 3), "pool-size", "p", "packs at once, of some 32 MiB each in memory")
	flags.BoolVar(&f.noRecord, "no-record", false, "write nothing to the source")
	flags.BoolVar(&f.json, "json", false, "print the result as JSON")
	return cmd
}

// elsewhere returns a session whose archive is at another prefix, with the
// variables of a folder laid over those of this process.
func (a *app) elsewhere(s *session, to, envdir string) (*session, error) {
	p, err := parsePrefix("--to", to)
	if err != nil {
		return nil, err
	}
	there := *a
	if envdir != "" {
		env := maps.Clone(a.env)
		env["WALE_ENVDIR"] = envdir
		if there.env, err = env.withEnvdir(); err != nil {
			return nil, err
		}
		there.flags.awsAccessKeyID, there.flags.awsInstanceProfile, there.flags.wabsAccountName = "", false, ""
	}
	f := &there.flags
	f.filePrefix, f.gsPrefix, f.s3Prefix, f.swiftPrefix, f.wabsPrefix = "", "", "", "", ""
	*map[string]*string{"file": &f.filePrefix, "gs": &f.gsPrefix, "s3": &f.s3Prefix, "swift": &f.swiftPrefix, "wabs": &f.wabsPrefix}[p.scheme] = to
	c, err := there.loadConfig()
	if err != nil {
		return nil, err
	}
	c.prefix = p // its errors name --to
	return &session{config: c, log: s.log, stdin: s.stdin, stdout: s.stdout, stderr: s.stderr, shown: s.shown}, nil
}

// A copyReport is what --json prints.
type copyReport struct {
	To       string       `json:"to"`
	Backups  []copiedNote `json:"backups"`
	Packs    int          `json:"packs"`     // that were sent
	Bytes    int64        `json:"bytes"`     // of those
	WAL      int          `json:"wal_files"` // that were sent
	WALBytes int64        `json:"wal_bytes"`
}

// A copiedNote says of one backup what became of it.
type copiedNote struct {
	Backup string `json:"backup"`         // NAME@RUN at the source
	Copy   string `json:"copy,omitempty"` // NAME@RUN at the destination
	State  string `json:"state"`          // copied, present or passed over
	Packs  int    `json:"packs"`          // that were sent
	Bytes  int64  `json:"bytes"`
	Reason string `json:"reason,omitempty"` // why it was passed over
}

const (
	stateCopied  = "copied"
	statePresent = "present"
	statePassed  = "passed over"
)

// A source is a backup that may be copied.
type source struct {
	ref     chunkstore.Ref
	origin  runid.ID
	system  postgres.SystemID
	kind    string
	tl      postgres.Timeline
	start   postgres.LSN
	stop    postgres.LSN
	size    postgres.SegmentSize
	newest  bool // of its system
	arrived bool // it is at the destination
}

// first is the number of the segment that the backup starts in.
func (b *source) first() uint64 { return postgres.SegmentAt(b.tl, b.start, b.size).No }

type copyingAll struct {
	s        *session
	f        copyFlags
	from, to storage.Bucket
	hostID   string
	report   *copyReport
}

func copyBackups(ctx context.Context, s, there *session, f copyFlags, names []string) (err error) {
	c := &copyingAll{s: s, f: f, report: &copyReport{Backups: []copiedNote{}}}
	if c.from, err = s.openBucket(use{reads: true}); err != nil {
		return err
	}
	if c.to, err = there.openBucket(use{}); err != nil {
		return fmt.Errorf("destination: %w", err)
	}
	c.report.To = c.to.URL()
	if s.prefix.String() == there.prefix.String() {
		return &message{kind: fault.BadSetting, text: fmt.Sprintf("%s is both source and destination of the copy", s.prefix), hint: "Name another prefix with --to."}
	}
	chosen, err := c.choose(ctx, names)
	if err != nil {
		return err
	}
	contents, err := compat.Detect(ctx, c.to)
	if err != nil {
		return layoutUnknown(err)
	}
	if contents.Layout() == compat.Classic {
		// Whoever pushes there would go over to the new layout by it.
		return &message{
			kind: fault.NotClassic, text: fmt.Sprintf("%s is a classic prefix, and a copy would make it another", c.to.URL()),
			hint: "Copy to an empty prefix.",
		}
	}
	if err := chunkstore.PrepareCopy(ctx, c.from, c.to, time.Now()); err != nil {
		return err
	}
	unlock, err := c.lock(ctx, there)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	err = c.copyAll(ctx, chosen, len(names) > 0)
	if err == nil && f.wal {
		err = c.allWAL(ctx, chosen)
	}
	if err == nil && !f.noRecord {
		c.record(ctx, chosen)
	}
	if f.json {
		return errors.Join(err, json.NewEncoder(s.stdout).Encode(c.report))
	}
	return errors.Join(err, c.print())
}

// choose returns the backups that are meant, by where they start.
func (c *copyingAll) choose(ctx context.Context, names []string) ([]*source, error) {
	all, err := sources(ctx, c.from)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, &message{
			kind: fault.NoBackup, text: fmt.Sprintf("%s holds no backup in the new layout to copy", c.s.prefix),
			hint: "Push one with wal-e backup-push; wal-e import takes over those of the classic layout.",
		}
	}
	if len(names) == 0 {
		return lastOf(all, c.f.last), nil
	}
	var chosen []*source
	for _, name := range names {
		var found *source
		for _, b := range all {
			if name == b.ref.Name || name == b.ref.String() || name == backup.Latest && b.newest {
				if found != nil && found.system != b.system {
					return nil, &message{kind: fault.Ambiguous, text: fmt.Sprintf("%s is a backup of several clusters here", name), hint: "Name the backups: " + hintBackups}
				}
				found = b // the newest run of a name is last
			}
		}
		if found == nil {
			return nil, &message{kind: fault.NoBackup, text: fmt.Sprintf("there is no backup %s to copy in %s", name, c.s.prefix), hint: hintBackups}
		}
		if !slices.Contains(chosen, found) {
			chosen = append(chosen, found)
		}
	}
	slices.SortFunc(chosen, func(a, b *source) int { return chunkstore.CompareRefs(a.ref, b.ref) })
	return chosen, nil
}

// sources lists the valid backups of a prefix, by where they start.
func sources(ctx context.Context, b storage.Bucket) ([]*source, error) {
	runs, err := chunkstore.Runs(ctx, b)
	if err != nil {
		return nil, err
	}
	var list []*source
	newest := make(map[postgres.SystemID]*source)
	slices.SortFunc(runs, func(a, b chunkstore.Run) int { return chunkstore.CompareRefs(a.Ref, b.Ref) })
	for _, r := range runs {
		if !r.Ended() {
			continue
		}
		o, err := chunkstore.ReadOutcome(ctx, b, r.Ref)
		if errors.Is(err, storage.ErrNotExist) {
			continue // collected since it was listed
		}
		if err != nil {
			return nil, err
		}
		if o.Result != chunkstore.Commit {
			continue
		}
		s, err := newSource(r.Ref, o)
		if err != nil {
			return nil, err
		}
		list = append(list, s)
		newest[s.system] = s
	}
	for _, s := range newest {
		s.newest = true
	}
	return list, nil
}

// newSource reads what the readable part of a manifest says.
func newSource(ref chunkstore.Ref, o *chunkstore.Outcome) (*source, error) {
	var m struct {
		Kind     string               `json:"kind"`
		Timeline postgres.Timeline    `json:"timeline"`
		Start    string               `json:"start_lsn"`
		Stop     string               `json:"stop_lsn"`
		Size     postgres.SegmentSize `json:"wal_segment_size"`
	}
	s := &source{ref: ref, origin: o.Origin(ref)}
	err := json.Unmarshal(o.Manifest, &m)
	if err == nil {
		s.system, err = postgres.ParseSystemID(o.System)
	}
	if err == nil {
		s.start, err = postgres.ParseLSN(m.Start)
	}
	if err == nil {
		s.stop, err = postgres.ParseLSN(m.Stop)
	}
	if err == nil {
		err = m.Size.Check()
	}
	if err != nil {
		return nil, fmt.Errorf("manifest of %s: %w: %w", ref, chunkstore.ErrDamaged, err)
	}
	s.kind, s.tl, s.size = m.Kind, m.Timeline, m.Size
	return s, nil
}

// lastOf returns the newest n of each system; 0 means all.
func lastOf(all []*source, n int) []*source {
	if n == 0 {
		return all
	}
	seen := make(map[postgres.SystemID]int)
	var list []*source
	for _, b := range slices.Backward(all) {
		if seen[b.system]++; seen[b.system] <= n {
			list = append(list, b)
		}
	}
	slices.Reverse(list)
	return list
}

// copyAll copies what isn't there, oldest first: what an earlier copy began is
// finished before a newer backup tells collections that it isn't needed.
func (c *copyingAll) copyAll(ctx context.Context, chosen []*source, named bool) error {
	present, err := chunkstore.CopiedRuns(ctx, c.to)
	if err != nil {
		return err
	}
	var failed []error
	for _, b := range chosen {
		note := copiedNote{Backup: b.ref.String()}
		if ref, ok := present[b.origin]; ok {
			note.State, note.Copy, b.arrived = statePresent, ref.String(), true
			c.report.Backups = append(c.report.Backups, note)
			continue
		}
		copied, err := c.copyOne(ctx, b)
		switch {
		case err == nil:
			note.State, note.Copy, note.Packs, note.Bytes, b.arrived = stateCopied, copied.Ref.String(), copied.Packs, copied.Bytes, true
			c.report.Packs += copied.Packs
			c.report.Bytes += copied.Bytes
		case errors.Is(err, chunkstore.ErrCondemned), errors.Is(err, chunkstore.ErrVanished):
			note.State, note.Reason = statePassed, err.Error()
			if !named && !b.newest && errors.Is(err, chunkstore.ErrCondemned) {
				c.s.log.WarnContext(ctx, "a backup was not copied", "backup", b.ref.String(), "detail", err.Error(),
					"hint", "What was deleted at the destination doesn't come back. --last N leaves old backups alone.")
			} else {
				failed = append(failed, explainCopy(err))
			}
		default:
			return errors.Join(append(failed, err)...)
		}
		c.report.Backups = append(c.report.Backups, note)
	}
	return errors.Join(failed...)
}

func explainCopy(err error) error {
	if errors.Is(err, chunkstore.ErrCondemned) {
		return &message{
			kind: fault.TooLate, text: err.Error(), err: err,
			hint: "What a collection removed at the destination can't be stored there again under its name. Copy to a new, empty prefix.",
		}
	}
	return &message{kind: fault.Deleted, text: err.Error(), err: err, hint: "Nothing of it counts as a backup at the destination. Run the copy again."}
}

func (c *copyingAll) copyOne(ctx context.Context, b *source) (*chunkstore.Copied, error) {
	meter, stop := c.s.meter(ctx)
	defer stop()
	begun := false
	last := int64(0)
	var told = make(chan struct{}, 1) // Progress is called by several at once
	told <- struct{}{}
	return chunkstore.Copy(ctx, chunkstore.CopyConfig{
		From: c.from, To: c.to, Host: hostname(), HostID: c.hostID, Program: version, Packs: c.f.poolSize,
		Progress: func(done, total int64) {
			<-told
			defer func() { told <- struct{}{} }()
			if !begun {
				begun = true
				meter.Begin("copy "+b.ref.Name, progress.Bytes, total, nil)
			}
			if done > last {
				meter.Add(done - last)
				last = done
			}
		},
		WAL: func(ctx context.Context, _ *chunkstore.Outcome) error { return c.neededWAL(ctx, b) },
	}, b.ref)
}

// neededWAL copies the WAL that makes a backup consistent.
func (c *copyingAll) neededWAL(ctx context.Context, b *source) error {
	if b.kind == backup.Offline {
		return nil // its own checkpoint is enough
	}
	var names []string
	for seg := range postgres.Segments(b.tl, b.start, b.stop, b.size) {
		names = append(names, seg.Name(b.size))
	}
	// Whoever recovers on a later timeline asks for its history, if there is one.
	switch _, err := c.from.Stat(ctx, wal.Key(b.system, b.tl.HistoryName())); {
	case err == nil:
		names = append(names, b.tl.HistoryName())
	case !errors.Is(err, storage.ErrNotExist):
		return err
	}
	sent, err := wal.CopyFiles(ctx, wal.CopyConfig{From: c.from, To: c.to, System: b.system}, names)
	c.count(sent)
	return err
}

func (c *copyingAll) count(sent wal.Copied) {
	c.report.WAL += sent.Files
	c.report.WALBytes += sent.Bytes
}

// allWAL copies all WAL of each system from its oldest copied backup on.
func (c *copyingAll) allWAL(ctx context.Context, chosen []*source) error {
	oldest := make(map[postgres.SystemID]*source)
	for _, b := range chosen {
		if o := oldest[b.system]; b.arrived && (o == nil || b.first() < o.first()) {
			oldest[b.system] = b
		}
	}
	for _, system := range slices.Sorted(maps.Keys(oldest)) {
		b := oldest[system]
		sent, err := wal.CopyFrom(ctx, wal.CopyConfig{From: c.from, To: c.to, System: system}, b.first(), b.size)
		c.count(sent)
		if errors.Is(err, storage.ErrNotExist) {
			return &message{
				kind: fault.Deleted, text: "WAL was removed at the source while it was copied", detail: err.Error(),
				hint: "Run the copy again.", err: err,
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// lock keeps other copies of this host to the same destination out, and ends
// those that died. Who can't have local state goes on without.
func (c *copyingAll) lock(ctx context.Context, there *session) (unlock func() error, err error) {
	nothing := func() error { return nil }
	dir, err := there.prefixState()
	if err != nil {
		c.s.log.WarnContext(ctx, "copying without local state", "detail", err.Error(),
			"hint", "A copy that dies then holds up collections at the destination for a day.")
		return nothing, nil
	}
	f, err := os.OpenFile(filepath.Join(dir, "copy.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = fault.Busy.Errorf("another wal-e copy to %s runs on this host: wait for it to end", c.to.URL())
		}
		return nil, errors.Join(err, f.Close())
	}
	// A child that is just being forked shares the file, so closing it isn't enough.
	unlock = func() error { return errors.Join(syscall.Flock(int(f.Fd()), syscall.LOCK_UN), f.Close()) }
	// The lock's content is the id by which this host knows its own copies.
	held := make([]byte, 64)
	n, _ := f.ReadAt(held, 0)
	if c.hostID = strings.TrimSpace(string(held[:n])); len(c.hostID) != 39 {
		id, err := runid.New(time.Now(), nil)
		if err == nil {
			c.hostID = id.String()
			_, err = f.WriteAt([]byte(c.hostID+"\n"), 0)
		}
		if err != nil {
			return nil, errors.Join(err, unlock())
		}
	}
	if err := chunkstore.FenceCopies(ctx, c.to, c.hostID, hostname()); err != nil {
		return nil, errors.Join(err, unlock())
	}
	return unlock, nil
}

func (c *copyingAll) print() error {
	copied, there := 0, 0
	for _, n := range c.report.Backups {
		switch n.State {
		case stateCopied:
			copied++
			if _, err := fmt.Fprintf(c.s.stdout, "%s: copied, %s in %s\n", n.Backup, bytesText(n.Bytes), counted(n.Packs, "pack")); err != nil {
				return err
			}
		case statePresent:
			there++
		default:
			if _, err := fmt.Fprintf(c.s.stdout, "%s: not copied: %s\n", n.Backup, n.Reason); err != nil {
				return err
			}
		}
	}
	_, err := fmt.Fprintf(c.s.stdout, "%s copied to %s, %d there already; %s, %s\n",
		counted(copied, "backup"), c.report.To, there, counted(c.report.WAL, "WAL file"), bytesText(c.report.Bytes+c.report.WALBytes))
	return err
}

// copyNotes is where copies are recorded at the source, for people and status.
const (
	copyNotes       = "copies_006/"
	copyNoteKind    = "copied"
	copyNoteVersion = 1
)

// A copyNote says that a backup was copied.
type copyNote struct {
	To     string    `json:"to"`     // URL
	Newest string    `json:"newest"` // NAME@RUN at the source
	WAL    bool      `json:"wal"`    // with all WAL from the oldest on
	At     time.Time `json:"at"`     // by the clock of Host
	Host   string    `json:"host"`
}

// record notes at the source that its newest backup was copied. Credentials that
// may only read are no failure.
func (c *copyingAll) record(ctx context.Context, chosen []*source) {
	var newest *source
	for _, b := range chosen {
		if b.arrived && (newest == nil || chunkstore.CompareRefs(newest.ref, b.ref) < 0) {
			newest = b
		}
	}
	if newest == nil || !newest.newest {
		return
	}
	now := time.Now().UTC()
	data, err := envelope.Encode(copyNoteKind, copyNoteVersion, copyNote{To: c.to.URL(), Newest: newest.ref.String(), WAL: c.f.wal, At: now, Host: hostname()})
	var id runid.ID
	if err == nil {
		id, err = runid.New(now, nil)
	}
	if err == nil {
		err = storage.CreateBytes(ctx, c.from, copyNotes+id.String(), data, nil)
	}
	if err != nil {
		c.s.log.WarnContext(ctx, "the copy was not recorded at the source", "detail", err.Error(),
			"hint", "wal-e status there can't show it. --no-record leaves that out.")
	}
}

// lastCopy reads the newest record of a copy; nil means there is none.
func lastCopy(ctx context.Context, b storage.Bucket) (*copyNote, error) {
	key := ""
	for o, err := range b.List(ctx, copyNotes, "") {
		if err != nil {
			return nil, err
		}
		key = cmp.Or(o.Key, key)
	}
	if key == "" {
		return nil, nil
	}
	data, err := storage.ReadAll(ctx, b, key, envelope.MaxSize)
	if err != nil {
		return nil, err
	}
	n := &copyNote{}
	if err := envelope.Decode(data, copyNoteKind, copyNoteVersion, n); err != nil {
		return nil, fmt.Errorf("%s of %s: %w", key, b.URL(), err)
	}
	return n, nil
}

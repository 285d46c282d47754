package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"wal-e/backup"
	"wal-e/compat"
	"wal-e/gc"
	"wal-e/internal/fault"
	"wal-e/internal/storage"
)

// deleteFlags are the options of delete, before or behind its subcommand.
type deleteFlags struct {
	dryRun, confirm, json bool
	keepWithin            string
	daily, weekly         int
	monthly               int
	pitr                  string
	collect               collectFlags
}

const deleteLong = `Delete backups, and then what no backup needs any more: packs of chunks and WAL.
Nothing is deleted without --confirm; --dry-run beats it. Deleting is safe beside
running pushes: what one of them might need waits until it has ended, and the
next delete or gc goes on.

WAL goes that is older than the oldest backup that stays, also when no backup is
deleted. A backup marked with backup-mark --keep stays.`

func newDeleteCommand(a *app) *cobra.Command {
	f := &deleteFlags{}
	cmd := &cobra.Command{
		Use:     "delete SUBCOMMAND",
		Short:   "delete backups and WAL that are no longer needed",
		Long:    deleteLong,
		Example: "  wal-e delete retain 7\n  wal-e delete --confirm retain 14d",
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return &usageError{cmd, "missing subcommand: want before, retain, everything or old-versions"}
		},
	}
	cmd.Flags().SortFlags = false // help asks these how to list those of all subcommands
	flags := cmd.PersistentFlags()
	flags.SortFlags = false
	flags.BoolVar(&f.confirm, "confirm", false, "really delete")
	flags.BoolVarP(&f.dryRun, "dry-run", "n", false, "only say what would be deleted; this is the default, and beats --confirm")
	flags.StringVar(&f.keepWithin, "keep-within", "", "delete nothing taken or stored within `PERIOD` (7d, 36h, 2w), whatever was pushed since")
	f.collect.bind(flags)
	flags.BoolVar(&f.json, "json", false, "print the plan and the report as JSON")
	cmd.AddCommand(newDeleteBeforeCommand(a, f), newDeleteRetainCommand(a, f), newDeleteEverythingCommand(a, f), newDeleteOldCommand(a, f))
	return cmd
}

func newDeleteBeforeCommand(a *app, f *deleteFlags) *cobra.Command {
	return &cobra.Command{
		Use:     "before BEFORE_SEGMENT_EXCLUSIVE",
		Short:   "delete backups older than a backup or a WAL segment",
		Long:    "Delete what is older than a backup, by name, or than a WAL segment. The name need not exist.",
		Example: "  wal-e delete --confirm before base_000000010000000000000007_00000216",
		Args:    arguments("BEFORE_SEGMENT_EXCLUSIVE"),
		RunE: f.byPolicy(a, func(p *gc.Policy, args []string) (err error) {
			p.Before, err = gc.ParsePosition(args[0])
			return err
		}),
	}
}

func newDeleteRetainCommand(a *app, f *deleteFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "retain [NUM_TO_RETAIN]",
		Short: "keep the newest backups",
		Long: `Keep the newest N backups of each cluster, or with a period such as 14d those of
that time and the one before it. --daily, --weekly and --monthly keep further
ones, and --pitr thins WAL: any moment of the last PERIOD can be restored, and of
older backups just themselves.`,
		Example: "  wal-e delete --confirm retain 7\n  wal-e delete --confirm retain 7d --weekly 5 --monthly 12 --pitr 7d",
		Args:    arguments("[NUM_TO_RETAIN]"),
		RunE: f.byPolicy(a, func(p *gc.Policy, args []string) (err error) {
			p.Daily, p.Weekly, p.Monthly = f.daily, f.weekly, f.monthly
			if len(args) == 1 {
				if p.Retain, p.RetainFor, err = gc.ParseRetain(args[0]); err != nil {
					return err
				}
			}
			if f.pitr != "" {
				p.PITR, err = gc.ParsePeriod(f.pitr)
			}
			return err
		}),
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.IntVar(&f.daily, "daily", 0, "keep the newest backup of each of the last `N` days (UTC) that have one")
	flags.IntVar(&f.weekly, "weekly", 0, "keep the newest backup of each of the last `N` ISO weeks that have one")
	flags.IntVar(&f.monthly, "monthly", 0, "keep the newest backup of each of the last `N` months that have one")
	flags.StringVar(&f.pitr, "pitr", "", "keep what restores any moment of the last `PERIOD`; of older backups just the WAL that makes them consistent")
	return cmd
}

func newDeleteEverythingCommand(a *app, f *deleteFlags) *cobra.Command {
	return &cobra.Command{
		Use:     "everything",
		Short:   "delete all backups and WAL",
		Long:    "Delete all backups and WAL, and what was written down of verifications, drills and copies; the parameters of the prefix stay. It fails while a backup is marked to be kept.",
		Example: "  wal-e delete --confirm everything",
		Args:    arguments(),
		RunE: f.byPolicy(a, func(p *gc.Policy, _ []string) error {
			p.Everything = true
			return nil
		}),
	}
}

func newDeleteOldCommand(a *app, f *deleteFlags) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "old-versions",
		Short: "delete what older layouts left",
		Long: `Delete the folders of layouts 000 to 004, which no program of today reads. Where
the prefix has the new layout, 006, the classic one, 005, is old as well: it goes,
backups and WAL, once there is a base backup in the new one, and all the WAL from
there on is in the new one, too.`,
		Example: "  wal-e delete --confirm old-versions",
		Args:    arguments(),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.do(cmd, func(ctx context.Context, s *session) error { return deleteOldVersions(ctx, s, !f.really(), force) })
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "delete classic backups though there is none in the new layout, and WAL that it lacks")
	return cmd
}

// really tells whether to delete.
func (f *deleteFlags) really() bool { return f.confirm && !f.dryRun }

// byPolicy returns what a subcommand does that deletes by a policy, which set
// fills in from its arguments.
func (f *deleteFlags) byPolicy(a *app, set func(p *gc.Policy, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		var p gc.Policy
		err := set(&p, args)
		if err == nil && f.keepWithin != "" {
			p.KeepWithin, err = gc.ParsePeriod(f.keepWithin)
		}
		if err == nil {
			err = p.Check()
		}
		var collect gc.Config
		if err == nil {
			collect, err = f.collect.config()
		}
		if err != nil {
			return &usageError{cmd, err.Error()}
		}
		collect.DryRun, collect.Everything = !f.really(), p.Everything
		return a.do(cmd, func(ctx context.Context, s *session) error { return f.delete(ctx, s, p, collect) })
	}
}

// delete decides by a policy, says what that means, and deletes when confirmed.
func (f *deleteFlags) delete(ctx context.Context, s *session, p gc.Policy, collect gc.Config) error {
	b, err := s.openBucket(use{requests: deleteRequests, reads: true})
	if err != nil {
		return err
	}
	contents, err := compat.Detect(ctx, b)
	if err != nil {
		return layoutUnknown(err)
	}
	s.prepareCollection(ctx, b, &collect)
	now, err := s.probeForDelete(ctx, &collect)
	if err != nil {
		return err
	}
	var classic *classicLayout
	if contents.Classic {
		if classic, err = s.readClassic(ctx, b, now, stalledAfter(collect.FenceAfter), p.Everything); err != nil {
			return err
		}
	}
	if collect.Catalog, err = gc.ReadCatalog(ctx, b, deleteRequests, classic.catalog()); err != nil {
		return err
	}
	classic.add(collect.Catalog)
	plan, err := gc.Decide(p, collect.Catalog, now)
	if err != nil {
		return err
	}
	writeRecord(ctx, s.log, gc.StartRecord(collect.DryRun))
	for _, r := range plan.Records(b.URL(), collect.DryRun) {
		writeRecord(ctx, collect.Log, r)
	}
	collect.Ranges, collect.Ended, collect.Floors = plan.Ranges(), plan.Ended(), classic.floors(collect.Catalog, plan)
	meter, stop := s.meter(ctx)
	defer stop()
	collect.Progress = meter
	result := deleteResult{Plan: plan}
	if classic != nil {
		result.Classic, err = classic.delete(ctx, s, plan, &collect, now)
	}
	if err == nil && (contents.Dedup || !contents.Classic) {
		result.Report, err = gc.Delete(ctx, collect, plan.Victims())
	}
	if err == nil && p.Everything {
		err = deleteRecords(ctx, collect.Log, b, collect.DryRun)
	}
	stop()
	return errors.Join(err, result.tell(ctx, s, &collect, f.json))
}

// deleteRecords deletes what was written down of verifications, drills and copies
// of backups that are gone.
func deleteRecords(ctx context.Context, log *slog.Logger, b storage.Bucket, dryRun bool) error {
	for _, folder := range []string{backup.LedgerDir, drillDir, copyNotes} {
		if err := deleteFolder(ctx, log, b, folder, dryRun); err != nil {
			return err
		}
	}
	return nil
}

// A deleteResult is what delete --json prints.
type deleteResult struct {
	Plan    *gc.Plan        `json:"plan"`
	Report  *gc.Report      `json:"report"`            // null in an archive that is classic only
	Classic *compat.Deleted `json:"classic,omitempty"` // of the classic layout
}

func (r deleteResult) tell(ctx context.Context, s *session, c *gc.Config, asJSON bool) error {
	if r.Report == nil && r.Classic == nil {
		return nil
	}
	if asJSON {
		return json.NewEncoder(s.stdout).Encode(r)
	}
	if r.Classic != nil {
		logClassicDeleted(ctx, c.Log, r.Classic, c.DryRun)
	}
	if r.Report != nil {
		logCollected(ctx, c.Log, r.Report)
	}
	return nil
}

// clockTolerance is how far the clocks of host and store may be apart without a
// word.
const clockTolerance = 5 * time.Minute

// probeForDelete asks the store for its promises and its clock before anything
// is decided, and returns the time by which backups are old: a host whose clock
// is ahead would take young backups for old. A dry run writes nothing, not even
// a probe, and goes by the host's clock.
func (s *session) probeForDelete(ctx context.Context, collect *gc.Config) (time.Time, error) {
	now := time.Now()
	if collect.DryRun {
		return now, nil
	}
	var err error
	if collect.Clock, err = gc.Probe(ctx, *collect); err != nil {
		return now, err
	}
	if ahead := now.Sub(collect.Clock); ahead > clockTolerance {
		collect.Log.WarnContext(ctx, "the clock of this host is ahead of the store's",
			"detail", fmt.Sprintf("By %s. What is old is decided by the store's.", ahead.Round(time.Second)),
			"hint", "A dry run goes by this host's clock, and may show more than is deleted.")
	}
	if collect.Clock.Before(now) {
		now = collect.Clock
	}
	return now, nil
}

// deleteRequests is how many requests a delete has under way at once.
const deleteRequests = 16

// openForDelete opens the archive for what there is in our layout only.
func (s *session) openForDelete(ctx context.Context) (storage.Bucket, error) {
	b, err := s.openBucket(use{requests: deleteRequests, reads: true})
	if err != nil {
		return nil, err
	}
	return b, s.requireDedup(ctx, b)
}

// prepareCollection fills in what a collection has from the session. It writes
// the record that classic WAL-E has for each object that it deletes.
func (s *session) prepareCollection(ctx context.Context, b storage.Bucket, c *gc.Config) {
	c.Bucket, c.Host, c.Log = b, hostname(), s.workerLog()
	if c.Log.Enabled(ctx, slog.LevelInfo) {
		log, url, everything, dryRun := c.Log, b.URL(), c.Everything, c.DryRun
		c.Deleting = func(key string) { writeRecord(ctx, log, gc.KeyRecord(url, key, everything, dryRun)) }
	}
}

// workerLog is where classic WAL-E says what it deletes.
func (s *session) workerLog() *slog.Logger { return s.log.With("logger", "wal_e.worker.base") }

func writeRecord(ctx context.Context, log *slog.Logger, r gc.Record) {
	log.InfoContext(ctx, r.Msg, (&message{detail: r.Detail, hint: r.Hint}).attrs()...)
}

// logCollected says what a collection did and whom it waits for.
func logCollected(ctx context.Context, log *slog.Logger, r *gc.Report) {
	text := "collected what no backup needs"
	verb := "Freed"
	if r.DryRun {
		text, verb = "what a collection would free", "Would free"
	}
	detail := fmt.Sprintf("%s %s: %s and %s. %s; of what deleted backups stored, others share %s.",
		verb, bytesText(r.Freed.Bytes()), counted(r.Freed.Packs, "pack"), counted(r.Freed.WAL, "WAL file"), staying(r.Kept), bytesText(r.Shared.Bytes()))
	log.InfoContext(ctx, text, "detail", detail)
	if len(r.Waiting) == 0 {
		return
	}
	var who strings.Builder
	for _, w := range r.Waiting {
		fmt.Fprintf(&who, "\n%s on %s (pid %d) since %s", w.Ref.Name, w.Host, w.PID, w.Since.UTC().Format(time.RFC3339))
	}
	log.WarnContext(ctx, "pending: pushes under way may still need some of it",
		"detail", fmt.Sprintf("%s are freed once these have ended:%s", bytesText(r.Pending.Bytes()), who.String()),
		"hint", "The next delete or gc goes on. --wait waits for them, --abort-running ends them.")
}

// staying says how many backups stay.
func staying(n int) string {
	if n == 1 {
		return "1 backup stays"
	}
	return counted(n, "backup") + " stay"
}

func deleteOldVersions(ctx context.Context, s *session, dryRun, force bool) error {
	b, err := s.openBucket(use{requests: deleteRequests, reads: true})
	if err != nil {
		return err
	}
	contents, err := compat.Detect(ctx, b)
	if err != nil {
		return layoutUnknown(err)
	}
	classic := contents.Classic && contents.Dedup
	if classic && !force {
		ours, err := backup.List(ctx, b, "")
		if err != nil {
			return err
		}
		if len(ours) == 0 {
			return &message{
				kind: fault.LastResort,
				text: fmt.Sprintf("%s has no base backup in the new layout, so the classic ones are all there are", b.URL()),
				hint: "Take one with `wal-e backup-push`, or import the classic ones. --force deletes them nevertheless.",
			}
		}
		if err := s.checkClassicWAL(ctx, b); err != nil {
			return err
		}
	}
	writeRecord(ctx, s.log, gc.StartRecord(dryRun))
	log := s.workerLog()
	for _, folder := range gc.OldVersions() {
		if err := deleteFolder(ctx, log, b, folder, dryRun); err != nil {
			return err
		}
	}
	if !classic {
		return nil
	}
	deleted, err := compat.Delete(ctx, compat.DeleteConfig{
		Bucket: b, Everything: true, DryRun: dryRun,
		Deleting: func(key string) { writeRecord(ctx, log, gc.KeyRecord(b.URL(), key, true, dryRun)) },
	})
	if err == nil {
		logClassicDeleted(ctx, log, deleted, dryRun)
	}
	return err
}

// deleteFolder deletes all objects below a folder, a batch at a time.
func deleteFolder(ctx context.Context, log *slog.Logger, b storage.Bucket, folder string, dryRun bool) error {
	const batch = 1000
	var keys []string
	flush := func() error {
		if len(keys) == 0 || dryRun {
			return nil
		}
		err := b.Delete(ctx, keys...)
		keys = keys[:0]
		return err
	}
	for o, err := range b.List(ctx, folder, "") {
		if err != nil {
			return err
		}
		writeRecord(ctx, log, gc.KeyRecord(b.URL(), o.Key, true, dryRun))
		if keys = append(keys, o.Key); len(keys) >= batch {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

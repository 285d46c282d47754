package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"wal-e/backup"
	"wal-e/compat"
	"wal-e/internal/fault"
	"wal-e/internal/postgres"
	"wal-e/internal/storage"
	"wal-e/wal"
)

// verifyFlags are the options of verify.
type verifyFlags struct {
	all, readData, wal, json, repair bool
	from                             string

	share backup.Share // that readData reads; zero means all
}

const verifyLong = `Prove that backups can be restored: that every pack they need is stored, that
every list of chunks reads back, and that every chunk is where it should be.
--read-data also reads every pack and checks every chunk in it; --wal looks for
the WAL from the start of each backup to its end, and reads that too with
--read-data. Problems are printed, each with its object, the backups and the
first of the files that it costs; the exit status is then 1, and also when there is
no backup at all, for nothing is proven then.

--read-data=5% or --read-data=10GB reads that share of the packs, those first
that were read longest ago: run each night, it reads everything in its turn. WAL
and classic backups are then looked for and not read. What was read is written down
in the archive, so any host goes on, and what --all came to, for status. Without
--repair nothing else changes.

--repair makes damaged or missing index objects anew from the packs, and keeps new
backups from referring to damaged packs, so that the next backup-push stores anew
what the cluster still has. With --from PREFIX, where a copy of the archive is, lost
and damaged packs come back, each proven before. Each object is named with what was
done. When all is mended the backups are verified again, and the exit status is 0 if
nothing is found then. What is only kept from new backups isn't mended.

Where WALE_ENCRYPTION says required, a backup in the clear is a problem, and with
--read-data a WAL file.

Without a private key of an encrypted archive --read-data opens lists and tables
and compares the checksums of the data, which it can't open.`

func newVerifyCommand(a *app) *cobra.Command {
	var f verifyFlags
	cmd := &cobra.Command{
		Use:     "verify NAME|--all",
		Short:   "prove that backups can be restored",
		Long:    verifyLong,
		Example: "  wal-e verify --all --read-data --wal\n  wal-e verify --all --read-data=5%\n  wal-e verify --all --read-data --repair --from s3://other-bucket/copy\n  wal-e verify LATEST",
		Args:    arguments("[NAME]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.all == (len(args) == 1) {
				return &usageError{cmd, "want either the name of a backup, LATEST, or --all"}
			}
			if f.from != "" && !f.repair {
				return &usageError{cmd, "--from is where --repair takes packs from: give both"}
			}
			return a.do(cmd, func(ctx context.Context, s *session) error {
				query := ""
				if len(args) == 1 {
					query = args[0]
				}
				return verify(ctx, s, f, query)
			})
		},
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().BoolVar(&f.all, "all", false, "verify all backups")
	cmd.Flags().Var(readDataOption{&f}, "read-data", "read and check every chunk, or of that `SHARE` of the packs: 5%, 10GB")
	cmd.Flags().Lookup("read-data").NoOptDefVal = "all"
	cmd.Flags().BoolVar(&f.wal, "wal", false, "look for the WAL that the backups need")
	cmd.Flags().BoolVar(&f.repair, "repair", false, "mend what can be: index objects, and packs with --from")
	cmd.Flags().StringVar(&f.from, "from", "", "`PREFIX`, or a local folder, with a copy from which packs come back")
	cmd.Flags().BoolVar(&f.json, "json", false, "print the report as JSON")
	return cmd
}

func verify(ctx context.Context, s *session, f verifyFlags, query string) error {
	b, err := s.openBucket(use{reads: true})
	if err != nil {
		return err
	}
	cfg := backup.VerifyConfig{Bucket: b, Query: query, ReadData: f.readData, Share: f.share, Record: f.all, Sealed: s.encryption.policy == required, Host: hostname(), Repair: f.repair, Keys: s.keyFinder(b), Log: s.log}
	if f.from != "" {
		if cfg.CopyFrom, err = s.openCopy(f.from); err != nil {
			return err
		}
	}
	if f.wal {
		cfg.MissingWAL = missingWAL(b)
		cfg.ReadWAL = func(ctx context.Context, system, name string) (damage, err error) {
			id, err := postgres.ParseSystemID(system)
			if err != nil {
				return nil, err
			}
			_, err = wal.Verify(ctx, s.walReadsMany(b), id, name)
			if damaged := (*wal.DamagedError)(nil); errors.As(err, &damaged) {
				return err, nil
			}
			return nil, err
		}
	}
	meter, stop := s.meter(ctx)
	defer stop()
	cfg.Progress = meter
	report, err := backup.Verify(ctx, cfg)
	stop()
	ours := 0
	if report != nil {
		ours = len(report.Backups) + len(report.Problems)
	}
	var classic []*compat.Verified
	if err == nil || ours > 0 || errors.Is(err, storage.ErrNotExist) || errors.Is(err, backup.ErrBadQuery) {
		var cerr error
		if classic, cerr = verifyClassic(ctx, s, b, f.withoutShare(), query, ours); cerr != nil {
			return errors.Join(err, cerr)
		}
	}
	if len(classic) > 0 && ours == 0 {
		err = nil // the query means a classic one
	}
	if err != nil && ours == 0 {
		return s.explainMissing(ctx, b, query, "verified", err)
	}
	if report == nil {
		report = &backup.VerifyReport{}
	}
	if ours == 0 && len(classic) == 0 {
		// It must not look like proof to whoever reads the exit status only.
		err = errors.Join(err, &message{
			kind: fault.NoBackup, text: fmt.Sprintf("there is nothing to verify: no backup in %s", s.prefix),
			hint: "See that the prefix is the right one; `wal-e backup-push` takes a first backup.",
		})
	}
	if f.json {
		return errors.Join(err, classicDamage(classic), json.NewEncoder(s.stdout).Encode(verifyReport{report, classic}))
	}
	if ours > 0 {
		err = errors.Join(err, printVerified(s.stdout, report, f))
	}
	return errors.Join(err, printClassicVerified(s.stdout, classic, f.withoutShare()), classicDamage(classic))
}

// withoutShare is what the options say of what isn't read by shares.
func (f verifyFlags) withoutShare() verifyFlags {
	f.readData = f.readData && f.share == backup.Share{}
	return f
}

// openCopy opens the copy of an archive to read from it.
func (s *session) openCopy(from string) (storage.Bucket, error) {
	if !strings.Contains(from, "://") {
		dir, err := filepath.Abs(from)
		if err != nil {
			return nil, err
		}
		from = "file://localhost" + dir
	}
	p, err := parsePrefix("--from", from)
	if err != nil {
		return nil, err
	}
	if p == s.prefix {
		return nil, &message{
			kind: fault.Usage, text: fmt.Sprintf("--from %s is the archive itself", p),
			hint: "Name the prefix to which `wal-e copy` copies it.",
		}
	}
	there := &session{config: s.config, log: s.log, shown: s.shown, stdin: s.stdin, stdout: s.stdout, stderr: s.stderr}
	there.prefix = p
	return there.openBucket(use{reads: true})
}

// A verifyReport is what --json prints.
type verifyReport struct {
	*backup.VerifyReport
	Classic []*compat.Verified `json:"classic,omitempty"` // classic backups
}

func printVerified(w io.Writer, r *backup.VerifyReport, f verifyFlags) error {
	var b strings.Builder
	for _, v := range r.Backups {
		state := "ok"
		if !v.OK {
			state = "DAMAGED"
		}
		fmt.Fprintf(&b, "%s@%s: %s, %s, %s in %s\n", v.Name, v.Run, state, counted(v.Files, "file"), bytesText(v.Bytes), counted(v.Packs, "pack"))
	}
	for _, p := range r.Problems {
		fmt.Fprintf(&b, "PROBLEM %s\n", problemText(p))
	}
	for _, p := range r.Warnings {
		fmt.Fprintf(&b, "warning %s\n", problemText(p))
	}
	for _, p := range r.Repairs {
		fmt.Fprintf(&b, "repair %s: %s: %s\n", p.Object, p.Result, p.Text)
	}
	fmt.Fprintf(&b, "%s, %s, %s", counted(len(r.Backups), "backup"), counted(r.Packs, "pack"), bytesText(r.PackBytes))
	if f.readData {
		fmt.Fprintf(&b, "; %s read", counted(r.ReadPacks, "pack"))
		if r.PackBytes > 0 {
			fmt.Fprintf(&b, " (%s, %.1f%%)", bytesText(r.ReadBytes), 100*float64(r.ReadBytes)/float64(r.PackBytes))
		}
	}
	if f.wal {
		fmt.Fprintf(&b, "; %s found", counted(r.WAL, "WAL segment"))
		if f.withoutShare().readData {
			fmt.Fprintf(&b, ", %d read", r.ReadWAL)
		}
	}
	fmt.Fprintf(&b, "; %s\n", counted(len(r.Problems), "problem"))
	if r.Mended {
		b.WriteString("all of it is mended: verified again, without a problem\n")
	}
	if r.Share != nil {
		fmt.Fprintf(&b, "not read whole yet: %s (%s)", counted(r.Share.NeverRead, "pack"), bytesText(r.Share.NeverReadBytes))
		if r.Share.Oldest != nil {
			fmt.Fprintf(&b, "; the oldest of the others was read %s", r.Share.Oldest.Format(time.RFC3339))
		}
		b.WriteString("\n")
	}
	if r.Sealed > 0 {
		fmt.Fprintf(&b, "%s of encrypted data: checksums compared, data not opened, for this host has no private key\n", counted(r.Sealed, "pack"))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// problemText is a problem in a line, with the backups and files concerned.
func problemText(p backup.Problem) string {
	s := p.Object + ": " + p.Text
	if len(p.Backups) > 0 {
		s += "; backups: " + strings.Join(p.Backups, ", ")
	}
	if len(p.Files) > 0 {
		s += "; files: " + strings.Join(p.Files, ", ")
		if more := p.FileCount - int64(len(p.Files)); more > 0 {
			s += fmt.Sprintf(" and %d more", more)
		}
	}
	return s
}

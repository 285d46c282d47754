package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"wal-e/backup"
	"wal-e/internal/checkup"
	"wal-e/internal/postgres"
)

const checkLong = `Find out whether backups can be taken here and would be safe: try out the
storage, look at the keys of an encrypted archive, and at the server when its
data directory is named. Probes go to
the folder probe_006 of the prefix and are removed again. The exit status is 1
when something fails; warnings don't count.

--policy prints the least that a role needs at this prefix, ready to be used:
database-host, which can create and read but remove nothing; collector, for
delete and gc; restorer, which only reads.`

func newCheckCommand(a *app) *cobra.Command {
	var asJSON bool
	var role string
	cmd := &cobra.Command{
		Use:     "check [PG_CLUSTER_DIRECTORY]",
		Short:   "find out whether storage and server are fit for an archive",
		Long:    checkLong,
		Example: "  wal-e check /var/lib/postgresql/17/main\n  wal-e check --policy database-host >policy.json",
		Args:    arguments("[PG_CLUSTER_DIRECTORY]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("policy") {
				return a.check(cmd.Context(), func(_ context.Context, s *session) error {
					text, err := checkup.Policy(checkup.Role(role), s.place())
					if err != nil {
						return &usageError{cmd, "--policy: " + err.Error()}
					}
					_, err = io.WriteString(s.stdout, text)
					return err
				})
			}
			return a.do(cmd, func(ctx context.Context, s *session) error { return checkArchive(ctx, s, args, asJSON) })
		},
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.BoolVar(&asJSON, "json", false, "print the findings as JSON")
	flags.StringVar(&role, "policy", "", "print what `ROLE` needs: database-host, collector or restorer")
	return cmd
}

func (s *session) place() checkup.Place {
	return checkup.Place{Scheme: s.prefix.scheme, Store: s.prefix.store, Path: s.prefix.path}
}

// errCheckFailed makes the exit status; what failed was printed.
var errCheckFailed = errors.New("the check found what will not work")

func checkArchive(ctx context.Context, s *session, dirs []string, asJSON bool) error {
	b, err := s.openStore(use{})
	if err != nil {
		return err
	}
	findings := checkup.Storage(ctx, b, time.Now)
	findings = append(findings, checkup.Encryption(s.encryptionFacts(ctx, b, time.Now()))...)
	for _, dir := range dirs {
		findings = append(findings, checkup.Server(ctx, checkup.ServerConfig{
			Dir: dir,
			Readable: func(ctx context.Context, dir string, control *postgres.ControlFile) error {
				v, err := postgres.ReadVersion(dir)
				if err != nil {
					return err
				}
				return backup.CheckReadable(ctx, backup.SelectConfig{Dir: dir, Version: v, CatalogVersion: control.CatalogVersion})
			},
		})...)
	}
	if err := ctx.Err(); err != nil {
		return err // what was found last is that we were stopped
	}
	if err := printFindings(s.stdout, findings, asJSON); err != nil {
		return err
	}
	if findings.Worst() == checkup.Failure {
		return errCheckFailed
	}
	return nil
}

func printFindings(w io.Writer, findings checkup.Findings, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(struct {
			Status   checkup.Status   `json:"status"`
			Findings checkup.Findings `json:"findings"`
		}{findings.Worst(), findings})
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range findings {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", f.Status, f.Area, f.Check, f.Found)
		if f.Fix != "" {
			fmt.Fprintf(t, "\t\t\tto do: %s\n", f.Fix)
		}
	}
	return t.Flush()
}

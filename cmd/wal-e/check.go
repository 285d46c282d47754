package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

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
	if findings.Reached() {
		findings = append(findings, checkup.Archive(s.archiveFacts(ctx, b), time.Now())...)
		findings = append(findings, checkup.Encryption(s.encryptionFacts(ctx, b, time.Now()))...)
	}
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
	status, area, check := 0, 0, 0
	for _, f := range findings {
		status, area, check = max(status, len(f.Status)), max(area, len(f.Area)), max(check, len(f.Check))
	}
	indent := strings.Repeat(" ", status+area+check+6)
	width := terminalWidth(w)
	for _, f := range findings {
		text := wrap(f.Found, width-len(indent), indent)
		if f.Fix != "" {
			text += "\n" + indent + wrap("to do: "+f.Fix, width-len(indent), indent)
		}
		if _, err := fmt.Fprintf(w, "%-*s  %-*s  %-*s  %s\n", status, f.Status, area, f.Area, check, f.Check, text); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "\n%s\n", summary(findings))
	return err
}

// terminalWidth is how many columns a terminal has. What is no terminal has no end:
// who reads it there looks for lines.
func terminalWidth(w io.Writer) int {
	if f, ok := w.(*os.File); ok {
		if size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil && size.Col > 0 {
			return int(size.Col)
		}
	}
	return math.MaxInt
}

// wrap breaks a text between words into lines of a width, but no narrower ones than
// can be read, of which all but the first are indented.
func wrap(text string, width int, indent string) string {
	width = max(width, 40)
	var b strings.Builder
	at := 0
	for i, word := range strings.Fields(text) {
		n := utf8.RuneCountInString(word)
		switch {
		case i == 0:
		case at+1+n > width:
			b.WriteString("\n" + indent)
			at = 0
		default:
			b.WriteByte(' ')
			at++
		}
		b.WriteString(word)
		at += n
	}
	return b.String()
}

// summary says in a line what the findings come to.
func summary(findings checkup.Findings) string {
	n := make(map[checkup.Status]int)
	for _, f := range findings {
		n[f.Status]++
	}
	if n[checkup.OK] == len(findings) {
		return fmt.Sprintf("%d checks, and all is well.", len(findings))
	}
	what := ""
	switch findings.Worst() {
	case checkup.Failure:
		what = "what failed will not work, or lose backups"
	default:
		what = "it works today"
	}
	text := fmt.Sprintf("%d checks: %s.", len(findings), what)
	for _, s := range []struct {
		status    checkup.Status
		one, more string
	}{
		{checkup.Failure, "failure", "failures"}, {checkup.Warning, "warning", "warnings"}, {checkup.Unknown, "couldn't be found out", "couldn't be found out"},
	} {
		switch n[s.status] {
		case 0:
		case 1:
			text += " 1 " + s.one + "."
		default:
			text += fmt.Sprintf(" %d %s.", n[s.status], s.more)
		}
	}
	return text
}

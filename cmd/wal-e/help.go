package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

func newHelpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:     "help [SUBCOMMAND]",
		Short:   "help about a subcommand or a topic",
		Example: "  wal-e help wal-fetch\n  wal-e help exit-status",
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			target, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return &usageError{cmd, "no help about " + strings.Join(args, " ")}
			}
			target.InitDefaultHelpFlag()
			return target.Help()
		},
	}
}

// Topics are commands that can't be run, only read.

func newEnvironmentTopic() *cobra.Command {
	return &cobra.Command{
		Use:   "environment",
		Short: "the variables that wal-e reads",
		Long: "An option beats its variable. Durations are in Go's form (90s, 1h30m) or a number\n" +
			"of seconds. The PG* variables say how to reach PostgreSQL, as for psql.\n\n" + variablesText(),
	}
}

func newExitStatusTopic() *cobra.Command {
	return &cobra.Command{
		Use:   "exit-status",
		Short: "what each exit status means",
		Long:  exitStatusText,
	}
}

// printUsage writes what --help shows below the description.
func printUsage(cmd *cobra.Command) error {
	w := cmd.OutOrStderr()
	if cmd.Runnable() {
		fmt.Fprintf(w, "Usage:\n  %s\n", useLine(cmd))
	}
	if cmd.HasExample() {
		fmt.Fprintf(w, "\nExample:\n%s\n", cmd.Example)
	}
	for _, part := range []struct {
		title string
		has   func(*cobra.Command) bool
	}{
		{"Subcommands", (*cobra.Command).IsAvailableCommand},
		{"Topics of wal-e help", (*cobra.Command).IsAdditionalHelpTopicCommand},
	} {
		title := "\n" + part.title + ":\n"
		for _, c := range cmd.Commands() {
			if part.has(c) {
				fmt.Fprintf(w, "%s  %-14s %s\n", title, c.Name(), c.Short)
				title = ""
			}
		}
	}
	if cmd.HasAvailableLocalFlags() {
		fmt.Fprintf(w, "\nOptions:\n%s", flagUsages(cmd))
	}
	if p := cmd.Parent(); p != nil && p.HasAvailablePersistentFlags() && p.HasParent() {
		fmt.Fprintf(w, "\nOptions of all its subcommands: see %s --help.\n", p.CommandPath())
	}
	if cmd.HasParent() && cmd.Runnable() {
		fmt.Fprintf(w, "\nGlobal options, such as --terse: see %s --help.\n", cmd.Root().Name())
	}
	return nil
}

// flagUsages lists the options of cmd. Those that are on or off take no value.
func flagUsages(cmd *cobra.Command) string {
	const value = "[=true|false]"
	return strings.ReplaceAll(cmd.LocalFlags().FlagUsages(), value, strings.Repeat(" ", len(value)))
}

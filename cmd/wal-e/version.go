package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

// version is of this program. Classic WAL-E ended with 1.1.1.
const version = "2.0.0-dev"

func newVersionCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "print the version",
		Long:    "version prints the version and a newline. It needs no configuration.",
		Example: "  wal-e version",
		Args:    arguments(),
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(a.stdout, version)
			return err
		},
	}
}

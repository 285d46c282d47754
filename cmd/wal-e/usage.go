package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"wal-e/internal/fault"
)

// A usageError says that the command line is wrong.
type usageError struct {
	cmd  *cobra.Command // that was reached; may be nil
	text string
}

func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) error {
	return &usageError{text: fmt.Sprintf(format, args...)}
}

// print writes the usage and what is wrong, without the log: the command line
// says how to log, too.
func (e *usageError) print(w io.Writer) {
	path := "wal-e"
	if e.cmd != nil {
		path = e.cmd.CommandPath()
		fmt.Fprintf(w, "usage: %s\n", useLine(e.cmd))
	}
	fmt.Fprintf(w, "%s: error: %s\nrun %s --help for more (%s)\n", path, e.text, path, fault.Usage)
}

// useLine is how to call cmd.
func useLine(cmd *cobra.Command) string {
	_, positionals, _ := strings.Cut(cmd.Use, " ")
	return strings.TrimSpace(cmd.CommandPath() + " [options] " + positionals)
}

// arguments checks that all that are named are given, and no more. Names in
// brackets may be left out.
func arguments(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > len(names) {
			return &usageError{cmd, fmt.Sprintf("unexpected argument %q", args[len(names)])}
		}
		var missing []string
		for _, name := range names[len(args):] {
			if !strings.HasPrefix(name, "[") {
				missing = append(missing, name)
			}
		}
		if len(missing) > 0 {
			return &usageError{cmd, "missing argument: " + strings.Join(missing, ", ")}
		}
		return nil
	}
}

// A number is the value of an option that takes a whole number, in decimal.
type number struct{ n *int }

// numberOption returns the value for an option that sets *n.
func numberOption(n *int, unset int) number {
	*n = unset
	return number{n}
}

func (v number) Set(s string) error {
	n, err := strconv.Atoi(strings.TrimSpace(s))
	if err != nil {
		return fmt.Errorf("want a whole number")
	}
	*v.n = n
	return nil
}

func (v number) String() string {
	if v.n == nil {
		return ""
	}
	return strconv.Itoa(*v.n)
}

func (v number) Type() string { return "N" }

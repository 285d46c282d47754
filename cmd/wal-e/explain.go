package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"wal-e/docs"
)

const explainLong = `Print what a number in an error message means and what to do, WALE-1102 or
1102. Without a number it lists them all. It needs no archive.`

func newExplainCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "explain [CODE]",
		Short:   "say what a number in an error message means",
		Long:    explainLong,
		Example: "  wal-e explain WALE-1102",
		Args:    arguments("[CODE]"),
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return listSituations(a.stdout)
			}
			return explain(a.stdout, args[0])
		},
	}
}

const codePrefix = "WALE-"

// explain prints the section about a code.
func explain(w io.Writer, code string) error {
	wanted := codePrefix + strings.TrimPrefix(strings.ToUpper(code), codePrefix)
	for _, s := range explanations() {
		if s.code == wanted {
			_, err := fmt.Fprintf(w, "%s: %s\n\n%s\n", s.code, s.title, s.text)
			return err
		}
	}
	return usagef("explain: %q is no number of an error: want a form like WALE-1102; wal-e explain lists them", code)
}

func listSituations(w io.Writer) error {
	var b strings.Builder
	for _, s := range explanations() {
		fmt.Fprintf(&b, "%s  %s\n", s.code, s.title)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// An explanation is a section of docs/troubleshooting.md.
type explanation struct{ code, title, text string }

func explanations() []explanation {
	var all []explanation
	for section := range strings.SplitSeq(docs.Troubleshooting, "\n#") {
		heading, text, _ := strings.Cut(section, "\n")
		code, title, ok := strings.Cut(strings.TrimPrefix(heading, "# "), ": ")
		if ok && strings.HasPrefix(code, codePrefix) {
			all = append(all, explanation{code, title, wrap(text, 78, "")})
		}
	}
	return all
}

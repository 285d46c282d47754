package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

var update = flag.Bool("update", false, "write docs/reference.md anew")

// docs/reference.md says what the program says of itself.
func TestReference(t *testing.T) {
	t.Parallel()
	want := reference()
	if *update {
		if err := os.WriteFile(filepath.FromSlash("../../docs/reference.md"), []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if readDoc(t, "docs/reference.md") != want {
		t.Error("docs/reference.md is not what the commands say: run make docs")
	}
}

const referenceIntro = `# Reference

Every command, option and variable, made from the program by ` + "`make docs`" + `. ` + "`wal-e help COMMAND`" + ` prints the same. An option beats the variable that it names.

`

func reference() string {
	root := newRootCommand(&app{})
	var b strings.Builder
	b.WriteString(referenceIntro)
	for _, c := range root.Commands() {
		if c.IsAvailableCommand() {
			fmt.Fprintf(&b, "* [`%s`](#%s): %s\n", c.Name(), anchor(c), c.Short)
		}
	}
	b.WriteString("* [Global options](#global-options), [environment variables](#environment-variables), [exit statuses](#exit-statuses)\n")
	for _, c := range root.Commands() {
		if c.IsAvailableCommand() {
			referenceOf(&b, c, "##")
		}
	}
	b.WriteString("\n## Global options\n\nThey stand before or behind the command.\n\n")
	optionTable(&b, root.PersistentFlags())
	b.WriteString("\n## Environment variables\n\n| variable | default or form | meaning |\n|---|---|---|\n")
	for _, v := range variables() {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", v.name, quoted(v.value), cell(v.about))
	}
	b.WriteString("\nDurations are in Go's form (`90s`, `1h30m`) or a number of seconds. The `PG*` variables say how to reach PostgreSQL, as for `psql`.\n")
	fmt.Fprintf(&b, "\n## Exit statuses\n\n```\n%s```\n", exitStatusText)
	return b.String()
}

func anchor(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

// referenceOf writes the sections of a command and of those below it.
func referenceOf(b *strings.Builder, c *cobra.Command, level string) {
	fmt.Fprintf(b, "\n%s %s\n\n", level, c.CommandPath())
	if c.Runnable() {
		fmt.Fprintf(b, "```\n%s\n```\n\n", useLine(c))
	}
	long := c.Long
	if long == "" {
		long = strings.ToUpper(c.Short[:1]) + c.Short[1:] + "."
	}
	prose(b, long)
	if c.LocalNonPersistentFlags().HasAvailableFlags() {
		b.WriteString("\n")
		optionTable(b, c.LocalNonPersistentFlags())
	}
	if flags := c.PersistentFlags(); flags.HasAvailableFlags() {
		b.WriteString("\nOptions of all its subcommands:\n\n")
		optionTable(b, flags)
	}
	if c.HasExample() {
		fmt.Fprintf(b, "\n```\n%s\n```\n", c.Example)
	}
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() && sub.Name() != "help" {
			referenceOf(b, sub, level+"#")
		}
	}
}

// prose writes paragraphs, with those that are tables as they are.
func prose(b *strings.Builder, text string) {
	for i, paragraph := range strings.Split(strings.Trim(text, "\n"), "\n\n") {
		if i > 0 {
			b.WriteString("\n")
		}
		if slices.ContainsFunc(strings.Split(paragraph, "\n"), func(line string) bool { return strings.HasPrefix(line, "  ") }) {
			fmt.Fprintf(b, "```\n%s\n```\n", paragraph)
			continue
		}
		fmt.Fprintln(b, escapeProse(strings.ReplaceAll(paragraph, "\n", " ")))
	}
}

func escapeProse(s string) string {
	return strings.NewReplacer("<", "&lt;", "*", `\*`, "_", `\_`).Replace(s)
}

func optionTable(b *strings.Builder, flags *pflag.FlagSet) {
	b.WriteString("| option | default | meaning |\n|---|---|---|\n")
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		if value != "" && f.Value.Type() != "bool" && f.NoOptDefVal != "true" {
			name += " " + value
		}
		unset := f.DefValue
		if slices.Contains([]string{"0", "0s", "[]", "false"}, unset) {
			unset = ""
		}
		fmt.Fprintf(b, "| %s | %s | %s |\n", quoted(name), quoted(unset), cell(usage))
	})
}

func quoted(s string) string {
	if s == "" {
		return ""
	}
	return "`" + strings.ReplaceAll(s, "|", `\|`) + "`"
}

func cell(s string) string {
	return strings.ReplaceAll(escapeProse(strings.ReplaceAll(s, "\n", " ")), "|", `\|`)
}

package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// An invocation is what a command line asks for, in a form without the
// liberties that classic WAL-E's parser takes: path of the subcommand, options
// in full, "--", positionals.
type invocation struct {
	root     *cobra.Command
	cmd      *cobra.Command // the subcommand, or the root
	guess    string         // subcommand that a wrong command line was probably to reach
	args     []string
	warnings []string
}

// name returns the subcommand without the program, "" for none.
func (in *invocation) name() string {
	if in.guess != "" {
		return in.guess
	}
	return strings.TrimPrefix(strings.TrimPrefix(in.cmd.CommandPath(), in.root.Name()), " ")
}

// parseArgs reads a command line by the rules of classic WAL-E: options and
// positionals in any order, long options abbreviated to a unique prefix, values
// attached to short options. Global options also stand behind the subcommand.
// With an error, the invocation still tells the subcommand.
func parseArgs(root *cobra.Command, args []string) (*invocation, error) {
	p := &argParser{in: &invocation{root: root, cmd: root}, rest: args}
	root.InitDefaultHelpFlag()
	for len(p.rest) > 0 && !p.help {
		arg := p.rest[0]
		p.rest = p.rest[1:]
		if err := p.take(arg); err != nil {
			if p.in.cmd == root && slices.Contains(args, walFetchName) {
				p.in.guess = walFetchName // its status matters most
			}
			return p.in, err
		}
	}
	in := p.in
	in.args = append(strings.Fields(in.name()), p.options...)
	if !p.help {
		in.args = append(append(in.args, "--"), p.positionals...)
	}
	return in, nil
}

type argParser struct {
	in          *invocation
	rest        []string
	options     []string
	positionals []string
	plain       bool // behind "--"
	help        bool // asked for: the rest doesn't matter
}

// isNegativeNumber tells what looks like an option and is none, as in `retain -1`.
func isNegativeNumber(arg string) bool {
	digits, ok := strings.CutPrefix(arg, "-")
	return ok && digits != "" && strings.Trim(digits, "0123456789") == ""
}

func (p *argParser) take(arg string) error {
	switch {
	case p.plain, arg == "-", isNegativeNumber(arg), !strings.HasPrefix(arg, "-"):
		return p.positional(arg)
	case arg == "--":
		p.plain = true
		return nil
	case strings.HasPrefix(arg, "--"):
		return p.long(arg)
	}
	return p.short(arg)
}

// positional takes the name of a subcommand while there can be one.
func (p *argParser) positional(arg string) error {
	if !p.in.cmd.HasSubCommands() {
		p.positionals = append(p.positionals, arg)
		return nil
	}
	var names []string
	for _, c := range p.in.cmd.Commands() {
		if c.Name() == arg || c.HasAlias(arg) {
			p.in.cmd = c
			c.InitDefaultHelpFlag()
			return nil
		}
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	if near := nearest(arg, names); near != "" {
		if near == walFetchName {
			p.in.guess = near
		}
		return p.fail("%q is no subcommand: did you mean %s?", arg, near)
	}
	return p.fail("%q is no subcommand: want one of %s", arg, strings.Join(names, ", "))
}

func (p *argParser) long(arg string) error {
	given, value, attached := strings.Cut(arg, "=")
	f, err := p.lookup(strings.TrimPrefix(given, "--"))
	if err != nil {
		return err
	}
	if given != "--"+f.Name {
		p.in.warnings = append(p.in.warnings,
			fmt.Sprintf("%s is taken for --%s: write it in full, since it may become ambiguous", given, f.Name))
	}
	return p.option(f, "--"+f.Name, value, attached)
}

// lookup finds the option that name is or abbreviates. Those of the subcommand
// go before the global ones.
func (p *argParser) lookup(name string) (*pflag.Flag, error) {
	var names []string
	for _, set := range []*pflag.FlagSet{p.in.cmd.LocalFlags(), p.in.cmd.InheritedFlags()} {
		var found []*pflag.Flag
		set.VisitAll(func(f *pflag.Flag) {
			names = append(names, "--"+f.Name)
			if strings.HasPrefix(f.Name, name) {
				found = append(found, f)
			}
		})
		if f := set.Lookup(name); f != nil {
			return f, nil
		}
		if f := p.in.cmd.InheritedFlags().Lookup(name); f != nil {
			return f, nil
		}
		if len(found) == 1 {
			return found[0], nil
		}
		if len(found) > 1 {
			var candidates []string
			for _, f := range found {
				candidates = append(candidates, "--"+f.Name)
			}
			return nil, p.fail("--%s is ambiguous: it could be %s", name, strings.Join(candidates, ", "))
		}
	}
	if near := nearest("--"+name, names); near != "" {
		return nil, p.fail("unknown option --%s: did you mean %s?", name, near)
	}
	return nil, p.fail("unknown option --%s", name)
}

// short takes one or more short options; what follows one that wants a value is
// its value.
func (p *argParser) short(arg string) error {
	for letters := arg[1:]; letters != ""; {
		letter := letters[:1]
		letters = letters[1:]
		f := p.in.cmd.LocalFlags().ShorthandLookup(letter)
		if f == nil {
			f = p.in.cmd.InheritedFlags().ShorthandLookup(letter)
		}
		if f == nil {
			return p.fail("unknown option -%s in %s", letter, arg)
		}
		if f.NoOptDefVal == "" {
			return p.option(f, "-"+letter, strings.TrimPrefix(letters, "="), letters != "")
		}
		if err := p.option(f, "-"+letter, "", false); err != nil {
			return err
		}
	}
	return nil
}

// option adds one whose value is attached, or the next argument.
func (p *argParser) option(f *pflag.Flag, given, value string, attached bool) error {
	if f.NoOptDefVal != "" && (!attached || f.Value.Type() == "bool") { // it needs none
		if attached {
			return p.fail("option %s takes no value", given)
		}
		p.help = p.help || f.Name == "help"
		p.options = append(p.options, "--"+f.Name)
		return nil
	}
	if !attached {
		if len(p.rest) == 0 || isOption(p.rest[0]) {
			return p.fail("option %s wants a value", given)
		}
		value, p.rest = p.rest[0], p.rest[1:]
	}
	p.options = append(p.options, "--"+f.Name+"="+value)
	return nil
}

func isOption(arg string) bool {
	return strings.HasPrefix(arg, "-") && arg != "-" && !isNegativeNumber(arg)
}

func (p *argParser) fail(format string, args ...any) error {
	return &usageError{p.in.cmd, fmt.Sprintf(format, args...)}
}

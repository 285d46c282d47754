package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
)

// walk calls f for cmd and every subcommand below it.
func walk(cmd *cobra.Command, f func(*cobra.Command)) {
	f(cmd)
	for _, c := range cmd.Commands() {
		walk(c, f)
	}
}

// Every subcommand explains itself, with an example, and every option too.
func TestHelpIsComplete(t *testing.T) {
	t.Parallel()
	walk(newRootCommand(&app{}), func(c *cobra.Command) {
		if c.Short == "" {
			t.Errorf("%s has no short description", c.CommandPath())
		}
		if c.Runnable() && (c.Example == "" || !strings.HasPrefix(c.Example, "  ")) {
			t.Errorf("%s has no indented example", c.CommandPath())
		}
		if c.Runnable() && c.Args == nil {
			t.Errorf("%s doesn't check its arguments", c.CommandPath())
		}
		var stdout bytes.Buffer
		c.SetOut(&stdout)
		if err := c.Help(); err != nil || stdout.Len() == 0 {
			t.Errorf("help of %s: %v", c.CommandPath(), err)
		}
	})
}

// The command runs inside a test, and twice in one process.
func TestRunInProcess(t *testing.T) {
	t.Parallel()
	for range 2 {
		var stdout, stderr bytes.Buffer
		err := run(t.Context(), []string{"version"}, nil, strings.NewReader(""), &stdout, &stderr)
		if err != nil || stdout.String() != version+"\n" || stderr.Len() > 0 {
			t.Errorf("run = %v, stdout %q, stderr %q", err, &stdout, &stderr)
		}
	}
}

func TestParseArgs(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		args, want string // fields; an error is "error: " and its text
	}{
		{"", "--"},
		{"wal-push x", "wal-push -- x"},
		{"--terse wal-push x -p 3", "wal-push --terse --pool-size=3 -- x"},
		{"wal-push -p3 x", "wal-push --pool-size=3 -- x"},
		{"wal-push x -p=3 --terse", "wal-push --pool-size=3 --terse -- x"},
		{"wal-push -- -p 3", "wal-push -- -p 3"},
		{"wal-push -1 -", "wal-push -- -1 -"},
		{"-kKEY -a ACC wal-push x", "wal-push --aws-access-key-id=KEY --wabs-account-name=ACC -- x"},
		{"wal-push --pool-size=--x y", "wal-push --pool-size=--x -- y"},
		{"wal-push x -h --frob", "wal-push --help"},
		{"wal-push -ph", "wal-push --pool-size=h --"},
		{"wal-push -hp", "error: option -p wants a value"},
		{"help wal-push", "help -- wal-push"},
		{"--frob wal-push", "error: unknown option --frob"},
		{"__complete x", `error: "__complete" is no subcommand`},
	} {
		in, err := parseArgs(newRootCommand(&app{}), strings.Fields(tc.args))
		got := strings.Join(in.args, " ")
		if err != nil {
			got = "error: " + err.Error()
		}
		if got != tc.want && !(err != nil && strings.HasPrefix(got, tc.want)) {
			t.Errorf("parseArgs(%s) = %s, want %s", tc.args, got, tc.want)
		}
	}
}

func TestParsePrefix(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{
		"s3://b":                  "s3://b",
		"s3://b/":                 "s3://b",
		"S3://b//p/q//":           "s3://b/p/q",
		"gs://b/p?x#y%20":         "gs://b/p?x#y%20",
		"swift://c/p":             "swift://c/p",
		"wabs://c/p":              "wabs://c/p",
		"file:///a/b":             "file://localhost/a/b",
		"file://localhost/a/b/":   "file://localhost/a/b",
		"file://LOCALHOST//a/../": "file://localhost",
		"file://localhost":        "file://localhost",
	} {
		p, err := parsePrefix("--s3-prefix", value)
		if err != nil || p.String() != want {
			t.Errorf("parsePrefix(%s) = %s, %v, want %s", value, p, err, want)
		}
		again, err := parsePrefix("--s3-prefix", p.String())
		if err != nil || again != p {
			t.Errorf("parsePrefix(%s) = %#v, %v, want %#v", p, again, err, p)
		}
	}
	for _, value := range []string{"", "b", "/b", "b/p:q", "http://b", "s3:b", "s3:///p", "file://h/p", "file:p", "s3://b/p\n", "s3://k:s@b/p"} {
		if p, err := parsePrefix("--s3-prefix", value); err == nil {
			t.Errorf("parsePrefix(%q) = %s, want an error", value, p)
		}
	}
}

// Credentials: the option, then the variable.
func TestCredentials(t *testing.T) {
	t.Parallel()
	load := func(args []string, env environ) (config, error) {
		a := &app{env: env, stderr: io.Discard}
		root := newRootCommand(a)
		if err := root.ParseFlags(args); err != nil {
			t.Fatal(err)
		}
		return a.loadConfig()
	}
	env := environ{"WALE_S3_PREFIX": "s3://b", "AWS_ACCESS_KEY_ID": "v", "AWS_SECRET_ACCESS_KEY": "v", "WABS_ACCOUNT_NAME": "v"}
	for _, tc := range []struct {
		args    []string
		profile string
		want    credentials
		ok      bool
	}{
		{nil, "", credentials{"v", false, "v"}, true},
		{[]string{"-k", "o", "-a", "p"}, "0", credentials{"o", false, "p"}, true},
		{nil, "TRUE", credentials{"v", true, "v"}, true},
		{[]string{"-k", "o"}, "1", credentials{"o", true, "v"}, true},
		{[]string{"--aws-instance-profile"}, "", credentials{"v", true, "v"}, true},
		{[]string{"--aws-instance-profile", "-k", "o"}, "", credentials{}, false},
		{nil, "perhaps", credentials{}, false},
	} {
		env["AWS_INSTANCE_PROFILE"] = tc.profile
		c, err := load(tc.args, env)
		if (err == nil) != tc.ok || c.credentials != tc.want {
			t.Errorf("%v, profile %q: %+v, %v, want %+v", tc.args, tc.profile, c.credentials, err, tc.want)
		}
	}
	// Another store doesn't care.
	if _, err := load(nil, environ{"WALE_FILE_PREFIX": "file:///x", "AWS_INSTANCE_PROFILE": "perhaps"}); err != nil {
		t.Error(err)
	}
}

func TestMisspelled(t *testing.T) {
	t.Parallel()
	e := environ{"WALE_S3_PREFIX": "", "WALES_PREFIX": "", "PATH": "", "WALE_LAYUOT": "", "WALE_SOAK": "", "WALE_TEST_BINARY": "", "WALE_STATE_DIRS": ""}
	want := []string{"WALE_LAYUOT is not read: did you mean WALE_LAYOUT?", "WALE_STATE_DIRS is not read: did you mean WALE_STATE_DIR?"}
	if got := e.misspelled(); !slices.Equal(got, want) {
		t.Errorf("misspelled = %q, want %q", got, want)
	}
	for _, v := range variables() {
		if got := (environ{v.name: ""}).misspelled(); got != nil {
			t.Errorf("%s: %q", v.name, got)
		}
	}
}

// An archive that isn't there proves nothing, but one that is does.
func TestMounted(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "archive")
	m := mounted{Bucket: mem.New(nil), dir: dir}
	check := func(want bool) {
		t.Helper()
		_, gerr := m.Get(t.Context(), "k", 0, -1)
		_, serr := m.Stat(t.Context(), "k")
		for _, err := range []error{gerr, serr} {
			if err == nil || isAbsent(err) != want {
				t.Errorf("absence: %v, want it proven: %t", err, want)
			}
		}
		listed := true
		for range m.List(t.Context(), "", "") {
			listed = false
		}
		if listed != want {
			t.Errorf("empty listing: %t, want %t", listed, want)
		}
	}
	check(false)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	check(true)
}

func isAbsent(err error) bool {
	return strings.Contains(err.Error(), storage.ErrNotExist.Error())
}

// A signal that comes while everything is done already changes nothing.
func TestSignalAfterSuccess(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(signalError{os.Interrupt})
	if err := run(ctx, []string{"version"}, nil, nil, io.Discard, io.Discard); err != nil {
		t.Errorf("run = %v", err)
	}
}

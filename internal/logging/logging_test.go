package logging_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"wal-e/internal/logging"
)

// stamp replaces what differs between runs.
func stamp(s string) string {
	return regexp.MustCompile(`time=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}-00`).ReplaceAllString(s, "time=T")
}

func TestClassic(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		log  func(*slog.Logger)
		want string
	}{
		{"plain", func(l *slog.Logger) { l.Info("starting") },
			"wal_e.main   INFO     MSG: starting\n        STRUCTURED: time=T pid=7\n"},
		{"detail and hint", func(l *slog.Logger) { l.Error("no prefix", "hint", "Set one.", "detail", "There is none.") },
			"wal_e.main   ERROR    MSG: no prefix\n        DETAIL: There is none.\n        HINT: Set one.\n        STRUCTURED: time=T pid=7\n"},
		{"lines", func(l *slog.Logger) { l.Warn("a\nb", "detail", "c\nd") },
			"wal_e.main   WARNING  MSG: a\n        b\n        DETAIL: c\n        d\n        STRUCTURED: time=T pid=7\n"},
		{"sorted", func(l *slog.Logger) { l.Info("m", "state", "begin", "action", "push-wal", "seg", "0A") },
			"wal_e.main   INFO     MSG: m\n        STRUCTURED: time=T pid=7 action=push-wal seg=0A state=begin\n"},
		{"logger", func(l *slog.Logger) { l.With("logger", "wal_e.operator.backup").Info("m") },
			"wal_e.operator.backup INFO     MSG: m\n        STRUCTURED: time=T pid=7\n"},
		{"critical", func(l *slog.Logger) { l.Log(t.Context(), logging.LevelCritical, "m") },
			"wal_e.main   CRITICAL MSG: m\n        STRUCTURED: time=T pid=7\n"},
		{"groups", func(l *slog.Logger) { l.WithGroup("a").Info("m", slog.Group("b", "c", 1), "d", time.Second) },
			"wal_e.main   INFO     MSG: m\n        STRUCTURED: time=T pid=7 a.b.c=1 a.d=1s\n"},
		{"dropped", func(l *slog.Logger) { l.Debug("m") }, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var b bytes.Buffer
			tc.log(logging.New(logging.Config{PID: 7, Stderr: &b}))
			if got := stamp(b.String()); got != tc.want {
				t.Errorf("record:\n%s\nwant:\n%s", got, tc.want)
			}
		})
	}
}

func TestOtherFormats(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	logging.New(logging.Config{Format: logging.JSON, PID: 7, Stderr: &b}).
		Log(t.Context(), logging.LevelCritical, "m", "detail", "d")
	var record map[string]any
	if err := json.Unmarshal(b.Bytes(), &record); err != nil {
		t.Fatalf("%q: %v", b.String(), err)
	}
	for k, want := range map[string]any{"level": "CRITICAL", "msg": "m", "detail": "d", "pid": 7.0} {
		if record[k] != want {
			t.Errorf("%s = %v, want %v", k, record[k], want)
		}
	}
	b.Reset()
	logging.New(logging.Config{Format: logging.Text, Level: slog.LevelWarn, Stderr: &b}).Warn("m", "k", "v w")
	if got := b.String(); !strings.Contains(got, `level=WARNING msg=m`) || !strings.Contains(got, `k="v w"`) {
		t.Errorf("text record: %q", got)
	}
}

func TestSyslog(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "syslog") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "log")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	facility, ok := logging.ParseFacility("LOCAL3")
	if !ok {
		t.Fatal("LOCAL3 is no facility")
	}
	var notes bytes.Buffer
	s := logging.NewSyslog(facility, []string{filepath.Join(dir, "absent"), path}, &notes)
	log := logging.New(logging.Config{PID: 7, Syslog: s})
	log.Warn("m")
	log.Log(t.Context(), logging.LevelCritical, strings.Repeat("x", 1<<20))

	b := make([]byte, 1<<20)
	n, err := conn.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := stamp(string(b[:n])), "<156>wal_e.main   WARNING  MSG: m\n        STRUCTURED: time=T pid=7\x00"; got != want {
		t.Errorf("datagram %q, want %q", got, want)
	}
	if n, err = conn.Read(b); err != nil || !strings.HasPrefix(string(b[:n]), "<154>") {
		t.Errorf("datagram %.20q, %v", b[:n], err)
	}
	if notes.Len() > 0 {
		t.Errorf("notes: %s", &notes)
	}
}

// A syslog that is started anew gets what comes then.
func TestSyslogRestarted(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "syslog")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "log")
	listen := func() *net.UnixConn {
		conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	read := func(conn *net.UnixConn, want string) {
		t.Helper()
		b := make([]byte, 1024)
		if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if n, err := conn.Read(b); err != nil || !strings.Contains(string(b[:n]), want) {
			t.Errorf("datagram %q, %v: want one with %q", b[:n], err, want)
		}
	}
	var notes bytes.Buffer
	log := logging.New(logging.Config{Syslog: logging.NewSyslog(logging.User, []string{path}, &notes)})
	first := listen()
	log.Info("one")
	read(first, "one")
	_ = first.Close() // removes the socket
	_ = os.Remove(path)
	log.Info("two") // lost
	second := listen()
	t.Cleanup(func() { _ = second.Close() })
	log.Info("three")
	read(second, "three")
	_ = second.Close()
	_ = os.Remove(path)
	third := listen()
	t.Cleanup(func() { _ = third.Close() })
	log.Info("four") // sent on the old connection first
	read(third, "four")
	if notes.Len() > 0 {
		t.Errorf("notes: %s", &notes)
	}
}

// A syslog that isn't there, or doesn't listen, takes nothing from the rest.
func TestSyslogUnreachable(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "syslog")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	left := filepath.Join(dir, "left")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: left, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	conn.Close() // its socket file stays

	for _, tc := range []struct {
		name, socket string
		noted        bool
	}{{"absent", filepath.Join(dir, "absent"), false}, {"refused", left, true}} {
		var stderr, notes bytes.Buffer
		s := logging.NewSyslog(logging.User, []string{tc.socket}, &notes)
		log := logging.New(logging.Config{Stderr: &stderr, Syslog: s})
		log.Info("one")
		log.Info("two")
		if got := strings.Count(stderr.String(), "MSG"); got != 2 {
			t.Errorf("%s: %d records on stderr, want 2", tc.name, got)
		}
		if got := strings.Count(notes.String(), "\n"); got > 1 || tc.noted != (got == 1) {
			t.Errorf("%s: notes %q", tc.name, notes.String())
		}
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"wat", "local0,wat", ",", "", "local8"} {
		if f, ok := logging.ParseFacility(name); ok {
			t.Errorf("ParseFacility(%q) = %d, want none", name, f)
		}
	}
	for name, want := range map[string]logging.Facility{"user": 1, "UseR": 1, "local0": 16, "LOCAL7": 23, "daemon": 3} {
		if f, ok := logging.ParseFacility(name); !ok || f != want {
			t.Errorf("ParseFacility(%q) = %d, %t, want %d", name, f, ok, want)
		}
	}
	if f, err := logging.ParseFormat(""); err != nil || f != logging.Classic {
		t.Errorf("ParseFormat(empty) = %s, %v", f, err)
	}
	if _, err := logging.ParseFormat("xml"); err == nil {
		t.Error("ParseFormat(xml) succeeded")
	}
}

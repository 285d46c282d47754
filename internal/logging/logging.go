// Package logging makes the logger of the command: records in the form that
// classic WAL-E writes, or in those of log/slog, to the standard error stream
// and to the local syslog.
//
// Three attributes are more than a key and a value. "logger" names the part of
// the program that speaks, as the classic records do; "detail" and "hint" are
// sentences for people. Everything else is data.
//
// Writing a record never fails and never takes long: a log that can't be
// reached is no reason to leave a segment unarchived.
package logging

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"sync"

	"wal-e/internal/fault"
)

// LevelCritical is that of records about errors that demand attention now.
const LevelCritical = slog.LevelError + 4

// Keys of the attributes that records treat specially.
const (
	LoggerKey = "logger"
	DetailKey = "detail"
	HintKey   = "hint"
	CodeKey   = "code" // such as WALE-1102, which wal-e explain knows
)

// A Format is how records are written.
type Format string

// The formats.
const (
	Classic Format = "classic" // as WAL-E always did
	Text    Format = "text"    // key=value, one line
	JSON    Format = "json"    // one object per line
)

// ParseFormat parses the name of a format; the empty one is Classic.
func ParseFormat(s string) (Format, error) {
	switch f := Format(s); f {
	case "":
		return Classic, nil
	case Classic, Text, JSON:
		return f, nil
	}
	return "", fault.BadSetting.Errorf("%q is no log format: want classic, text or json", s)
}

// Config says what is logged where. The zero value writes nothing.
type Config struct {
	Format Format     // "" means Classic
	Level  slog.Level // records below it are dropped
	PID    int        // shown in every record

	Stderr io.Writer // gets each record in one Write; nil: none
	Syslog *Syslog   // nil: none
}

// New returns a logger as c says.
func New(c Config) *slog.Logger {
	out := &output{stderr: c.Stderr, syslog: c.Syslog}
	options := &slog.HandlerOptions{Level: c.Level, ReplaceAttr: nameLevel}
	var inner slog.Handler
	switch c.Format {
	case Text:
		inner = slog.NewTextHandler(out, options).WithAttrs([]slog.Attr{slog.Int("pid", c.PID)})
	case JSON:
		inner = slog.NewJSONHandler(out, options).WithAttrs([]slog.Attr{slog.Int("pid", c.PID)})
	default:
		inner = &classicHandler{out: out, level: c.Level, pid: c.PID}
	}
	return slog.New(handler{inner, out})
}

// nameLevel gives levels the names that the classic records have.
func nameLevel(groups []string, a slog.Attr) slog.Attr {
	if level, ok := a.Value.Any().(slog.Level); ok && len(groups) == 0 && a.Key == slog.LevelKey {
		a.Value = slog.StringValue(levelName(level))
	}
	return a
}

func levelName(l slog.Level) string {
	switch {
	case l < slog.LevelInfo:
		return "DEBUG"
	case l < slog.LevelWarn:
		return "INFO"
	case l < slog.LevelError:
		return "WARNING"
	case l < LevelCritical:
		return "ERROR"
	}
	return "CRITICAL"
}

// A handler tells its output the level of the record that inner writes to it.
type handler struct {
	slog.Handler
	out *output
}

func (h handler) Handle(ctx context.Context, r slog.Record) error {
	h.out.mu.Lock()
	defer h.out.mu.Unlock()
	h.out.level = r.Level
	return h.Handler.Handle(ctx, r)
}

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return handler{h.Handler.WithAttrs(attrs), h.out}
}

func (h handler) WithGroup(name string) slog.Handler {
	return handler{h.Handler.WithGroup(name), h.out}
}

// An output hands records to their destinations.
type output struct {
	stderr io.Writer
	syslog *Syslog

	mu    sync.Mutex // held while a record is written
	level slog.Level // of that record
}

// Write takes one record that ends with a newline. It reports no errors: there
// is nobody left to tell.
func (o *output) Write(record []byte) (int, error) {
	if o.stderr != nil {
		_, _ = o.stderr.Write(record)
	}
	if o.syslog != nil {
		o.syslog.send(o.level, strings.TrimSuffix(string(record), "\n"))
	}
	return len(record), nil
}

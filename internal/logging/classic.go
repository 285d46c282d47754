package logging

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"
)

// A classicHandler writes records as classic WAL-E does:
//
//	wal_e.main   INFO     MSG: starting WAL-E
//	        DETAIL: The subcommand is "backup-push".
//	        STRUCTURED: time=2026-11-22T18:39:44.990154-00 pid=25798
//
// DETAIL and HINT are there when a record has such an attribute, and MORE, which
// is not the classic program's, when it has a code. STRUCTURED holds the others,
// sorted, after time and pid.
type classicHandler struct {
	out    *output
	level  slog.Level
	pid    int
	groups string // joined by dots, with one at the end
	attrs  []classicAttr
}

// A classicAttr has the name of its groups in its key.
type classicAttr struct{ key, value string }

// defaultLogger is the name in records of those who give none.
const defaultLogger = "wal_e.main"

func (h *classicHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

func (h *classicHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *h
	with.attrs = slices.Clone(h.attrs)
	for _, a := range attrs {
		with.attrs = appendAttr(with.attrs, h.groups, a)
	}
	return &with
}

func (h *classicHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	with := *h
	with.groups += name + "."
	return &with
}

func (h *classicHandler) Handle(_ context.Context, r slog.Record) error {
	attrs := slices.Clone(h.attrs)
	r.Attrs(func(a slog.Attr) bool {
		attrs = appendAttr(attrs, h.groups, a)
		return true
	})
	logger, detail, hint, code := defaultLogger, "", "", ""
	var pairs []string
	for _, a := range attrs {
		switch a.key {
		case LoggerKey:
			logger = a.value
		case DetailKey:
			detail = a.value
		case HintKey:
			hint = a.value
		case CodeKey:
			code = a.value
		default:
			pairs = append(pairs, a.key+"="+a.value)
		}
	}
	slices.Sort(pairs)
	var b bytes.Buffer
	fmt.Fprintf(&b, "%-12s %-8s MSG: %s", logger, levelName(r.Level), r.Message)
	if detail != "" {
		fmt.Fprintf(&b, "\nDETAIL: %s", detail)
	}
	if hint != "" {
		fmt.Fprintf(&b, "\nHINT: %s", hint)
	}
	if code != "" {
		fmt.Fprintf(&b, "\nMORE: wal-e explain %s", code)
	}
	fmt.Fprintf(&b, "\nSTRUCTURED: time=%s pid=%d", classicTime(r.Time), h.pid)
	for _, p := range pairs {
		b.WriteString(" " + p)
	}
	record := bytes.ReplaceAll(b.Bytes(), []byte("\n"), []byte("\n        "))
	_, err := h.out.Write(append(record, '\n'))
	return err
}

func classicTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000") + "-00" }

// appendAttr appends a, and the members of a group one by one.
func appendAttr(attrs []classicAttr, groups string, a slog.Attr) []classicAttr {
	v := a.Value.Resolve()
	if v.Kind() != slog.KindGroup {
		if a.Equal(slog.Attr{}) {
			return attrs
		}
		return append(attrs, classicAttr{groups + a.Key, classicValue(v)})
	}
	if a.Key != "" {
		groups += a.Key + "."
	}
	for _, member := range v.Group() {
		attrs = appendAttr(attrs, groups, member)
	}
	return attrs
}

func classicValue(v slog.Value) string {
	if v.Kind() == slog.KindTime {
		return classicTime(v.Time())
	}
	return strings.TrimSpace(v.String())
}

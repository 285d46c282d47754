package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"wal-e/internal/fault"
	"wal-e/internal/logging"
)

// A message is an error in the words of a record.
type message struct {
	text, detail, hint string
	kind               fault.Kind // 0: that of err
	err                error      // may be nil
}

func (m *message) Error() string {
	s := m.text
	for _, more := range []string{m.detail, m.hint} {
		if more != "" {
			s += ": " + more
		}
	}
	return s
}

func (m *message) Unwrap() error { return m.err }

// report tells people about the error that a run ends with. A wal-fetch that
// finds nothing has said so already: PostgreSQL asks for files that never were.
func (a *app) report(ctx context.Context, err error) {
	log := a.logger()
	var stop *stopped
	var fetch *fetchFailure
	var usage *usageError
	if errors.As(err, &usage) {
		usage.print(a.stderr)
	}
	switch {
	case errors.As(err, &stop):
		log.WarnContext(ctx, stop.signal.Error(), logging.DetailKey, stop.err.Error(), logging.CodeKey, fault.Interrupted.String())
	case errors.As(err, &fetch):
		if !fetch.absent() {
			fetch.report(ctx, log)
		}
	case usage == nil:
		for _, err := range each(err) {
			m := messageOf(err)
			log.ErrorContext(ctx, m.text, append(m.attrs(), logging.CodeKey, kindOf(err).String())...)
		}
	}
}

// report says loudly why recovery doesn't go on.
func (e *fetchFailure) report(ctx context.Context, log *slog.Logger) {
	hint := fmt.Sprintf("Exit status %d: PostgreSQL stops instead of ending recovery too early. Fix the cause and start it again.", exitStopRecovery)
	if e.Standby {
		hint = fmt.Sprintf("Exit status %d: the standby asks again.", exitAskAgain)
	}
	for _, err := range each(e.Err) {
		m := messageOf(err)
		detail := strings.TrimPrefix(strings.Join([]string{m.detail, m.hint}, "\n"), "\n")
		m = &message{text: m.text, detail: strings.TrimSuffix(detail, "\n"), hint: hint}
		log.Log(ctx, logging.LevelCritical, m.text, append(m.attrs(), logging.CodeKey, kindOf(err).String())...)
	}
}

// messageOf returns the message in err, or makes one of its text: the first
// line, and the others as the detail.
func messageOf(err error) *message {
	var m *message
	if errors.As(err, &m) {
		return m
	}
	text, detail, _ := strings.Cut(err.Error(), "\n")
	return &message{text: text, detail: detail}
}

// each returns the complaints of which err is made, or err.
func each(err error) []error {
	var all complaints
	if errors.As(err, &all) {
		return all
	}
	return []error{err}
}

func (m *message) attrs() []any {
	var attrs []any
	if m.detail != "" {
		attrs = append(attrs, logging.DetailKey, m.detail)
	}
	if m.hint != "" {
		attrs = append(attrs, logging.HintKey, m.hint)
	}
	return attrs
}

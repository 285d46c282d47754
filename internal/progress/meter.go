// Package progress shows how far long work has come: a line on a terminal, log
// records at growing intervals, or events for programs.
//
// The work counts on a Meter, which costs it an atomic addition; somebody else
// looks at that now and then. So showing can't hold the work up, whatever the
// terminal does.
package progress

import (
	"io"
	"sync/atomic"
	"time"
)

// A Unit says what a phase counts.
type Unit string

// The units.
const (
	Bytes Unit = "bytes"
	Items Unit = "items"
)

// A Meter counts work. It is safe for concurrent use, and a nil one counts
// nothing.
type Meter struct{ now atomic.Pointer[phase] }

type phase struct {
	name  string
	unit  Unit
	begun time.Time
	fresh func() int64

	done, total, skipped atomic.Int64
}

// Begin begins a phase, such as "copy", of which total is to be done; 0 means
// that it isn't known yet. fresh returns how many bytes turned out to be new so
// far; nil: that isn't a question.
func (m *Meter) Begin(name string, unit Unit, total int64, fresh func() int64) {
	if m == nil {
		return
	}
	p := &phase{name: name, unit: unit, begun: time.Now(), fresh: fresh}
	p.total.Store(total)
	m.now.Store(p)
}

// Expect says how much is to be done in this phase.
func (m *Meter) Expect(total int64) {
	if p := m.phase(); p != nil {
		p.total.Store(total)
	}
}

// Add counts n as done.
func (m *Meter) Add(n int64) {
	if p := m.phase(); p != nil {
		p.done.Add(n)
	}
}

// Skip counts n as done that took no work, such as a file that is known to be
// unchanged. It says nothing about how fast the work goes.
func (m *Meter) Skip(n int64) {
	if p := m.phase(); p != nil {
		p.skipped.Add(n)
		p.done.Add(n)
	}
}

// Reader returns a reader that counts what is read from r.
func (m *Meter) Reader(r io.Reader) io.Reader {
	if m == nil {
		return r
	}
	return &counting{m: m, r: r}
}

// Writer returns a writer that counts what is written to w.
func (m *Meter) Writer(w io.Writer) io.Writer {
	if m == nil {
		return w
	}
	return &counting{m: m, w: w}
}

type counting struct {
	m *Meter
	r io.Reader
	w io.Writer
}

func (c *counting) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.m.Add(int64(n))
	return n, err
}

func (c *counting) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.m.Add(int64(n))
	return n, err
}

func (m *Meter) phase() *phase {
	if m == nil {
		return nil
	}
	return m.now.Load()
}

// A State is what a Meter had counted at a moment.
type State struct {
	Phase   string
	Unit    Unit
	Done    int64
	Skipped int64 // of it, without work
	Total   int64 // 0: not known
	New     int64 // bytes; -1: not a question
	Elapsed time.Duration
}

// State returns where the work is; ok is false before the first phase.
func (m *Meter) State() (s State, ok bool) {
	p := m.phase()
	if p == nil {
		return State{}, false
	}
	skipped := p.skipped.Load() // before Done, of which it is a part
	s = State{Phase: p.name, Unit: p.unit, Skipped: skipped, Done: p.done.Load(), Total: p.total.Load(), New: -1, Elapsed: time.Since(p.begun)}
	if p.fresh != nil {
		s.New = p.fresh()
	}
	// What grows while it is read is more than was expected, not more than all.
	if s.Total > 0 {
		s.Total = max(s.Total, s.Done)
	}
	return s, true
}

// Rate is how much was worked on per second since the phase began.
func (s State) Rate() float64 {
	if s.Elapsed <= 0 {
		return 0
	}
	return float64(s.Done-s.Skipped) / s.Elapsed.Seconds()
}

// Left is about how long the phase goes on, if as much of the rest needs work as
// of what is done; ok is false when nobody can tell.
func (s State) Left() (left time.Duration, ok bool) {
	if s.Total <= 0 || s.Done <= 0 {
		return 0, false
	}
	seconds := s.Elapsed.Seconds() * float64(s.Total-s.Done) / float64(s.Done)
	if seconds > 1e6 { // eleven days: it says nothing
		return 0, false
	}
	return time.Duration(seconds * float64(time.Second)).Round(time.Second), true
}

package progress

import (
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// A Screen is a writer to a standard error stream that may be a terminal. What is
// written to it, such as log records, takes the place of the line that shows
// progress, which is then drawn again below.
type Screen struct {
	w        io.Writer
	terminal *os.File // nil: it is none

	mu    sync.Mutex // held while something is written
	shown bool       // a line of progress stands on the terminal
}

// NewScreen returns a Screen on w. kind is the terminal's, as TERM has it.
func NewScreen(w io.Writer, kind string) *Screen {
	s := &Screen{w: w}
	if f, ok := w.(*os.File); ok && kind != "" && kind != "dumb" {
		if term.IsTerminal(int(f.Fd())) {
			s.terminal = f
		}
	}
	return s
}

func (s *Screen) capable() bool { return s != nil && s.terminal != nil }

// Write writes b below what was written before.
func (s *Screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clear()
	return s.w.Write(b)
}

// eraseLine goes to the beginning of the line and erases it.
const eraseLine = "\r\x1b[K"

func (s *Screen) clear() {
	if s.shown {
		s.shown = false
		_, _ = io.WriteString(s.w, eraseLine)
	}
}

// width is how many columns there are to draw in; 0 when this process is in the
// background, where the terminal is another's to write to.
func (s *Screen) width() int {
	fd := int(s.terminal.Fd())
	if group, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP); err != nil || group != unix.Getpgrp() {
		return 0
	}
	columns, _, err := term.GetSize(fd)
	if err != nil || columns == 0 {
		return 80
	}
	return columns
}

// line shows text as the line of progress.
func (s *Screen) line(text string) {
	columns := s.width()
	s.mu.Lock()
	defer s.mu.Unlock()
	if columns == 0 {
		return
	}
	runes := []rune(text)
	if len(runes) >= columns { // the last column wraps on some terminals
		runes = runes[:columns-1]
	}
	s.shown = true
	_, _ = io.WriteString(s.w, eraseLine+string(runes))
}

// draw draws the meter until the end, and clears it.
func (c Config) draw(end <-chan struct{}) {
	defer func() {
		c.Screen.mu.Lock()
		defer c.Screen.mu.Unlock()
		c.Screen.clear()
	}()
	ticks := time.NewTicker(drawing)
	defer ticks.Stop()
	for {
		select {
		case <-end:
			return
		case <-ticks.C:
		}
		if s, ok := c.Meter.State(); ok {
			c.Screen.line(s.bar())
		}
	}
}

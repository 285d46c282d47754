package postgres

import (
	"fmt"
	"strings"

	"wal-e/internal/fault"
)

// A History is the path that leads to a timeline: its ancestors and where each was left.
type History struct {
	Timeline  Timeline
	Ancestors []Ancestor // oldest first
}

// An Ancestor is a line of a timeline history file.
type Ancestor struct {
	Timeline Timeline
	Switch   LSN // where the next timeline begins
	Reason   string
}

// ParseHistory parses the history file of tl (readTimeLineHistory in timeline.c).
// Timeline 1 has none: its history is History{Timeline: 1}.
func ParseHistory(tl Timeline, b []byte) (History, error) {
	h := History{Timeline: tl}
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		a, err := parseAncestor(line)
		if err != nil {
			return History{}, fmt.Errorf("postgres: history of timeline %d: %w", tl, err)
		}
		if n := len(h.Ancestors); n > 0 && (a.Timeline <= h.Ancestors[n-1].Timeline || a.Switch < h.Ancestors[n-1].Switch) {
			return History{}, fault.BadControl.Errorf("postgres: history of timeline %d: line %q goes backwards", tl, line)
		}
		h.Ancestors = append(h.Ancestors, a)
	}
	if n := len(h.Ancestors); n > 0 && h.Ancestors[n-1].Timeline >= tl {
		return History{}, fault.BadControl.Errorf("postgres: history of timeline %d names timeline %d as an ancestor", tl, h.Ancestors[n-1].Timeline)
	}
	return h, nil
}

// parseAncestor parses "1\t0/3000060\tno recovery target specified".
func parseAncestor(line string) (Ancestor, error) {
	number, rest, _ := strings.Cut(line, "\t")
	position, reason, _ := strings.Cut(rest, "\t")
	tl, err := ParseTimeline(strings.TrimSpace(number))
	if err != nil {
		return Ancestor{}, fmt.Errorf("line %q: %w", line, err)
	}
	lsn, err := ParseLSN(strings.TrimSpace(position))
	if err != nil {
		return Ancestor{}, fmt.Errorf("line %q: %w", line, err)
	}
	return Ancestor{tl, lsn, reason}, nil
}

// TimelineAt returns the timeline that holds the byte at lsn on the way to
// h.Timeline (tliOfPointInHistory).
func (h History) TimelineAt(lsn LSN) Timeline {
	for _, a := range h.Ancestors {
		if lsn < a.Switch {
			return a.Timeline
		}
	}
	return h.Timeline
}

// Contains reports whether recovery to h.Timeline reads the byte at lsn from tl.
// For the end of a range, such as a backup's stop, use ContainsEnd.
func (h History) Contains(tl Timeline, lsn LSN) bool { return h.TimelineAt(lsn) == tl }

// ContainsEnd reports whether recovery to h.Timeline reads tl up to lsn, which
// may be the very position where tl was left. A backup of tl can be the base of
// h.Timeline if it contains the backup's stop so.
func (h History) ContainsEnd(tl Timeline, lsn LSN) bool { return h.Contains(tl, max(lsn, 1)-1) }

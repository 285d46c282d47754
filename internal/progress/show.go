package progress

import (
	"encoding/json"
	"io"
	"sync"
	"time"

	"wal-e/internal/fault"
)

// A Mode is how progress is shown.
type Mode string

// The modes.
const (
	Auto Mode = "auto" // Bar on a terminal, else Log
	Bar  Mode = "bar"  // a line that changes, on a terminal only
	Log  Mode = "log"  // records at growing intervals
	JSON Mode = "json" // an event per second and line
	None Mode = "none"
)

// ParseMode parses the name of a mode.
func ParseMode(s string) (Mode, error) {
	switch m := Mode(s); m {
	case Auto, Bar, Log, JSON, None:
		return m, nil
	}
	return "", fault.BadSetting.Errorf("%q is no way to show progress: want auto, bar, log, json or none", s)
}

// Config says how to show a meter. Meter is required.
type Config struct {
	Meter *Meter
	Mode  Mode
	// Command is named in events.
	Command string

	Screen *Screen       // where a bar is drawn; nil: no terminal
	Events io.Writer     // for JSON
	Record func(s State) // writes a log record

	// First is when the first record is written, and Every the longest interval
	// that they grow to; 0 means 30 s and 5 min. An event comes every Tick; 0 means
	// a second.
	First, Every, Tick time.Duration
}

// drawing is how often a bar is drawn anew.
const drawing = 200 * time.Millisecond

// patience is how long the end of the work waits for who shows it: a terminal may
// have been stopped, and a pipe may be full.
const patience = 300 * time.Millisecond

// Show shows the meter until stop is called, which may be done twice. What is
// shown on a terminal is gone after that.
func Show(c Config) (stop func()) {
	switch c.Mode {
	case Auto:
		c.Mode = Log
		if c.Screen.capable() {
			c.Mode = Bar
		}
	case Bar:
		if !c.Screen.capable() {
			c.Mode = None
		}
	}
	var run func(end <-chan struct{})
	switch c.Mode {
	case Bar:
		run = c.draw
	case Log:
		run = c.record
	case JSON:
		run = c.tell
	default:
		return func() {}
	}
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		run(end)
	}()
	return sync.OnceFunc(func() {
		close(end)
		select {
		case <-ended:
		case <-time.After(patience):
		}
	})
}

// record writes records, each after twice the time of the last.
func (c Config) record(end <-chan struct{}) {
	interval, longest := c.First, c.Every
	if interval == 0 {
		interval = 30 * time.Second
	}
	if longest == 0 {
		longest = 5 * time.Minute
	}
	for {
		select {
		case <-end:
			return
		case <-time.After(interval):
		}
		if s, ok := c.Meter.State(); ok {
			c.Record(s)
		}
		interval = min(2*interval, longest)
	}
}

// An Event is a line of JSON.
type Event struct {
	Event   string    `json:"event"` // progress
	Time    time.Time `json:"time"`
	Command string    `json:"command"`
	Phase   string    `json:"phase"`
	Unit    Unit      `json:"unit"`
	Done    int64     `json:"done"`
	Total   *int64    `json:"total"` // null: not known
	New     *int64    `json:"bytes_new"`
	Rate    float64   `json:"per_second"`
	Left    *float64  `json:"seconds_left"`
}

// tell writes an event at each tick at which there is a phase, and one in the end.
func (c Config) tell(end <-chan struct{}) {
	interval := c.Tick
	if interval == 0 {
		interval = time.Second
	}
	ticks := time.NewTicker(interval)
	defer ticks.Stop()
	for ended := false; !ended; {
		select {
		case <-end:
			ended = true
		case <-ticks.C:
		}
		s, ok := c.Meter.State()
		if !ok {
			continue
		}
		e := Event{Event: "progress", Time: time.Now().UTC(), Command: c.Command, Phase: s.Phase, Unit: s.Unit, Done: s.Done, Rate: s.Rate()}
		if s.Total > 0 {
			e.Total = &s.Total
		}
		if s.New >= 0 {
			e.New = &s.New
		}
		if left, ok := s.Left(); ok {
			seconds := left.Seconds()
			e.Left = &seconds
		}
		line, err := json.Marshal(e)
		if err == nil {
			_, err = c.Events.Write(append(line, '\n'))
		}
		if err != nil {
			return // nobody reads it any more
		}
	}
}

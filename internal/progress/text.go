package progress

import (
	"fmt"
	"strings"
	"time"
)

// Amount is n of a unit for people.
func Amount(n int64, u Unit) string {
	if u != Bytes {
		return fmt.Sprint(n)
	}
	const kibi = 1024
	if n < kibi {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n)/kibi, 0
	for v >= kibi && i < 4 {
		v /= kibi
		i++
	}
	return fmt.Sprintf("%.1f %ciB", v, "KMGTP"[i])
}

// String is a sentence about s.
func (s State) String() string {
	var b strings.Builder
	b.WriteString(Amount(s.Done, s.Unit))
	if s.Total > 0 {
		fmt.Fprintf(&b, " of %s (%d %%)", Amount(s.Total, s.Unit), s.Done*100/s.Total)
	}
	b.WriteString(" in " + s.Elapsed.Round(time.Second).String())
	b.WriteString(s.rest())
	return b.String() + "."
}

// rest tells what is new, how fast it goes, and how long it takes.
func (s State) rest() string {
	var b strings.Builder
	if s.New >= 0 {
		fmt.Fprintf(&b, ", %s new", Amount(s.New, Bytes))
	}
	if s.Done > s.Skipped {
		fmt.Fprintf(&b, ", %s/s", Amount(int64(s.Rate()), s.Unit))
	}
	if left, ok := s.Left(); ok {
		fmt.Fprintf(&b, ", %s left", left)
	}
	return b.String()
}

// barWidth is how many columns stand between the brackets of a bar.
const barWidth = 24

// bar is the line that a terminal shows. The most important stands first, for a
// narrow one cuts it off.
func (s State) bar() string {
	var b strings.Builder
	b.WriteString(s.Phase)
	switch {
	case s.Total > 0:
		share := float64(s.Done) / float64(s.Total)
		full := int(share * barWidth)
		fmt.Fprintf(&b, " %3d %% [%s%s] %s of %s", int(share*100), strings.Repeat("=", full), strings.Repeat(" ", barWidth-full),
			Amount(s.Done, s.Unit), Amount(s.Total, s.Unit))
	case s.Done > 0:
		b.WriteString(" " + Amount(s.Done, s.Unit))
	default: // a phase that waits
		b.WriteString(" " + s.Elapsed.Round(time.Second).String())
	}
	return b.String() + s.rest()
}

package main

import (
	"strings"
	"testing"
)

func TestWrap(t *testing.T) {
	t.Parallel()
	const text = "the clock of this host is wrong, and what is signed by it is refused: set it by NTP or /a/very/long/path/that/no/line/has/room/for and look again"
	got := wrap(text, 50, "    ")
	if strings.Join(strings.Fields(got), " ") != text {
		t.Errorf("wrap changed the words: %q", got)
	}
	for i, line := range strings.Split(got, "\n") {
		words := strings.TrimPrefix(line, "    ")
		if i > 0 && words == line || len(words) > 50 && strings.Contains(words, " ") {
			t.Errorf("line %d is %q, want it indented and at most 50 wide", i, line)
		}
	}
	if got := wrap(text, 1<<62, "    "); got != text {
		t.Errorf("without an end, wrap made %q of it", got)
	}
}

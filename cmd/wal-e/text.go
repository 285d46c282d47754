package main

import (
	"fmt"
	"os"
	"time"
)

// bytesText is a number of bytes for people.
func bytesText(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n)/unit, 0
	for v >= unit && i < 4 {
		v /= unit
		i++
	}
	return fmt.Sprintf("%.1f %ciB", v, "KMGTP"[i])
}

// hostname is this host's name, for people.
func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "unknown host"
	}
	return name
}

// counted is a number of things for people: 1 pack, 2 packs.
func counted[N int | int64 | uint64](n N, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// areMissing says so of a number of segments: 1 segment is missing.
func areMissing(segments uint64) string {
	if segments == 1 {
		return "1 segment is missing"
	}
	return fmt.Sprintf("%d segments are missing", segments)
}

// age is how long ago something was, for people: in the largest unit of which it
// has two or more.
func age(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d >= 2*day:
		return counted(int(d/day), "day")
	case d >= 2*time.Hour:
		return counted(int(d/time.Hour), "hour")
	case d >= time.Minute:
		return counted(int(d/time.Minute), "minute")
	}
	return "less than a minute"
}

package postgres

import (
	"fmt"
	"strconv"
	"strings"
)

// An LSN is a position in the WAL: a byte offset from the cluster's beginning.
// Zero is PostgreSQL's InvalidXLogRecPtr.
type LSN uint64

// MaxLSN is above every position a server reaches.
const MaxLSN = ^LSN(0)

// ParseLSN parses the form "16/B374D848" of pg_lsn, in either case of digits.
func ParseLSN(s string) (LSN, error) {
	high, low, ok := strings.Cut(s, "/")
	if ok {
		hi, okHigh := parseHex(high)
		lo, okLow := parseHex(low)
		if okHigh && okLow {
			return LSN(hi)<<32 | LSN(lo), nil
		}
	}
	return 0, fmt.Errorf("postgres: %q is not an LSN: want two hexadecimal numbers as in 16/B374D848", s)
}

func (l LSN) String() string {
	return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l))
}

// parseHex parses one to eight hexadecimal digits, without sign or prefix.
func parseHex(s string) (uint32, bool) {
	if len(s) > 8 {
		return 0, false
	}
	v, err := strconv.ParseUint(s, 16, 32)
	return uint32(v), err == nil
}

// A Timeline is a timeline ID. Real ones start at 1.
type Timeline uint32

// ParseTimeline parses a timeline as people and history files write it, in decimal.
func ParseTimeline(s string) (Timeline, error) {
	v, err := strconv.ParseUint(s, 10, 32)
	if err != nil || v == 0 {
		return 0, fmt.Errorf("postgres: %q is not a timeline: want a number from 1 to 4294967295", s)
	}
	return Timeline(v), nil
}

// HistoryName returns the name of the timeline's history file, "0000000A.history".
func (t Timeline) HistoryName() string {
	return fmt.Sprintf("%08X.history", uint32(t))
}

// A SystemID identifies a cluster and its physical copies; initdb makes it.
type SystemID uint64

// ParseSystemID parses the decimal form that PostgreSQL prints.
func ParseSystemID(s string) (SystemID, error) {
	v, err := strconv.ParseUint(s, 10, 64)
	if err != nil || v == 0 || s[0] == '0' {
		return 0, fmt.Errorf("postgres: %q is not a system identifier: want a decimal number", s)
	}
	return SystemID(v), nil
}

func (id SystemID) String() string { return strconv.FormatUint(uint64(id), 10) }

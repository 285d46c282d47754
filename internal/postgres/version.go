package postgres

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// A Version is PostgreSQL's version as server_version_num counts it: 90624 is
// 9.6.24, 150004 is 15.4. Compare it with the constants.
type Version int

// The first version of each major release that something here depends on.
const (
	V9_6 Version = 90600
	V10  Version = 100000
	V11  Version = 110000
	V12  Version = 120000
	V13  Version = 130000
	V14  Version = 140000
	V15  Version = 150000
	V16  Version = 160000
	V17  Version = 170000
	V18  Version = 180000
)

// ParseVersion parses a major version as the file PG_VERSION holds it, "9.6" or
// "15" with or without a line end.
func ParseVersion(s string) (Version, error) {
	number := strings.TrimSpace(s)
	first, second, dotted := strings.Cut(number, ".")
	major, err := strconv.ParseUint(first, 10, 16)
	if err == nil && dotted == (major < 10) {
		if !dotted {
			return Version(major * 10000), nil
		}
		minor, err := strconv.ParseUint(second, 10, 16)
		if err == nil && minor < 100 {
			return Version(major*10000 + minor*100), nil
		}
	}
	return 0, fmt.Errorf("postgres: %.20q is not a major version: want a form like 9.6 or 15", s)
}

// ReadVersion reads PG_VERSION of a data directory.
func ReadVersion(dir string) (Version, error) {
	name := filepath.Join(dir, "PG_VERSION")
	b, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	v, err := ParseVersion(string(b))
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", name, err)
	}
	return v, nil
}

// Major returns the major version as PostgreSQL writes it, "9.6" or "15".
func (v Version) Major() string {
	if v < V10 {
		return fmt.Sprintf("%d.%d", v/10000, v/100%100)
	}
	return strconv.Itoa(int(v / 10000))
}

// String returns the whole version, "9.6.24" or "15.4".
func (v Version) String() string {
	if v < V10 {
		return fmt.Sprintf("%s.%d", v.Major(), v%100)
	}
	return fmt.Sprintf("%s.%d", v.Major(), v%10000)
}

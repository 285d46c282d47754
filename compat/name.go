package compat

import (
	"fmt"
	"strconv"
	"strings"

	"wal-e/internal/fault"
)

// A Name is the name of a classic base backup, base_SEGMENT_OFFSET.
//
// Segment is that in which the backup begins, and nothing more can be relied on:
// of a live backup Offset is decimal, of one taken offline hexadecimal and only
// two digits long, and there the original took a wrong segment as well when the
// second half of the position had fewer than eight digits.
type Name struct {
	Segment string // 24 upper-case hexadecimal digits
	Offset  string // 8 of them
}

// ParseName parses the name of a backup.
func ParseName(s string) (Name, error) {
	n, rest, ok := cutName(s)
	if !ok || rest != "" {
		return Name{}, fault.NoBackup.Errorf("%q is no name of a classic backup: want a form like base_000000010000000000000004_00000216", s)
	}
	return n, nil
}

// cutName returns the name that s begins with, and what follows it.
func cutName(s string) (n Name, rest string, ok bool) {
	const length = len("base_000000010000000000000004_00000216")
	if len(s) < length || s[:5] != "base_" || s[29] != '_' || !isHex(s[5:29]) || !isHex(s[30:length]) {
		return Name{}, "", false
	}
	return Name{Segment: s[5:29], Offset: s[30:length]}, s[length:], true
}

func isHex(s string) bool { return strings.Trim(s, "0123456789ABCDEF") == "" }

func (n Name) String() string { return "base_" + n.Segment + "_" + n.Offset }

// Folders of format 005.
const (
	backupsFolder = "basebackups_005/"
	walFolder     = "wal_005/"
)

const (
	sentinelSuffix = "_backup_stop_sentinel.json"
	versionFile    = "extended_version.txt"
	partitions     = "tar_partitions/"
	partSuffix     = ".tar.lzo"
	walSuffix      = ".lzo"
)

// Sentinel returns the key whose object makes the backup one.
func (n Name) Sentinel() string { return backupsFolder + n.String() + sentinelSuffix }

// Version returns the key of the server's version.
func (n Name) Version() string { return backupsFolder + n.String() + "/" + versionFile }

func (n Name) partitionFolder() string { return backupsFolder + n.String() + "/" + partitions }

// Partition returns the key of a partition by its number.
func (n Name) Partition(number int) string {
	return fmt.Sprintf("%spart_%08d%s", n.partitionFolder(), number, partSuffix)
}

// WALKey returns the key of a WAL file.
func WALKey(name string) string { return walFolder + name + walSuffix }

// A Kind says what a classic object is.
type Kind int

// The kinds of classic objects. Other is what the original doesn't make.
const (
	Other     Kind = iota
	Sentinel       // of Name
	Version        // of Name
	Partition      // Number of Name
	WAL            // File
)

// A Key is what the key of a classic object says.
type Key struct {
	Kind   Kind
	Name   Name
	Number int    // of a partition
	File   string // of WAL: its name in the WAL folder
}

// ParseKey parses a key of format 005. Whatever it doesn't know is of kind Other,
// with the name of the backup if it lies in the folder of one.
func ParseKey(key string) Key {
	if file, ok := strings.CutPrefix(key, walFolder); ok {
		file, ok = strings.CutSuffix(file, walSuffix)
		if !ok || file == "" || strings.Contains(file, "/") {
			return Key{}
		}
		return Key{Kind: WAL, File: file}
	}
	rest, ok := strings.CutPrefix(key, backupsFolder)
	if !ok {
		return Key{}
	}
	name, rest, ok := cutName(rest)
	if !ok {
		return Key{}
	}
	switch rest {
	case sentinelSuffix:
		return Key{Kind: Sentinel, Name: name}
	case "/" + versionFile:
		return Key{Kind: Version, Name: name}
	}
	if !strings.HasPrefix(rest, "/") {
		return Key{}
	}
	number, ok := strings.CutPrefix(rest, "/"+partitions+"part_")
	number, ok2 := strings.CutSuffix(number, partSuffix)
	n, err := strconv.ParseUint(number, 10, 31)
	if !ok || !ok2 || err != nil || fmt.Sprintf("%08d", n) != number {
		return Key{Name: name}
	}
	return Key{Kind: Partition, Name: name, Number: int(n)}
}

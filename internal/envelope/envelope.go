// Package envelope is the form of the archive's small objects: one line that
// says what follows and carries its hash, then JSON.
//
//	wal-e <kind> <version> blake3:<64 hex digits>\n
//	{ ... }\n
//
// The hash is BLAKE3-256 of all after the first newline. It finds damage, not
// forgery. A person reads such an object with any pager.
package envelope

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/zeebo/blake3"
)

// MaxSize bounds an object in bytes; the largest is the outcome of a backup of
// some ten thousands of packs per run.
const MaxSize = 256 << 20

// ErrDamaged is wrapped by Decode when the object isn't what was written.
var ErrDamaged = errors.New("object is damaged")

// VersionError says that an object was written by a newer program.
type VersionError struct {
	Kind    string
	Version int
	Known   int
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("%s of format version %d: this program reads up to %d: use a newer wal-e", e.Kind, e.Version, e.Known)
}

// maxHeader is the longest first line that is looked for.
const maxHeader = 128

// Encode writes v as the object of a kind. Kinds are single words.
func Encode(kind string, version int, v any) ([]byte, error) {
	body, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", kind, err)
	}
	body = append(body, '\n')
	sum := blake3.Sum256(body)
	head := fmt.Sprintf("wal-e %s %d blake3:%s\n", kind, version, hex.EncodeToString(sum[:]))
	return append([]byte(head), body...), nil
}

// Decode reads an object of a kind into v, which is of no use after an error.
// Versions above known give a *VersionError, anything that Encode didn't write
// ErrDamaged. Fields that v doesn't have are ignored.
func Decode(data []byte, kind string, known int, v any) error {
	end := bytes.IndexByte(data[:min(len(data), maxHeader)], '\n')
	if end < 0 {
		return fmt.Errorf("%s: %w: no header line", kind, ErrDamaged)
	}
	fields := strings.Split(string(data[:end]), " ")
	if len(fields) != 4 || fields[0] != "wal-e" || fields[1] != kind {
		return fmt.Errorf("%s: %w: header is %q", kind, ErrDamaged, data[:end])
	}
	version, err := strconv.Atoi(fields[2])
	if err != nil || version < 1 || strconv.Itoa(version) != fields[2] {
		return fmt.Errorf("%s: %w: version is %q", kind, ErrDamaged, fields[2])
	}
	body := data[end+1:]
	sum := blake3.Sum256(body)
	if fields[3] != "blake3:"+hex.EncodeToString(sum[:]) {
		return fmt.Errorf("%s: %w: its hash differs", kind, ErrDamaged)
	}
	if version > known {
		return &VersionError{Kind: kind, Version: version, Known: known}
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("%s: %w: %w", kind, ErrDamaged, err)
	}
	return nil
}

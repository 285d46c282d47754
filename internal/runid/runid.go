// Package runid names pushes. A run ID is unique for ever and sorts by the
// time its push began, as far as clocks go; nothing but the order in which
// people see things depends on that time.
package runid

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"io"
	"sync"
	"time"
)

// Size is the length of an ID in bytes: 48 bits of milliseconds and 144 random
// bits (a ULID and 64 more).
const Size = 24

// textSize is the length of an ID as text.
const textSize = 39

// An ID names one push.
type ID [Size]byte

// encoding is Crockford's base 32: its order is the order of the bytes, and it
// has no letters that are mistaken for digits.
var encoding = sync.OnceValue(func() *base32.Encoding {
	return base32.NewEncoding("0123456789ABCDEFGHJKMNPQRSTVWXYZ").WithPadding(base32.NoPadding)
})

// New makes an ID for a push that begins at now, with randomness from rnd (nil
// means the system's).
func New(now time.Time, rnd io.Reader) (ID, error) {
	var id ID
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(now.UnixMilli()))
	copy(id[:6], ms[2:])
	if rnd == nil {
		rnd = rand.Reader
	}
	if _, err := io.ReadFull(rnd, id[6:]); err != nil {
		return ID{}, fmt.Errorf("runid: read randomness: %w", err)
	}
	return id, nil
}

// Parse parses what String returns.
func Parse(s string) (ID, error) {
	var id ID
	if len(s) != textSize {
		return id, fmt.Errorf("runid: %q has %d characters: want %d", s, len(s), textSize)
	}
	var buf [Size + 1]byte
	n, err := encoding().Decode(buf[:], []byte(s))
	if err != nil || n != Size {
		return id, fmt.Errorf("runid: %q is not a run id", s)
	}
	copy(id[:], buf[:Size])
	if id.String() != s {
		return ID{}, fmt.Errorf("runid: %q is not in its only form", s)
	}
	return id, nil
}

// String returns the ID as 39 characters that sort as the ID does.
func (id ID) String() string { return encoding().EncodeToString(id[:]) }

// Time is when the run began, by the clock of the host that began it.
func (id ID) Time() time.Time {
	var ms [8]byte
	copy(ms[2:], id[:6])
	return time.UnixMilli(int64(binary.BigEndian.Uint64(ms[:]))).UTC()
}

// MarshalText writes the ID as String does.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (id *ID) UnmarshalText(b []byte) error {
	parsed, err := Parse(string(b))
	if err != nil {
		return err
	}
	*id = parsed
	return nil
}

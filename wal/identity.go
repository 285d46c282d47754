package wal

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"wal-e/internal/postgres"
)

// A Fingerprint is the BLAKE3-256 of a file's plaintext.
type Fingerprint [32]byte

// String returns the fingerprint in lower-case hex.
func (f Fingerprint) String() string { return hex.EncodeToString(f[:]) }

// An Identity says what a stored file is, independent of how it was compressed.
// Two files are the same when their identities are equal.
type Identity struct {
	System      postgres.SystemID
	Length      int64 // bytes of plaintext
	Fingerprint Fingerprint
	Epoch       Epoch // whose key made the fingerprint; zero: none did
}

// String returns the identity as it is shown beside another one.
func (id Identity) String() string {
	if id.Epoch != (Epoch{}) {
		return fmt.Sprintf("%d bytes, encrypted, keyed fingerprint %s", id.Length, id.Fingerprint)
	}
	return fmt.Sprintf("%d bytes, blake3 %s", id.Length, id.Fingerprint)
}

// MaxLength is the largest file that can be archived in bytes, the largest size
// of a WAL segment.
const MaxLength = int64(postgres.MaxSegmentSize)

// HeaderSize is the number of bytes before the first zstd frame of an object:
// the identity within a zstd skippable frame.
const HeaderSize = 72

const (
	skippableMagic = 0x184D2A57
	identityMagic  = "WALEWAL1"

	// Offsets of the fields in a header.
	identityAt    = 8
	systemAt      = 16
	lengthAt      = 24
	fingerprintAt = 32
	flagsAt       = 64
	checksumAt    = 68
)

// MarshalBinary returns the HeaderSize bytes that an object of this identity
// begins with. It refuses what UnmarshalBinary would.
func (id Identity) MarshalBinary() ([]byte, error) {
	if err := id.check(); err != nil {
		return nil, fmt.Errorf("wal: encode identity: %w", err)
	}
	if id.Epoch != (Epoch{}) {
		return nil, errors.New("wal: encode identity: its fingerprint is keyed")
	}
	b := make([]byte, HeaderSize)
	binary.LittleEndian.PutUint32(b, skippableMagic)
	binary.LittleEndian.PutUint32(b[4:], HeaderSize-identityAt)
	copy(b[identityAt:], identityMagic)
	binary.LittleEndian.PutUint64(b[systemAt:], uint64(id.System))
	binary.LittleEndian.PutUint64(b[lengthAt:], uint64(id.Length))
	copy(b[fingerprintAt:], id.Fingerprint[:])
	binary.LittleEndian.PutUint32(b[checksumAt:], headerChecksum(b))
	return b, nil
}

// UnmarshalBinary parses the HeaderSize bytes that an object begins with.
func (id *Identity) UnmarshalBinary(b []byte) error {
	if len(b) != HeaderSize {
		return fmt.Errorf("wal: identity header has %d bytes, want %d", len(b), HeaderSize)
	}
	switch {
	case binary.LittleEndian.Uint32(b) != skippableMagic,
		binary.LittleEndian.Uint32(b[4:]) != HeaderSize-identityAt,
		!bytes.Equal(b[identityAt:systemAt], []byte(identityMagic)):
		return fmt.Errorf("wal: object begins with %x, which is no identity header", b[:systemAt])
	case binary.LittleEndian.Uint32(b[checksumAt:]) != headerChecksum(b):
		return errors.New("wal: identity header has a wrong checksum")
	}
	if flags := binary.LittleEndian.Uint32(b[flagsAt:]); flags != 0 {
		return fmt.Errorf("wal: identity header has flags %#x, of which this version knows none", flags)
	}
	got := Identity{
		System:      postgres.SystemID(binary.LittleEndian.Uint64(b[systemAt:])),
		Length:      int64(binary.LittleEndian.Uint64(b[lengthAt:])),
		Fingerprint: Fingerprint(b[fingerprintAt:flagsAt]),
	}
	if err := got.check(); err != nil {
		return fmt.Errorf("wal: identity header: %w", err)
	}
	*id = got
	return nil
}

func (id Identity) check() error {
	switch {
	case id.System == 0:
		return errors.New("no system identifier")
	case id.Length < 0 || id.Length > MaxLength:
		return fmt.Errorf("length %d is not within 0 and %d", id.Length, MaxLength)
	}
	return nil
}

func headerChecksum(b []byte) uint32 {
	return crc32.Checksum(b[identityAt:checksumAt], crc32.MakeTable(crc32.Castagnoli))
}

// readIdentity reads an object's header. What is wrong with the bytes is a
// formatError, what is wrong with r is r's error.
func readIdentity(r io.Reader) (Identity, error) {
	var b [HeaderSize]byte
	if n, err := io.ReadFull(r, b[:]); err == io.EOF || err == io.ErrUnexpectedEOF {
		return Identity{}, formatError{fmt.Errorf("it ends after %d bytes, within the identity header", n)}
	} else if err != nil {
		return Identity{}, err
	}
	var id Identity
	if err := id.UnmarshalBinary(b[:]); err != nil {
		return Identity{}, formatError{err}
	}
	return id, nil
}

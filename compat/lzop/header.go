package lzop

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/adler32"
	"hash/crc32"
	"io"
	"time"
)

// A Header is what the header of a member tells of the file it was made of.
type Header struct {
	Name    string    // without folder; "" when it came from a pipe
	Mode    uint32    // as st_mode has it; 0 for a pipe
	ModTime time.Time // whole seconds
}

// What lzop 1.04 with LZO 2.10 says of itself, and what it takes to read it.
const (
	writtenBy = 0x1040
	library   = 0x20A0
	needed    = 0x0940
	level     = 5 // lzop's default

	oldest      = 0x0900 // version that had a stable format
	newest      = 0x1040 // that we know
	longHeaders = 0x0940 // since then headers have a level, a needed version, and times of 64 bits
)

// A member is a header as far as reading the blocks goes.
type member struct {
	Header
	flags uint32
}

// marshal returns the header with its magic.
func (h Header) marshal() []byte {
	b := []byte(Magic)
	b = binary.BigEndian.AppendUint16(b, writtenBy)
	b = binary.BigEndian.AppendUint16(b, library)
	b = binary.BigEndian.AppendUint16(b, needed)
	b = append(b, methodLZO1X1, level)
	b = binary.BigEndian.AppendUint32(b, flagUnix|flagStdout|flagStdin|flagAdlerPlain)
	b = binary.BigEndian.AppendUint32(b, h.Mode)
	seconds := uint64(h.ModTime.Unix())
	b = binary.BigEndian.AppendUint32(b, uint32(seconds))
	b = binary.BigEndian.AppendUint32(b, uint32(seconds>>32))
	b = append(b, 0) // name length
	return binary.BigEndian.AppendUint32(b, adler32Sum(b[len(Magic):]))
}

// A headerReader reads a header and sums it up. The first error stays.
type headerReader struct {
	r     *bufio.Reader
	adler hash.Hash32
	crc   hash.Hash32
	err   error
}

func newHeaderReader(r *bufio.Reader) *headerReader {
	return &headerReader{r: r, adler: adler32.New(), crc: crc32.NewIEEE()}
}

func (h *headerReader) bytes(n int) []byte {
	b := make([]byte, n)
	if h.err == nil {
		_, h.err = io.ReadFull(h.r, b)
	}
	h.adler.Write(b)
	h.crc.Write(b)
	return b
}

func (h *headerReader) uint(size int) (v uint64) {
	for _, b := range h.bytes(size) {
		v = v<<8 | uint64(b)
	}
	return v
}

// verify reads a checksum and compares it to that of what was read before.
func (h *headerReader) verify(what string, crc bool) error {
	sum := h.adler.Sum32()
	if crc {
		sum = h.crc.Sum32()
	}
	if stored := uint32(h.uint(4)); h.err == nil && stored != sum {
		return fmt.Errorf("%w: the checksum of its %s is %08x, and says %08x", ErrDamaged, what, sum, stored)
	}
	h.adler.Reset()
	h.crc.Reset()
	return ended(h.err)
}

// ended makes an early end of the input one of an lzop file.
func ended(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it ends early", ErrDamaged)
	}
	return err
}

// readMember reads a header behind its magic.
func readMember(r *bufio.Reader) (member, error) {
	var m member
	h := newHeaderReader(r)
	version := uint16(h.uint(2))
	h.uint(2) // version of the library
	if err := ended(h.err); err != nil {
		return m, err
	}
	if version < oldest {
		return m, fmt.Errorf("%w: it was written by version %x, which had a format of its own", ErrUnsupported, version)
	}
	wanted, lvl := uint16(0), uint64(0)
	if version >= longHeaders {
		wanted = uint16(h.uint(2))
	}
	method := h.uint(1)
	if version >= longHeaders {
		lvl = h.uint(1)
	}
	m.flags = uint32(h.uint(4))
	filter := uint64(0)
	if m.flags&flagFilter != 0 {
		filter = h.uint(4)
	}
	m.Mode = uint32(h.uint(4))
	seconds := h.uint(4)
	if version >= longHeaders {
		seconds |= h.uint(4) << 32
	}
	m.ModTime = time.Unix(int64(seconds), 0)
	m.Name = string(h.bytes(int(h.uint(1))))
	if err := ended(h.err); err != nil {
		return m, err
	}
	if err := h.verify("header", m.flags&flagHeaderCRC != 0); err != nil {
		return m, err
	}
	// What follows comes after the checksum, so that damage isn't taken for
	// something new.
	switch {
	case wanted > newest:
		return m, fmt.Errorf("%w: it wants lzop %x.%03x or later", ErrUnsupported, wanted>>12, wanted&0xFFF)
	case method != methodLZO1X1 && method != methodLZO1X115 && method != methodLZO1X999:
		return m, fmt.Errorf("%w: compression method %d (level %d) is none of LZO1X", ErrUnsupported, method, lvl)
	case m.flags&flagFilter != 0:
		return m, fmt.Errorf("%w: its bytes went through filter %d, which no archiver uses", ErrUnsupported, filter)
	case m.flags&flagMultipart != 0:
		return m, fmt.Errorf("%w: it is one part of a file", ErrUnsupported)
	case m.flags&^(flagsKnown|flagsOS|flagsCharset) != 0:
		return m, fmt.Errorf("%w: flags %08x", ErrUnsupported, m.flags)
	}
	if m.flags&flagExtra != 0 {
		return m, skipExtra(h, m.flags&flagHeaderCRC != 0)
	}
	return m, nil
}

// skipExtra reads over an extra field, of any length, and verifies it.
func skipExtra(h *headerReader, crc bool) error {
	n := int64(h.uint(4))
	if err := ended(h.err); err != nil {
		return err
	}
	if _, err := io.CopyN(io.MultiWriter(h.adler, h.crc), h.r, n); err != nil {
		return ended(err)
	}
	return h.verify("extra field", crc)
}

package lzop

import (
	"encoding/binary"
	"errors"
	"math/bits"
)

// An LZO1X stream is a sequence of instructions. What one means depends on how
// many literal bytes the one before it ended with, the state: 0, 1 to 3, or 4 for
// a run of four and more.
//
//	0000LLLL  state 0: a run of L+3 literals (L=0: 18 and a long length)
//	0000DDSS  state 1..3: 2 bytes at distance (H<<2)+D+1, H is the next byte
//	          state 4: 3 bytes at distance (H<<2)+D+2049
//	0001HLLL  L+2 bytes (L=0: 9 and a long length) at distance 16384+(H<<14)+D,
//	          D and S in the next two bytes; a distance of 16384 is the end
//	001LLLLL  L+2 bytes (L=0: 33 and a long length) at distance D+1, likewise
//	01LDDDSS  3+L bytes at distance (H<<3)+D+1
//	1LLDDDSS  5+L bytes at distance (H<<3)+D+1
//
// S literals follow each copy. A long length is 255 for every zero byte, and
// the byte after them. A first byte above 17 is a run of that many less 17.

var (
	errInputEnds  = errors.New("the compressed block ends within an instruction")
	errLookBehind = errors.New("a copy reaches back before the block")
	errTooLong    = errors.New("the block holds more than its length says")
	errTooShort   = errors.New("the block holds less than its length says")
	errTrailing   = errors.New("bytes follow the end of the compressed block")
	errNoEnd      = errors.New("the end of the compressed block is malformed")
)

// decompress fills dst with what src decompresses to. It fails unless that is
// exactly len(dst) bytes and src has no more; whatever src holds, it neither
// allocates nor leaves dst.
func decompress(dst, src []byte) error {
	d := decoder{dst: dst, src: src}
	return d.run()
}

type decoder struct {
	dst, src []byte
	out, in  int
}

func (d *decoder) run() error {
	state := 0
	if len(d.src) > 0 && d.src[0] > 17 {
		n := int(d.src[0]) - 17
		d.in = 1
		if err := d.literals(n); err != nil {
			return err
		}
		state = min(n, 4)
	}
	for {
		if d.in >= len(d.src) {
			return errInputEnds
		}
		t := int(d.src[d.in])
		d.in++
		if t < 16 && state == 0 {
			n, err := d.length(t, 15)
			if err != nil {
				return err
			}
			if err := d.literals(n + 3); err != nil {
				return err
			}
			state = 4
			continue
		}
		n, distance, next, err := d.match(t, state)
		if err != nil {
			return err
		}
		if distance == 0 {
			return d.end(n)
		}
		if err := d.copy(n, distance); err != nil {
			return err
		}
		if next > 0 {
			if err := d.literals(next); err != nil {
				return err
			}
		}
		state = next
	}
}

// match reads the rest of the instruction t. Distance 0 is the end of the stream.
func (d *decoder) match(t, state int) (n, distance, next int, err error) {
	switch {
	case t >= 16 && t < 64:
		if t >= 32 {
			n, err = d.length(t&31, 31)
		} else {
			n, err = d.length(t&7, 7)
		}
		if err != nil {
			return 0, 0, 0, err
		}
		if len(d.src)-d.in < 2 {
			return 0, 0, 0, errInputEnds
		}
		v := int(binary.LittleEndian.Uint16(d.src[d.in:]))
		d.in += 2
		n, distance, next = n+2, v>>2, v&3
		if t >= 32 {
			return n, distance + 1, next, nil
		}
		if distance += (t & 8) << 11; distance != 0 {
			distance += 1 << 14
		}
		return n, distance, next, nil
	case d.in >= len(d.src):
		return 0, 0, 0, errInputEnds
	}
	h := int(d.src[d.in])
	d.in++
	next = t & 3
	switch {
	case t >= 64:
		return t>>5 + 1, h<<3 + t>>2&7 + 1, next, nil
	case state == 4:
		return 3, h<<2 + t>>2 + 2049, next, nil
	}
	return 2, h<<2 + t>>2 + 1, next, nil
}

// length returns short, or the long length that follows when short is 0.
func (d *decoder) length(short, base int) (int, error) {
	if short != 0 {
		return short, nil
	}
	n := base
	for d.in < len(d.src) {
		b := d.src[d.in]
		d.in++
		if b != 0 {
			return n + int(b), nil
		}
		if n += 255; n > len(d.dst) {
			return 0, errTooLong
		}
	}
	return 0, errInputEnds
}

func (d *decoder) literals(n int) error {
	switch {
	case n > len(d.src)-d.in:
		return errInputEnds
	case n > len(d.dst)-d.out:
		return errTooLong
	}
	copy(d.dst[d.out:d.out+n], d.src[d.in:])
	d.in += n
	d.out += n
	return nil
}

func (d *decoder) copy(n, distance int) error {
	switch {
	case distance > d.out:
		return errLookBehind
	case n > len(d.dst)-d.out:
		return errTooLong
	}
	to, end := d.out, d.out+n
	from := to - distance
	// Where source and target overlap the bytes repeat: what is there doubles
	// with each turn.
	for to < end {
		to += copy(d.dst[to:end], d.dst[from:to])
	}
	d.out = end
	return nil
}

func (d *decoder) end(n int) error {
	switch {
	case n != 3:
		return errNoEnd
	case d.out < len(d.dst):
		return errTooShort
	case d.in < len(d.src):
		return errTrailing
	}
	return nil
}

// Limits of the instructions that the encoder uses.
const (
	hashBits    = 14
	minMatch    = 4     // what the hash is made of
	nearLength  = 8     // of the short instructions for matches
	nearOffset  = 2048  // their greatest distance
	midOffset   = 16384 // of the instruction 001
	maxDistance = 49151 // of the instruction 0001
	skipShift   = 5     // after 32 bytes without a match every second is tried, and so on
)

// An encoder compresses blocks. It is not safe for concurrent use.
type encoder struct {
	table [1 << hashBits]int32 // position plus 1 of four bytes with that hash
	out   []byte
	fresh bool // nothing is in out
}

// compress returns src compressed, in memory that the next call uses again. It
// compresses any src, though not to fewer bytes.
func (e *encoder) compress(src []byte) []byte {
	clear(e.table[:])
	e.out, e.fresh = e.out[:0], true
	literal := 0 // what is before it is in out
	for i := 0; i+8 <= len(src); {
		v := binary.LittleEndian.Uint32(src[i:])
		h := v * 2654435761 >> (32 - hashBits)
		candidate := int(e.table[h]) - 1
		e.table[h] = int32(i + 1)
		if candidate < 0 || i-candidate > maxDistance || binary.LittleEndian.Uint32(src[candidate:]) != v {
			i += 1 + (i-literal)>>skipShift
			continue
		}
		n := minMatch + same(src[i+minMatch:], src[candidate+minMatch:])
		e.literals(src[literal:i])
		e.match(n, i-candidate)
		i += n
		literal = i
	}
	e.literals(src[literal:])
	e.out = append(e.out, 0x11, 0, 0)
	return e.out
}

// same returns how many bytes a and what begins before it, b, have in common.
func same(a, b []byte) int {
	n := 0
	for ; len(a)-n >= 8; n += 8 {
		if x := binary.LittleEndian.Uint64(a[n:]) ^ binary.LittleEndian.Uint64(b[n:]); x != 0 {
			return n + bits.TrailingZeros64(x)/8
		}
	}
	for n < len(a) && a[n] == b[n] {
		n++
	}
	return n
}

func (e *encoder) literals(b []byte) {
	n := len(b)
	switch {
	case n == 0:
		return
	case e.fresh && n <= 238:
		e.out = append(e.out, byte(17+n))
	case !e.fresh && n <= 3:
		e.out[len(e.out)-2] |= byte(n) // the second last byte of each match has room for it
	case n <= 3+15:
		e.out = append(e.out, byte(n-3))
	default:
		e.out = append(e.out, 0)
		e.long(n - 3 - 15)
	}
	e.out = append(e.out, b...)
	e.fresh = false
}

func (e *encoder) long(n int) {
	for ; n > 255; n -= 255 {
		e.out = append(e.out, 0)
	}
	e.out = append(e.out, byte(n))
}

func (e *encoder) match(n, distance int) {
	e.fresh = false
	switch {
	case n <= nearLength && distance <= nearOffset:
		d := distance - 1
		e.out = append(e.out, byte((n-1)<<5|d&7<<2), byte(d>>3))
		return
	case distance <= midOffset:
		e.far(32, n, 31)
		distance--
	default:
		distance -= midOffset
		e.far(16|distance>>11&8, n, 7)
		distance &= 1<<14 - 1
	}
	e.out = binary.LittleEndian.AppendUint16(e.out, uint16(distance<<2))
}

// far begins an instruction with lengths of up to most in itself.
func (e *encoder) far(instruction, n, most int) {
	if n -= 2; n <= most {
		e.out = append(e.out, byte(instruction|n))
		return
	}
	e.out = append(e.out, byte(instruction))
	e.long(n - most)
}

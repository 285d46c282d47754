package lzop

import (
	"encoding/binary"
	"errors"
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

package lzop

import "encoding/binary"

// adler32Sum is hash/adler32's Checksum (RFC 1950, section 8.2) at twice its speed:
// sixteen bytes are added at a time, as lanes of 16 bits in 64. Each block needs
// the sum, which otherwise costs a quarter of what its compression does.
func adler32Sum(p []byte) uint32 {
	const (
		prime  = 65521
		stride = 128 // the lanes below hold the sums of so many bytes without overflow
		lanes  = 0x00ff00ff00ff00ff
	)
	s1, s2 := uint64(1), uint64(0)
	for len(p) >= stride {
		run := p[:min(len(p), 1<<20)&^(stride-1)]
		p = p[len(run):]
		for ; len(run) > 0; run = run[stride:] {
			// Of the words so far: the bytes at even places, all bytes in pairs, and
			// these pairs summed over all earlier words.
			var even, pairs, before uint64
			b := (*[stride]byte)(run)
			for i := 0; i < stride; i += 16 {
				v, w := binary.LittleEndian.Uint64(b[i:]), binary.LittleEndian.Uint64(b[i+8:])
				ve, we := v&lanes, w&lanes
				vp := ve + v>>8&lanes
				before += 2*pairs + vp
				even += ve + we
				pairs += vp + we + w>>8&lanes
			}
			// s2 counts each byte once for itself and once for each that follows: eight
			// times for its own word and each that follows, less its place in the word.
			sum := sumLanes(pairs)
			places := sumLanes(pairs-even) + 2*(pairs>>16&0xffff+2*(pairs>>32&0xffff)+3*(pairs>>48))
			s2 += stride*s1 + 8*(sumLanes(before)+sum) - places
			s1 += sum
		}
		s1 %= prime
		s2 %= prime
	}
	for _, b := range p {
		s1 += uint64(b)
		s2 += s1
	}
	return uint32(s2%prime)<<16 | uint32(s1%prime)
}

// sumLanes adds up four lanes of 16 bits.
func sumLanes(v uint64) uint64 {
	v = v&0x0000ffff0000ffff + v>>16&0x0000ffff0000ffff
	return v&0xffffffff + v>>32
}

package postgres

import (
	"encoding/binary"
	"fmt"
)

const (
	fnvPrime     = 16777619
	checksumSums = 32 // N_SUMS, and so many words a row
	checksumRow  = 4 * checksumSums
)

// checksumOffsets is checksumBaseOffsets of checksum_impl.h.
func checksumOffsets() [checksumSums]uint32 {
	return [checksumSums]uint32{
		0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C,
		0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB,
		0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
		0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
	}
}

// PageChecksum computes a page's data checksum (pg_checksum_page in
// checksum_impl.h); blkno is the page's number within its fork. The checksum that
// the page holds counts as zero; the page is not changed. It panics unless the
// page is a whole one: a multiple of 128 bytes.
func PageChecksum(page []byte, blkno uint32) uint16 {
	if len(page) < checksumRow || len(page)%checksumRow != 0 {
		panic(fmt.Sprintf("postgres: internal error: checksum of a page of %d bytes", len(page)))
	}
	sum := blkno
	offsets := checksumOffsets()
	for lane := 0; lane < checksumSums; lane += 8 {
		sum ^= checksumLanes(page, lane, (*[8]uint32)(offsets[lane:]))
	}
	return uint16(sum%65535 + 1)
}

// checksumLanes folds eight of the 32 sums: so many fit into registers, and hide
// each other's latency.
func checksumLanes(page []byte, lane int, offsets *[8]uint32) uint32 {
	s0, s1, s2, s3 := offsets[0], offsets[1], offsets[2], offsets[3]
	s4, s5, s6, s7 := offsets[4], offsets[5], offsets[6], offsets[7]
	mask := ^uint32(0)
	if lane == 0 {
		mask = 0xFFFF0000 // pd_checksum is the low half of the third word
	}
	for b := page[4*lane:]; ; b = b[checksumRow:] {
		w := (*[32]byte)(b)
		s0 = mix(s0 ^ binary.LittleEndian.Uint32(w[0:]))
		s1 = mix(s1 ^ binary.LittleEndian.Uint32(w[4:]))
		s2 = mix(s2 ^ binary.LittleEndian.Uint32(w[8:])&mask)
		s3 = mix(s3 ^ binary.LittleEndian.Uint32(w[12:]))
		s4 = mix(s4 ^ binary.LittleEndian.Uint32(w[16:]))
		s5 = mix(s5 ^ binary.LittleEndian.Uint32(w[20:]))
		s6 = mix(s6 ^ binary.LittleEndian.Uint32(w[24:]))
		s7 = mix(s7 ^ binary.LittleEndian.Uint32(w[28:]))
		mask = ^uint32(0)
		if len(b) <= checksumRow {
			break
		}
	}
	return mix(mix(s0)) ^ mix(mix(s1)) ^ mix(mix(s2)) ^ mix(mix(s3)) ^
		mix(mix(s4)) ^ mix(mix(s5)) ^ mix(mix(s6)) ^ mix(mix(s7))
}

// mix is CHECKSUM_COMP behind its exclusive or.
func mix(v uint32) uint32 { return v*fnvPrime ^ v>>17 }

// PageLSN returns where the WAL record of the page's last change ends.
func PageLSN(page []byte) LSN {
	return LSN(binary.LittleEndian.Uint32(page))<<32 | LSN(binary.LittleEndian.Uint32(page[4:]))
}

// VerifyPage reports whether a page's data checksum is right, with the one that
// the page holds and the one that it should. It also accepts a page of zeros, which
// is one not yet used, and a page changed since start: WAL replay writes that
// anew, so what was read of it doesn't matter. start is the backup's, or MaxLSN to
// verify every page of a cluster that is shut down.
//
// A page read while it is written looks damaged too: read it again before you
// report it.
func VerifyPage(page []byte, blkno uint32, start LSN) (ok bool, got, want uint16) {
	if PageLSN(page) >= start && start != MaxLSN { // damage may look like any LSN
		return true, 0, 0
	}
	upper := binary.LittleEndian.Uint16(page[14:])
	if upper == 0 && isZero(page) {
		return true, 0, 0
	}
	got, want = binary.LittleEndian.Uint16(page[8:]), PageChecksum(page, blkno)
	// PostgreSQL takes a page without pd_upper for an unused one, and one with
	// something else in it for damage whatever its checksum (bufpage.c).
	return got == want && upper != 0, got, want
}

func isZero(b []byte) bool {
	var or uint64
	for ; len(b) >= 8; b = b[8:] {
		or |= binary.LittleEndian.Uint64(b)
	}
	for _, c := range b {
		or |= uint64(c)
	}
	return or == 0
}

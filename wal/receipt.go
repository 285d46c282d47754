package wal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/zeebo/blake3"
)

// A receipt is kept beside a prefetched file, and says what was proven of it.
// It is local and of no use once the file has been delivered, so a later version
// may write another form and fetch what it doesn't understand again.
//
//	 0  72  the identity, as at the head of the object (docs/format.md, section 9)
//	72   8  the archive: the first bytes of the BLAKE3 of its URL
//	80   4  CRC-32C of the content
//	84   4  CRC-32C of the bytes before
type receipt struct {
	id      Identity
	archive [8]byte
	sum     uint32
}

const (
	receiptSize  = 88
	archiveAt    = HeaderSize
	sumAt        = archiveAt + 8
	receiptSumAt = sumAt + 4
)

func (r receipt) MarshalBinary() ([]byte, error) {
	b, err := r.id.MarshalBinary()
	if err != nil {
		return nil, err
	}
	b = append(b, r.archive[:]...)
	b = binary.LittleEndian.AppendUint32(b, r.sum)
	return binary.LittleEndian.AppendUint32(b, checksum(0, b)), nil
}

func (r *receipt) UnmarshalBinary(b []byte) error {
	if len(b) != receiptSize || binary.LittleEndian.Uint32(b[receiptSumAt:]) != checksum(0, b[:receiptSumAt]) {
		return fmt.Errorf("wal: %d bytes that are no receipt of a prefetched file", len(b))
	}
	var got receipt
	if err := got.id.UnmarshalBinary(b[:HeaderSize]); err != nil {
		return err
	}
	got.archive = [8]byte(b[archiveAt:sumAt])
	got.sum = binary.LittleEndian.Uint32(b[sumAt:])
	*r = got
	return nil
}

// checksum goes on with a CRC-32C.
func checksum(sum uint32, b []byte) uint32 {
	return crc32.Update(sum, crc32.MakeTable(crc32.Castagnoli), b)
}

// archiveDigest tells archives apart.
func archiveDigest(url string) [8]byte {
	sum := blake3.Sum256([]byte(url))
	return [8]byte(sum[:8])
}

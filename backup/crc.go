package backup

import "hash/crc32"

// castagnoli is the polynomial of CRC-32C, bits reflected.
const castagnoli = crc32.Castagnoli

// combineCRC returns the CRC-32C of two runs of bytes put together, from the
// CRC of each and the length of the second. Extents of a file are read side by
// side; PostgreSQL's backup_manifest wants one sum of the whole.
func combineCRC(first, second uint32, length int64) uint32 {
	return multiplyCRC(powerCRC(length), first) ^ second
}

// multiplyCRC multiplies two polynomials modulo the CRC's.
func multiplyCRC(a, b uint32) uint32 {
	var product uint32
	for bit := uint32(1) << 31; bit != 0; bit >>= 1 {
		if a&bit != 0 {
			product ^= b
		}
		b = b>>1 ^ castagnoli&-(b&1)
	}
	return product
}

// powerCRC returns x to the power of 8*n modulo the CRC's polynomial: what n
// zero bytes after some others do to their CRC.
func powerCRC(n int64) uint32 {
	power := uint32(1) << 31  // x^0
	square := uint32(1) << 23 // x^8
	for ; n > 0; n >>= 1 {
		if n&1 != 0 {
			power = multiplyCRC(square, power)
		}
		square = multiplyCRC(square, square)
	}
	return power
}

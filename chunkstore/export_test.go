package chunkstore

import "wal-e/internal/chunk"

// What fuzz tests and the golden files need from inside.

func ParseList(b []byte) (List, []byte, error) { return parseList(b) }

func AppendList(dst []byte, l List) []byte { return appendList(dst, l) }

func CRC(b []byte) uint32 { return crc(b) }

// DecodeRecord decodes one record.
func DecodeRecord(b []byte) (data []byte, lengths []uint32, err error) {
	dec, err := newDecoder()
	if err != nil {
		return nil, nil, err
	}
	defer dec.Close()
	return decodeRecord(b, dec, nil)
}

func ParseFooter(b []byte) (length, sum uint32, err error) { return parseFooter(b, 0) }

// ID returns the chunk id of b under the store's key.
func (s *Store) ID(b []byte) chunk.ID { return s.hasher.Clone().Sum(b) }

// CheckPackBytes compares the checksums of a whole pack.
func CheckPackBytes(b []byte) error { return checkPack(b) }

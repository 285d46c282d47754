package chunkstore

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/klauspost/compress/zstd"

	"wal-e/index"
	"wal-e/internal/chunk"
	"wal-e/internal/fault"
)

// A pack is a header, records that can be found one after the other, the
// pack's directory, and a footer by which the directory is found from the end:
//
//	header   0  8  magic "WALEPACK"
//	         8  4  format version, 1
//	        12  4  reserved, 0
//	record   0  4  magic "WREC"
//	         4  1  flags: bit 0 zstd, bit 1 sealed (see seal.go)
//	         5  1  kind: 0 data, 1 nodes
//	         6  2  number of chunks n
//	         8  4  number of the record in its pack, from 0
//	        12  4  reserved, 0
//	        16  4  bytes of the chunks together
//	        20  4  bytes of the payload that follows the header
//	        24  4  CRC-32C of the payload
//	        28  4  CRC-32C of the 28 bytes before
//	        32     payload: n lengths of 4 bytes, then the chunks, as one zstd
//	               frame when bit 0 is set
//	footer   0  4  bytes of the directory before it
//	         4  4  CRC-32C of the directory
//	         8  4  flags: bit 1 sealed
//	        12  4  reserved, 0
//	        16  8  magic "WALEPEND"
//
// Numbers are little-endian. The directory is as index.AppendPack writes it.
const (
	packMagic    = "WALEPACK"
	packVersion  = 1
	packHeader   = 16
	recordMagic  = "WREC"
	recordHeader = 32
	footerSize   = 24
	footerMagic  = "WALEPEND"

	flagZstd = 1

	kindData = 0
	kindNode = 1

	// blockSize is how many bytes of neighbouring chunks are compressed
	// together: worth 15 to 25 % of the stored bytes beside chunks alone.
	blockSize = 256 << 10
	// maxBlockChunks keeps the number of chunks within its field.
	maxBlockChunks = 4096
	// maxRaw bounds a record's chunks together: one chunk of the largest size,
	// or a full block and the chunk that overfilled it.
	maxRaw = chunk.MaxSize + blockSize
)

// errNewer is wrapped when bytes are whole, but of a form that came later.
var errNewer = fault.Newer.Errorf("this program doesn't know them: use a newer wal-e")

func crc(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// A block is neighbouring new chunks before they become a record.
type block struct {
	kind   byte
	chunks []index.Chunk
	data   []byte
}

func (b *block) add(id chunk.ID, data []byte) {
	b.chunks = append(b.chunks, index.Chunk{ID: id, Length: uint32(len(data))})
	b.data = append(b.data, data...)
}

func (b *block) full() bool {
	return len(b.data) >= blockSize || len(b.chunks) >= maxBlockChunks
}

// encode returns the record of b but for its number, which the pack gives.
func (b *block) encode(enc *zstd.Encoder) []byte {
	out := make([]byte, recordHeader, recordHeader+4*len(b.chunks)+len(b.data)/2)
	for _, c := range b.chunks {
		out = binary.LittleEndian.AppendUint32(out, c.Length)
	}
	body := len(out)
	flags := byte(flagZstd)
	out = enc.EncodeAll(b.data, out)
	if len(out)-body >= len(b.data) {
		flags = 0
		out = append(out[:body], b.data...)
	}
	copy(out, recordMagic)
	out[4], out[5] = flags, b.kind
	binary.LittleEndian.PutUint16(out[6:], uint16(len(b.chunks)))
	binary.LittleEndian.PutUint32(out[16:], uint32(len(b.data)))
	binary.LittleEndian.PutUint32(out[20:], uint32(len(out)-recordHeader))
	binary.LittleEndian.PutUint32(out[24:], crc(out[recordHeader:]))
	return out
}

// A packBuffer collects records until they make a pack.
type packBuffer struct {
	seq uint32
	buf []byte
	dir index.Pack

	sealer *packSealer // nil: plain
}

// newPackBuffer begins a pack of a run.
func newPackBuffer(seq uint32, size int, run *runSealer) *packBuffer {
	header, sealer := run.pack(seq)
	return &packBuffer{seq: seq, buf: append(make([]byte, 0, max(size, len(header))), header...), sealer: sealer}
}

// add appends an encoded record.
func (p *packBuffer) add(record []byte, chunks []index.Chunk) {
	n := uint32(len(p.dir.Records))
	binary.LittleEndian.PutUint32(record[8:], n)
	record = p.sealer.record(record, n)
	binary.LittleEndian.PutUint32(record[28:], crc(record[:28]))
	p.dir.Records = append(p.dir.Records, index.Record{
		Offset: uint32(len(p.buf)), Stored: uint32(len(record)), Chunks: chunks,
	})
	p.buf = append(p.buf, record...)
}

// finish appends the directory and the footer and returns the pack.
func (p *packBuffer) finish() ([]byte, index.Pack) {
	p.dir.Seq = p.seq
	// The directory holds the size of the pack that holds the directory. With
	// the size left out its encoding is at most 5 bytes off; settle it.
	size := uint32(len(p.buf) + footerSize)
	overhead := 0
	if p.sealer != nil {
		overhead = sealedOverhead
	}
	for {
		p.dir.Size = size
		if n := uint32(len(p.buf) + len(index.AppendPack(nil, p.dir)) + overhead + footerSize); n != size {
			size = n
			continue
		}
		break
	}
	start := len(p.buf)
	foot := make([]byte, footerSize)
	p.buf = index.AppendPack(p.buf, p.dir)
	if p.sealer != nil {
		p.buf = p.sealer.dir.Seal(p.buf[:start], 0, nil, p.buf[start:])
		binary.LittleEndian.PutUint32(foot[8:], flagSealed)
	}
	dir := p.buf[start:]
	binary.LittleEndian.PutUint32(foot, uint32(len(dir)))
	binary.LittleEndian.PutUint32(foot[4:], crc(dir))
	copy(foot[16:], footerMagic)
	p.buf = append(p.buf, foot...)
	return p.buf, p.dir
}

// A recordInfo is a record's parsed header.
type recordInfo struct {
	flags, kind byte
	chunks      int
	number      uint32
	raw, stored uint32 // bytes of the chunks, and of the payload
	sum         uint32
}

func parseRecordHeader(b []byte) (recordInfo, error) {
	if len(b) < recordHeader || string(b[:4]) != recordMagic {
		return recordInfo{}, fmt.Errorf("%w: no record header", ErrDamaged)
	}
	if crc(b[:28]) != binary.LittleEndian.Uint32(b[28:]) {
		return recordInfo{}, fmt.Errorf("%w: checksum of a record header differs", ErrDamaged)
	}
	r := recordInfo{
		flags: b[4], kind: b[5],
		chunks: int(binary.LittleEndian.Uint16(b[6:])),
		number: binary.LittleEndian.Uint32(b[8:]),
		raw:    binary.LittleEndian.Uint32(b[16:]),
		stored: binary.LittleEndian.Uint32(b[20:]),
		sum:    binary.LittleEndian.Uint32(b[24:]),
	}
	if r.flags&^(flagZstd|flagSealed) != 0 || binary.LittleEndian.Uint32(b[12:]) != 0 {
		return recordInfo{}, fmt.Errorf("record has flags %#x: %w", r.flags, errNewer)
	}
	if r.raw > maxRaw || uint64(r.stored) < 4*uint64(r.chunks) {
		return recordInfo{}, fmt.Errorf("%w: record of %d chunks, %d bytes in %d", ErrDamaged, r.chunks, r.raw, r.stored)
	}
	return r, nil
}

// decodeRecord checks and unpacks a whole record, header first, and returns
// its chunks one after the other and the length of each.
// o opens what is sealed.
func decodeRecord(b []byte, dec *zstd.Decoder, o *opener) (data []byte, lengths []uint32, err error) {
	r, err := parseRecordHeader(b)
	if err != nil {
		return nil, nil, err
	}
	if uint64(len(b)) != recordHeader+uint64(r.stored) {
		return nil, nil, fmt.Errorf("%w: record of %d bytes, %d announced", ErrDamaged, len(b), recordHeader+uint64(r.stored))
	}
	payload := b[recordHeader:]
	if crc(payload) != r.sum {
		return nil, nil, fmt.Errorf("%w: checksum of a record differs", ErrDamaged)
	}
	if payload, err = o.open(r, b[:recordHeader], payload); err != nil {
		return nil, nil, err
	}
	if len(payload) < 4*r.chunks {
		return nil, nil, fmt.Errorf("%w: record of %d chunks in %d bytes", ErrDamaged, r.chunks, len(payload))
	}
	lengths = make([]uint32, r.chunks)
	var total uint64
	for i := range lengths {
		lengths[i] = binary.LittleEndian.Uint32(payload[4*i:])
		total += uint64(lengths[i])
	}
	if total != uint64(r.raw) {
		return nil, nil, fmt.Errorf("%w: chunks of %d bytes in a record of %d", ErrDamaged, total, r.raw)
	}
	data = payload[4*r.chunks:]
	if r.flags&flagZstd != 0 {
		// The buffer is as long as the announced length, and the decoder is
		// bounded, so a forged frame can't make it grow.
		if data, err = dec.DecodeAll(data, make([]byte, 0, r.raw)); err != nil {
			return nil, nil, fmt.Errorf("%w: %w", ErrDamaged, err)
		}
	}
	if len(data) != int(r.raw) {
		return nil, nil, fmt.Errorf("%w: record unpacks to %d bytes, %d announced", ErrDamaged, len(data), r.raw)
	}
	return data, lengths, nil
}

// parseFooter returns the length of the directory that a footer ends, and its
// checksum. want are the flags that it must have.
func parseFooter(b []byte, want uint32) (length, sum uint32, err error) {
	if len(b) != footerSize || string(b[16:]) != footerMagic {
		return 0, 0, fmt.Errorf("%w: pack has no footer", ErrDamaged)
	}
	flags := binary.LittleEndian.Uint32(b[8:])
	if want != 0 && (flags != want || binary.LittleEndian.Uint32(b[12:]) != 0) {
		return 0, 0, fmt.Errorf("%w: footer of an encrypted pack has flags %#x", ErrDamaged, flags)
	}
	if reserved := binary.LittleEndian.Uint32(b[12:]); flags != want || reserved != 0 {
		return 0, 0, fmt.Errorf("pack has flags %#x, and %#x where nothing belongs: %w", flags, reserved, errNewer)
	}
	return binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:]), nil
}

package index

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"wal-e/internal/chunk"
	"wal-e/internal/fault"
	"wal-e/internal/runid"
)

// A PackID names a pack: the run that wrote it and its number in that run.
type PackID struct {
	Run runid.ID
	Seq uint32
}

func (p PackID) String() string { return fmt.Sprintf("%s/%08d", p.Run, p.Seq) }

// A Chunk is one chunk of a record.
type Chunk struct {
	ID     chunk.ID
	Length uint32 // bytes
}

// A Record is what a directory tells of one record: where it is, and the
// chunks whose bytes follow each other in it.
type Record struct {
	Offset uint32 // of the record's header within the pack
	Stored uint32 // bytes from header to end
	Raw    uint32 // bytes of its chunks together
	Chunks []Chunk
}

// A Pack is the directory of one pack.
type Pack struct {
	Seq     uint32
	Size    uint32 // bytes of the whole object
	Records []Record
}

// Limits that readers hold before they allocate.
const (
	MaxPackSize   = 1 << 30 // bytes of a pack
	MaxObjectSize = 256 << 20
	maxRecords    = 1 << 22
	maxChunks     = 1 << 16 // of one record
)

// ErrDamaged is wrapped when encoded bytes aren't what was written.
var ErrDamaged = errors.New("index is damaged")

// AppendPack appends the encoding of p to dst:
//
//	uvarint seq, size, number of records
//	each record: uvarint offset, stored, number of chunks
//	             each chunk: 16 bytes id, uvarint length
func AppendPack(dst []byte, p Pack) []byte {
	dst = binary.AppendUvarint(dst, uint64(p.Seq))
	dst = binary.AppendUvarint(dst, uint64(p.Size))
	dst = binary.AppendUvarint(dst, uint64(len(p.Records)))
	for _, r := range p.Records {
		dst = binary.AppendUvarint(dst, uint64(r.Offset))
		dst = binary.AppendUvarint(dst, uint64(r.Stored))
		dst = binary.AppendUvarint(dst, uint64(len(r.Chunks)))
		for _, c := range r.Chunks {
			dst = append(dst, c.ID[:]...)
			dst = binary.AppendUvarint(dst, uint64(c.Length))
		}
	}
	return dst
}

// ParsePack parses one pack from the beginning of b and returns the rest.
func ParsePack(b []byte) (Pack, []byte, error) {
	d := decoder{b: b}
	p := Pack{Seq: d.uint32(1<<32 - 1), Size: d.uint32(MaxPackSize)}
	n := d.uint32(maxRecords)
	if d.err == nil && int(n) > len(d.b)/3 { // a record takes at least three bytes
		return Pack{}, nil, fmt.Errorf("%w: %d records in %d bytes", ErrDamaged, n, len(d.b))
	}
	p.Records = make([]Record, 0, n)
	for i := uint32(0); i < n && d.err == nil; i++ {
		p.Records = append(p.Records, d.record(p.Size))
	}
	if d.err != nil {
		return Pack{}, nil, d.err
	}
	return p, d.b, nil
}

// A decoder reads from b until an error stops it.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) uint32(limit uint64) uint32 {
	if d.err != nil {
		return 0
	}
	v, n := binary.Uvarint(d.b)
	if n <= 0 || v > limit {
		d.err = fmt.Errorf("%w: number %d is cut short or above %d", ErrDamaged, v, limit)
		return 0
	}
	d.b = d.b[n:]
	return uint32(v)
}

func (d *decoder) record(packSize uint32) Record {
	r := Record{Offset: d.uint32(uint64(packSize)), Stored: d.uint32(uint64(packSize))}
	n := d.uint32(maxChunks)
	if d.err != nil {
		return r
	}
	if uint64(r.Offset)+uint64(r.Stored) > uint64(packSize) {
		d.err = fmt.Errorf("%w: record ends at %d in a pack of %d bytes", ErrDamaged, uint64(r.Offset)+uint64(r.Stored), packSize)
		return r
	}
	if int(n) > len(d.b)/(chunk.HashSize+1) {
		d.err = fmt.Errorf("%w: %d chunks in %d bytes", ErrDamaged, n, len(d.b))
		return r
	}
	r.Chunks = make([]Chunk, n)
	var raw uint64
	for i := range r.Chunks {
		if len(d.b) < chunk.HashSize {
			d.err = fmt.Errorf("%w: chunk id is cut short", ErrDamaged)
			return r
		}
		copy(r.Chunks[i].ID[:], d.b)
		d.b = d.b[chunk.HashSize:]
		r.Chunks[i].Length = d.uint32(chunk.MaxSize)
		raw += uint64(r.Chunks[i].Length)
	}
	if d.err == nil && raw > MaxPackSize {
		d.err = fmt.Errorf("%w: record of %d bytes", ErrDamaged, raw)
	}
	r.Raw = uint32(raw)
	return r
}

// Index objects: magic, flags, length, body, checksum.
const (
	objectMagic  = "WALEIDX1"
	objectHeader = 8 + 4 + 4 + 4 // magic, flags, key id, body length

	flagSealed = 2
)

// EncodeObject writes the index object that lists packs:
//
//	 0  8  magic "WALEIDX1"
//	 8  4  flags, little-endian: bit 0 reserved, bit 1 sealed
//	12  4  reserved, 0
//	16  4  length of the body, little-endian
//	20  n  body: uvarint number of packs, then each as AppendPack writes it
//	 …  4  CRC-32C of all before, little-endian
func EncodeObject(packs []Pack) []byte {
	return encodeObject(appendPacks(make([]byte, objectHeader, objectHeader+1024), packs), 0)
}

// EncodeSealed writes an index object whose body is what seal makes of it.
// What it returns is the argument of the same name in DecodeSealed.
func EncodeSealed(packs []Pack, seal func(body []byte) []byte) []byte {
	return encodeObject(append(make([]byte, objectHeader), seal(appendPacks(nil, packs))...), flagSealed)
}

func appendPacks(dst []byte, packs []Pack) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(packs)))
	for _, p := range packs {
		dst = AppendPack(dst, p)
	}
	return dst
}

// encodeObject fills in the header before the body, and appends the checksum.
func encodeObject(out []byte, flags uint32) []byte {
	copy(out, objectMagic)
	binary.LittleEndian.PutUint32(out[8:], flags)
	binary.LittleEndian.PutUint32(out[16:], uint32(len(out)-objectHeader))
	return binary.LittleEndian.AppendUint32(out, crc32.Checksum(out, crc32.MakeTable(crc32.Castagnoli)))
}

// DecodeObject reads what EncodeObject wrote.
func DecodeObject(b []byte) ([]Pack, error) {
	body, err := objectBody(b, 0)
	if err != nil {
		return nil, err
	}
	return parsePacks(body)
}

// DecodeSealed reads what EncodeSealed wrote. An error of open is returned as
// it is.
func DecodeSealed(b []byte, open func(sealed []byte) ([]byte, error)) ([]Pack, error) {
	sealed, err := objectBody(b, flagSealed)
	if err != nil {
		return nil, err
	}
	body, err := open(sealed)
	if err != nil {
		return nil, err
	}
	return parsePacks(body)
}

// objectBody returns the body of an index object that has these flags.
func objectBody(b []byte, flags uint32) ([]byte, error) {
	if len(b) < objectHeader+4 || string(b[:8]) != objectMagic {
		return nil, fmt.Errorf("%w: no index object", ErrDamaged)
	}
	end := len(b) - 4
	if sum := crc32.Checksum(b[:end], crc32.MakeTable(crc32.Castagnoli)); sum != binary.LittleEndian.Uint32(b[end:]) {
		return nil, fmt.Errorf("%w: checksum differs", ErrDamaged)
	}
	switch got := binary.LittleEndian.Uint32(b[8:]); {
	case got == flags:
	case got == flagSealed:
		return nil, fault.BadMessage.Errorf("index object is encrypted, and the run that wrote it isn't")
	case got == 0:
		return nil, fmt.Errorf("%w: it isn't encrypted, and the run that wrote it is", ErrDamaged)
	default:
		return nil, fault.Newer.Errorf("index object has flags %#x that this program doesn't know: use a newer wal-e", got)
	}
	if n := binary.LittleEndian.Uint32(b[16:]); int(n) != end-objectHeader {
		return nil, fmt.Errorf("%w: body of %d bytes, %d announced", ErrDamaged, end-objectHeader, n)
	}
	return b[objectHeader:end], nil
}

func parsePacks(body []byte) ([]Pack, error) {
	d := decoder{b: body}
	n := d.uint32(uint64(len(d.b)))
	var packs []Pack
	for i := uint32(0); i < n && d.err == nil; i++ {
		var p Pack
		p, d.b, d.err = ParsePack(d.b)
		packs = append(packs, p)
	}
	if d.err == nil && len(d.b) != 0 {
		d.err = fmt.Errorf("%w: %d bytes too many", ErrDamaged, len(d.b))
	}
	if d.err != nil {
		return nil, d.err
	}
	return packs, nil
}

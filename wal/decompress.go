package wal

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"

	"wal-e/internal/postgres"
)

const (
	// maxPiece is how much plaintext a frame may hold. It bounds what a reader
	// allocates; new frames hold pieceSize.
	maxPiece = 4 << 20

	zstdMagic    = 0xFD2FB528
	maxBlockSize = 128 << 10 // of zstd's format

	// The frame header descriptor: one segment with a checksum, no dictionary,
	// reserved and unused bits zero. The two highest bits tell how many bytes
	// the content size takes.
	descriptor     = 0x24
	descriptorMask = 0x3F
)

// A frameReader reads an object's frames one by one, and decompresses them.
type frameReader struct {
	r     *bufio.Reader
	dec   *zstd.Decoder
	frame []byte // as stored
}

// An expectation is what the key of an object says of it. Zero fields expect
// nothing.
type expectation struct {
	system postgres.SystemID
	name   string
}

// decode hands the plaintext of the object r to sink, piece by piece, and returns
// the object's identity once it is proven that the pieces were exactly what that
// says, and that they are what was expected. Whatever sink got before an error is
// not to be used.
//
// Errors about the bytes are formatErrors, those of sink are sinkErrors; others
// come from r.
func decode(r io.Reader, want expectation, sink func(piece []byte) error) (Identity, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	id, err := readIdentity(br)
	if err != nil {
		return Identity{}, err
	}
	if want.system != 0 && want.system != id.System {
		return Identity{}, formatError{fmt.Errorf("it is of the system %s", id.System)}
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxPiece))
	if err != nil {
		return Identity{}, err
	}
	defer dec.Close()
	frames := &frameReader{r: br, dec: dec}
	hash := blake3.New()
	var piece []byte
	for left := id.Length; ; left -= int64(len(piece)) {
		piece, err = frames.next(piece[:0], left)
		if err == io.EOF && left > 0 {
			return Identity{}, formatError{fmt.Errorf("it ends %d bytes of plaintext before its length", left)}
		}
		if err != nil && err != io.EOF {
			return Identity{}, err
		}
		if left == id.Length {
			if err := want.check(id, piece); err != nil {
				return Identity{}, formatError{err}
			}
		}
		if err == io.EOF {
			break
		}
		_, _ = hash.Write(piece) // never fails
		if err := sink(piece); err != nil {
			return Identity{}, sinkError{err}
		}
	}
	var f Fingerprint
	if hash.Sum(f[:0]); f != id.Fingerprint {
		return Identity{}, formatError{fmt.Errorf("its content has the fingerprint %s, not %s", f, id.Fingerprint)}
	}
	return id, nil
}

// check compares the first piece of plaintext with what is expected.
func (want expectation) check(id Identity, piece []byte) error {
	system, err := checkContent(want.name, piece, id.Length)
	if err == nil && system != 0 && system != id.System {
		return fmt.Errorf("it holds a segment of the system %s under the identity of %s", system, id.System)
	}
	return err
}

// next appends the content of the next frame to buf, left bytes at most. At the
// end of the object it returns no bytes and io.EOF.
func (f *frameReader) next(buf []byte, left int64) ([]byte, error) {
	size, err := f.read(left)
	if err == io.ErrUnexpectedEOF {
		err = formatError{errors.New("it ends within a zstd frame")}
	}
	if err != nil {
		return nil, err
	}
	plain, err := f.dec.DecodeAll(f.frame, buf)
	if err != nil {
		return nil, formatError{fmt.Errorf("zstd: %w", err)}
	}
	if int64(len(plain)) != size {
		return nil, formatError{fmt.Errorf("a zstd frame of %d bytes says %d", len(plain), size)}
	}
	return plain, nil
}

// read reads one frame, not decompressed, and returns the size of its content.
func (f *frameReader) read(left int64) (int64, error) {
	f.frame = f.frame[:0]
	if _, err := f.r.Peek(1); err != nil {
		return 0, err
	}
	size, err := f.readHeader()
	if err != nil {
		return 0, err
	}
	if size == 0 || size > min(uint64(left), maxPiece) {
		return 0, formatError{fmt.Errorf("a zstd frame of %d bytes where at most %d belong", size, min(left, maxPiece))}
	}
	// Blocks that don't compress are stored as they are.
	limit := int(size) + int(size)/1024 + 64
	for last := false; !last; {
		if last, err = f.readBlock(limit); err != nil {
			return 0, err
		}
	}
	return int64(size), f.take(4) // the frame's checksum
}

// readHeader reads a frame's header and returns the size of its content.
func (f *frameReader) readHeader() (uint64, error) {
	if err := f.take(5); err != nil {
		return 0, err
	}
	if magic := binary.LittleEndian.Uint32(f.frame); magic != zstdMagic {
		return 0, formatError{fmt.Errorf("%08x where a zstd frame should begin", magic)}
	}
	d := f.frame[4]
	if d&descriptorMask != descriptor {
		return 0, formatError{fmt.Errorf("zstd frame descriptor %#02x is none of ours", d)}
	}
	n := 1 << (d >> 6)
	if err := f.take(n); err != nil {
		return 0, err
	}
	var b [8]byte
	copy(b[:], f.frame[5:])
	size := binary.LittleEndian.Uint64(b[:])
	if n == 2 {
		size += 256
	}
	return size, nil
}

// readBlock reads one block of a frame that must not grow beyond limit.
func (f *frameReader) readBlock(limit int) (last bool, err error) {
	const rle, reserved = 1, 3
	if err := f.take(3); err != nil {
		return false, err
	}
	b := f.frame[len(f.frame)-3:]
	header := int(b[0]) | int(b[1])<<8 | int(b[2])<<16
	kind, size := header>>1&3, header>>3
	switch {
	case kind == reserved || size > maxBlockSize:
		return false, formatError{fmt.Errorf("zstd block of kind %d with %d bytes", kind, size)}
	case kind == rle:
		size = 1
	}
	if len(f.frame)+size > limit {
		return false, formatError{errors.New("zstd frame is larger than its content")}
	}
	return header&1 != 0, f.take(size)
}

// take reads n more bytes of the frame.
func (f *frameReader) take(n int) error {
	at := len(f.frame)
	f.frame = append(f.frame, make([]byte, n)...)
	_, err := io.ReadFull(f.r, f.frame[at:])
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// Decode writes the plaintext of the object r to w and returns the object's
// identity. On an error, which a *DamagedError is when it is about the bytes of
// the object, what was written is not to be used. What name says, when not empty,
// must be true of the plaintext.
func Decode(w io.Writer, r io.Reader, name string) (Identity, error) {
	id, err := decode(r, expectation{name: name}, func(piece []byte) error {
		_, err := w.Write(piece)
		return err
	})
	var format formatError
	var sink sinkError
	switch {
	case errors.As(err, &format):
		return Identity{}, &DamagedError{Object: name, Err: format.error}
	case errors.As(err, &sink):
		return Identity{}, sink.error
	}
	return id, err
}

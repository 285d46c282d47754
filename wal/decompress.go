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

// An expectation is what the key of an object says of it. Zero fields expect
// nothing.
type expectation struct {
	system postgres.SystemID
	name   string
	whole  bool // also read what only says the same again
}

// decode hands the plaintext of the object r to sink, piece by piece, and returns
// the object's identity once it is proven that the pieces were exactly what that
// says, and that they are what was expected. Whatever sink got before an error is
// not to be used. At most workers pieces are decompressed at once.
//
// Errors about the bytes are formatErrors, those of sink are sinkErrors; others
// come from r.
func decode(r io.Reader, want expectation, workers int, sink func(piece []byte) error) (Identity, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	id, err := readIdentity(br)
	if err != nil {
		return Identity{}, err
	}
	if want.system != 0 && want.system != id.System {
		return Identity{}, formatError{fmt.Errorf("it is of the system %s", id.System)}
	}
	frames, err := newFrameReader(br, id.Length, workers)
	if err != nil {
		return Identity{}, err
	}
	defer frames.dec.Close()
	hash, first := blake3.New(), true
	err = inOrder(frames.workers, makePieces[piece](frames.workers), frames.next, frames.decompress, func(p *piece) error {
		if first {
			if err := want.check(id, p.plain); err != nil {
				return formatError{err}
			}
			first = false
		}
		_, _ = hash.Write(p.plain) // never fails
		if err := sink(p.plain); err != nil {
			return sinkError{err}
		}
		return nil
	})
	if err != nil {
		return Identity{}, err
	}
	if first {
		if err := want.check(id, nil); err != nil {
			return Identity{}, formatError{err}
		}
	}
	if err := frames.end(); err != nil {
		return Identity{}, err
	}
	var f Fingerprint
	if hash.Sum(f[:0]); f != id.Fingerprint {
		return Identity{}, formatError{fmt.Errorf("its content has the fingerprint %s, not %s", f, id.Fingerprint)}
	}
	return id, nil
}

// check compares the first piece of plaintext with what is expected.
func (want expectation) check(id Identity, head []byte) error {
	system, err := checkContent(want.name, head, id.Length)
	if err == nil && system != 0 && system != id.System {
		return fmt.Errorf("it holds a segment of the system %s under the identity of %s", system, id.System)
	}
	return err
}

// A frameReader reads an object's frames and decompresses them.
type frameReader struct {
	r       *bufio.Reader
	dec     *zstd.Decoder
	workers int
	left    int64 // bytes of plaintext in the frames that follow
}

// A piece is one frame and its content.
type piece struct {
	frame []byte // as stored
	size  int64  // of the content, as the frame says
	plain []byte // the content
}

// newFrameReader returns one for an object of length bytes of plaintext.
func newFrameReader(r *bufio.Reader, length int64, workers int) (*frameReader, error) {
	workers = int(min(int64(workers), max(1, (length+pieceSize-1)/pieceSize)))
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(workers), zstd.WithDecoderMaxMemory(maxPiece))
	if err != nil {
		return nil, err
	}
	return &frameReader{r: r, dec: dec, workers: workers, left: length}, nil
}

// next reads the frame that follows, unless it had the last one.
func (f *frameReader) next(p *piece) (bool, error) {
	if f.left == 0 {
		return false, nil
	}
	if _, err := f.r.Peek(1); err == io.EOF {
		return false, formatError{fmt.Errorf("it ends %d bytes of plaintext before its length", f.left)}
	}
	err := f.read(p, f.left)
	if err == io.ErrUnexpectedEOF {
		err = formatError{errors.New("it ends within a zstd frame")}
	}
	if err != nil {
		return false, err
	}
	f.left -= p.size
	return true, nil
}

// end returns an error unless all of the object was read.
func (f *frameReader) end() error {
	switch _, err := f.r.Peek(1); err {
	case io.EOF:
		return nil
	case nil:
		return formatError{errors.New("it goes on behind its last frame")}
	default:
		return err
	}
}

// decompress fills in the content of a frame.
func (f *frameReader) decompress(p *piece) error {
	var err error
	p.plain, err = f.dec.DecodeAll(p.frame, p.plain[:0])
	switch {
	case err != nil:
		return formatError{fmt.Errorf("zstd: %w", err)}
	case int64(len(p.plain)) != p.size:
		return formatError{fmt.Errorf("a zstd frame of %d bytes says %d", len(p.plain), p.size)}
	}
	return nil
}

// read reads the next frame into p. There may be left bytes of plaintext in it at
// most.
func (f *frameReader) read(p *piece, left int64) error {
	p.frame = p.frame[:0]
	size, err := f.readHeader(p)
	if err != nil {
		return err
	}
	if size == 0 || size > min(uint64(left), maxPiece) {
		return formatError{fmt.Errorf("a zstd frame of %d bytes where at most %d belong", size, min(left, maxPiece))}
	}
	p.size = int64(size)
	// Blocks that don't compress are stored as they are.
	limit := int(size) + int(size)/1024 + 64
	for last := false; !last; {
		if last, err = f.readBlock(p, limit); err != nil {
			return err
		}
	}
	return f.take(p, 4) // the frame's checksum
}

// readHeader reads a frame's header and returns the size of its content.
func (f *frameReader) readHeader(p *piece) (uint64, error) {
	if err := f.take(p, 5); err != nil {
		return 0, err
	}
	if magic := binary.LittleEndian.Uint32(p.frame); magic != zstdMagic {
		return 0, formatError{fmt.Errorf("%08x where a zstd frame should begin", magic)}
	}
	d := p.frame[4]
	if d&descriptorMask != descriptor {
		return 0, formatError{fmt.Errorf("zstd frame descriptor %#02x is none of ours", d)}
	}
	n := 1 << (d >> 6)
	if err := f.take(p, n); err != nil {
		return 0, err
	}
	var b [8]byte
	copy(b[:], p.frame[5:])
	size := binary.LittleEndian.Uint64(b[:])
	if n == 2 {
		size += 256
	}
	return size, nil
}

// readBlock reads one block of a frame that must not grow beyond limit.
func (f *frameReader) readBlock(p *piece, limit int) (last bool, err error) {
	const rle, reserved = 1, 3
	if err := f.take(p, 3); err != nil {
		return false, err
	}
	b := p.frame[len(p.frame)-3:]
	header := int(b[0]) | int(b[1])<<8 | int(b[2])<<16
	kind, size := header>>1&3, header>>3
	switch {
	case kind == reserved || size > maxBlockSize:
		return false, formatError{fmt.Errorf("zstd block of kind %d with %d bytes", kind, size)}
	case kind == rle:
		size = 1
	}
	if len(p.frame)+size > limit {
		return false, formatError{errors.New("zstd frame is larger than its content")}
	}
	return header&1 != 0, f.take(p, size)
}

// take reads n more bytes of the frame.
func (f *frameReader) take(p *piece, n int) error {
	at := len(p.frame)
	p.frame = append(p.frame, make([]byte, n)...)
	_, err := io.ReadFull(f.r, p.frame[at:])
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
	id, err := decode(r, expectation{name: name}, Config{}.workers(), func(piece []byte) error {
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

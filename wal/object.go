package wal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/zeebo/blake3"

	"wal-e/internal/fault"
	"wal-e/internal/postgres"
)

// maxHeld is how much plaintext a file may have for its object to be held in
// memory while it is sent. Larger files are read twice and streamed.
const maxHeld = 64 << 20

// errChanged is wrapped when the local file was written to while it was read.
var errChanged = fault.BadSegment.Errorf("the file changed while it was read")

// An object is what Push stores of a file.
type object struct {
	id   Identity
	body io.ReadSeeker
	size int64 // of body, -1 if unknown
}

// stored returns how long the object is, once it has been stored.
func (o *object) stored() int64 {
	switch b := o.body.(type) {
	case *streamedBody:
		return b.pos
	case *sealedStream:
		return b.pos
	}
	return o.size
}

// newObject makes the object of f, which is size bytes long. A file of up to
// maxHeld bytes is read once, and what was read is what the identity says.
func newObject(ctx context.Context, cfg Config, f io.ReaderAt, size int64, system postgres.SystemID) (*object, error) {
	if size > maxHeld {
		return newStreamed(ctx, cfg, f, size, system)
	}
	held, frames := make([]byte, HeaderSize), 0
	var fingerprint Fingerprint
	err := cfg.use(ctx, size, func(c *compressor) (err error) {
		fingerprint, err = c.compress(ctx, f, size, func(frame []byte) error {
			frames++
			held = growFor(held, frame, (size+pieceSize-1)/pieceSize, frames)
			held = append(held, frame...)
			return nil
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	id := Identity{System: system, Length: size, Fingerprint: fingerprint}
	header, err := id.MarshalBinary()
	if err != nil {
		return nil, err
	}
	copy(held, header)
	return &object{id: id, body: bytes.NewReader(held), size: int64(len(held))}, nil
}

// growFor makes room for a frame, the given one of all, and for those that will
// follow if the file goes on as it began.
func growFor(held, frame []byte, all int64, number int) []byte {
	if len(held)+len(frame) <= cap(held) {
		return held
	}
	return slices.Grow(held, (len(held)+len(frame))/number*int(all)-len(held)+4096)
}

// newStreamed makes the object of a file that is too large to be held.
func newStreamed(ctx context.Context, cfg Config, f io.ReaderAt, size int64, system postgres.SystemID) (*object, error) {
	c, err := newCompressor(cfg, size)
	if err != nil {
		return nil, err
	}
	hash := blake3.New()
	n, err := io.CopyBuffer(hash, contextReader{ctx, io.NewSectionReader(f, 0, size+1)}, make([]byte, pieceSize))
	if err != nil {
		return nil, err
	}
	if n != size {
		return nil, errChanged
	}
	id := Identity{System: system, Length: size}
	hash.Sum(id.Fingerprint[:0])
	header, err := id.MarshalBinary()
	if err != nil {
		return nil, err
	}
	body := &streamedBody{ctx: ctx, c: c, f: f, id: id, header: header}
	body.rewind()
	return &object{id: id, body: body, size: -1}, nil
}

type contextReader struct {
	ctx context.Context // of the Push that reads
	r   io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// A streamedBody is an object made while it is read. It fails instead of
// ending when the file is no more what the header says.
type streamedBody struct {
	ctx    context.Context // of the Push that reads
	c      *compressor
	f      io.ReaderAt
	id     Identity
	header []byte

	src    io.Reader // what is left of f
	hash   *blake3.Hasher
	batch  frameBatch
	part   []byte   // what is left of the header or of a frame
	frames [][]byte // those after it
	pos    int64    // bytes read
	err    error    // what every later Read returns
}

func (b *streamedBody) rewind() {
	b.src, b.hash = contextReader{b.ctx, io.NewSectionReader(b.f, 0, b.id.Length+1)}, blake3.New()
	b.part, b.frames = b.header, nil
	b.pos, b.err = 0, nil
}

func (b *streamedBody) Read(p []byte) (int, error) {
	for len(b.part) == 0 && b.err == nil {
		if len(b.frames) > 0 {
			b.part, b.frames = b.frames[0], b.frames[1:]
			continue
		}
		b.frames, b.err = b.batch.read(b.c, b.src, b.hash)
		if b.err == io.EOF {
			var f Fingerprint
			if b.hash.Sum(f[:0]); f != b.id.Fingerprint {
				b.err = errChanged
			}
		}
	}
	n := copy(p, b.part)
	b.part = b.part[n:]
	b.pos += int64(n)
	if n > 0 {
		return n, nil
	}
	return 0, b.err
}

// Seek goes back to the beginning, which is all that a retry needs, and tells
// where it is.
func (b *streamedBody) Seek(offset int64, whence int) (int64, error) {
	switch {
	case offset == 0 && whence == io.SeekCurrent:
	case offset == 0 && whence == io.SeekStart:
		b.rewind()
	default:
		return 0, fmt.Errorf("wal: seek to %d from %d: %w", offset, whence, errors.ErrUnsupported)
	}
	return b.pos, nil
}

// A localFile is the file to push, and what it was when it was opened.
type localFile struct {
	*os.File
	info os.FileInfo
}

func openLocal(path string) (*localFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fault.BadSegment.Errorf("%s is not a regular file", path)
	}
	if err != nil {
		_ = f.Close() // nothing was read of it
		return nil, err
	}
	return &localFile{f, info}, nil
}

// unchanged returns an error when the file has been written to since it was
// opened.
func (f *localFile) unchanged() error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() != f.info.Size() || !info.ModTime().Equal(f.info.ModTime()) {
		return errChanged
	}
	return nil
}

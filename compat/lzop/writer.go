package lzop

import (
	"encoding/binary"
	"errors"
	"hash/adler32"
	"io"

	lzo "github.com/rasky/go-lzo"
	"golang.org/x/sync/errgroup"
)

// A Writer writes an lzop file of what it is given. Close ends the file; it
// closes nothing else. A Writer holds a block of plain bytes and one of compressed
// ones for each worker.
type Writer struct {
	w       io.Writer
	header  Header
	began   bool
	packers []*packer
	filled  int // packers with a whole block
	err     error
}

var errClosed = errors.New("lzop: write after close")

// NewWriter returns a writer to w that works on as many blocks at once; workers
// below 1 mean 1. The name in the header is not written: lzop writes none for a
// stream.
func NewWriter(w io.Writer, h Header, workers int) *Writer {
	z := &Writer{w: w, header: h, packers: make([]*packer, max(1, workers))}
	for i := range z.packers {
		z.packers[i] = &packer{}
	}
	return z
}

// Write implements io.Writer.
func (z *Writer) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 && z.err == nil {
		b := z.packers[z.filled]
		if b.plain == nil {
			b.plain = make([]byte, 0, blockSize)
		}
		n := min(len(p), blockSize-len(b.plain))
		b.plain = append(b.plain, p[:n]...)
		p = p[n:]
		written += n
		if len(b.plain) == blockSize {
			if z.filled++; z.filled == len(z.packers) {
				z.err = z.flush(z.packers)
				z.filled = 0
			}
		}
	}
	return written, z.err
}

// Close writes what is left and the end of the file.
func (z *Writer) Close() error {
	if z.err != nil {
		return z.err
	}
	rest := z.packers[:z.filled]
	if z.filled < len(z.packers) && len(z.packers[z.filled].plain) > 0 {
		rest = z.packers[:z.filled+1]
	}
	if z.err = z.flush(rest); z.err != nil {
		return z.err
	}
	_, err := z.w.Write(make([]byte, 4))
	z.err = errClosed
	return err
}

// flush compresses blocks side by side and writes them in order.
func (z *Writer) flush(blocks []*packer) error {
	if !z.began {
		z.began = true
		if _, err := z.w.Write(z.header.marshal()); err != nil {
			return err
		}
	}
	var g errgroup.Group
	for _, b := range blocks {
		if len(blocks) == 1 {
			b.pack()
			continue
		}
		g.Go(func() error { b.pack(); return nil })
	}
	_ = g.Wait() // none fails
	for _, b := range blocks {
		if _, err := z.w.Write(b.head[:]); err != nil {
			return err
		}
		if _, err := z.w.Write(b.packed); err != nil {
			return err
		}
		b.plain = b.plain[:0]
	}
	return nil
}

// A packer compresses one block at a time.
type packer struct {
	plain  []byte
	packed []byte
	head   [12]byte
}

func (b *packer) pack() {
	b.packed = lzo.Compress1X(b.plain)
	if len(b.packed) >= len(b.plain) {
		b.packed = b.plain // stored as it is
	}
	binary.BigEndian.PutUint32(b.head[:], uint32(len(b.plain)))
	binary.BigEndian.PutUint32(b.head[4:], uint32(len(b.packed)))
	binary.BigEndian.PutUint32(b.head[8:], adler32.Checksum(b.plain))
}

package lzop

import (
	"encoding/binary"
	"errors"
	"io"

	lzo "github.com/rasky/go-lzo"
)

// A Writer writes an lzop file of what it is given. Close ends the file; it
// closes nothing else. For each worker, and one more, a Writer holds a block of plain
// bytes and one of compressed ones.
type Writer struct {
	w      io.Writer
	header Header
	began  bool
	// ring is the blocks in their order: those from next on that are being compressed,
	// or are, and after these the one that is filled.
	ring          []*packer
	next, filling int // numbers of blocks, which go on beyond the ring
	err           error
}

var errClosed = errors.New("lzop: write after close")

// NewWriter returns a writer to w that compresses as many blocks at once while it is
// given the next; workers below 1 mean 1. The name in the header is not written: lzop
// writes none for a stream.
func NewWriter(w io.Writer, h Header, workers int) *Writer {
	z := &Writer{w: w, header: h, ring: make([]*packer, max(1, workers)+1)}
	for i := range z.ring {
		z.ring[i] = &packer{done: make(chan struct{}, 1)}
	}
	return z
}

func (z *Writer) block(number int) *packer { return z.ring[number%len(z.ring)] }

// Write implements io.Writer.
func (z *Writer) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 && z.err == nil {
		b := z.block(z.filling)
		if b.plain == nil {
			b.plain = make([]byte, 0, blockSize)
		}
		n := min(len(p), blockSize-len(b.plain))
		b.plain = append(b.plain, p[:n]...)
		p = p[n:]
		written += n
		if len(b.plain) == blockSize {
			z.start()
			if z.filling-z.next == len(z.ring) {
				z.err = z.flush()
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
	if len(z.block(z.filling).plain) > 0 {
		z.start()
	}
	if z.err = z.begin(); z.err != nil {
		return z.err
	}
	for z.next < z.filling {
		if z.err = z.flush(); z.err != nil {
			return z.err
		}
	}
	_, err := z.w.Write(make([]byte, 4))
	z.err = errClosed
	return err
}

// start has the block that was filled compressed.
func (z *Writer) start() {
	b := z.block(z.filling)
	z.filling++
	go func() {
		b.pack()
		b.done <- struct{}{}
	}()
}

// flush waits for the oldest block and writes it.
func (z *Writer) flush() error {
	b := z.block(z.next)
	z.next++
	<-b.done
	if err := z.begin(); err != nil {
		return err
	}
	if _, err := z.w.Write(b.head[:]); err != nil {
		return err
	}
	if _, err := z.w.Write(b.packed); err != nil {
		return err
	}
	b.plain = b.plain[:0]
	return nil
}

// begin writes the header, once.
func (z *Writer) begin() error {
	if z.began {
		return nil
	}
	z.began = true
	_, err := z.w.Write(z.header.marshal())
	return err
}

// A packer compresses one block at a time.
type packer struct {
	plain  []byte
	packed []byte
	head   [12]byte
	done   chan struct{} // has one when the block is packed
}

func (b *packer) pack() {
	b.packed = lzo.Compress1X(b.plain)
	if len(b.packed) >= len(b.plain) {
		b.packed = b.plain // stored as it is
	}
	binary.BigEndian.PutUint32(b.head[:], uint32(len(b.plain)))
	binary.BigEndian.PutUint32(b.head[4:], uint32(len(b.packed)))
	binary.BigEndian.PutUint32(b.head[8:], adler32Sum(b.plain))
}

package lzop

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"

	"golang.org/x/sync/errgroup"
)

// A Reader reads the plain bytes of an lzop file. What it has returned was
// verified; it returns io.EOF only at the proper end. It holds a few blocks for
// each worker and needs no closing.
type Reader struct {
	in      *bufio.Reader
	workers int

	began  bool   // a member was read
	inside bool   // of a member, between blocks
	member member // under way
	number int64  // of the next block, counted over all members

	blocks []*block // read and decompressed, to be handed out
	spare  []*block
	part   []byte // of the first of blocks
	err    error  // what follows them
}

// batchBytes is how much plain data is decompressed at once at most, unless a
// single block has more.
const batchBytes = 8 << 20

// NewReader returns a reader of the lzop file in r that works on as many blocks
// at once; workers below 1 mean 1. It reads nothing yet.
func NewReader(r io.Reader, workers int) *Reader {
	return &Reader{in: bufio.NewReaderSize(r, 64<<10), workers: max(1, workers)}
}

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (int, error) {
	for len(r.part) == 0 {
		if err := r.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.part)
	r.part = r.part[n:]
	return n, nil
}

// WriteTo implements io.WriterTo.
func (r *Reader) WriteTo(w io.Writer) (written int64, err error) {
	for {
		if len(r.part) > 0 {
			n, err := w.Write(r.part)
			written += int64(n)
			r.part = r.part[n:]
			if err != nil {
				return written, err
			}
		}
		if err := r.next(); err == io.EOF {
			return written, nil
		} else if err != nil {
			return written, err
		}
	}
}

// next makes the next block the current part.
func (r *Reader) next() error {
	if len(r.blocks) == 0 {
		if r.err != nil {
			return r.err
		}
		r.fill()
		if len(r.blocks) == 0 {
			return r.err
		}
	}
	b := r.blocks[0]
	r.blocks = r.blocks[1:]
	r.part = b.plain
	r.spare = append(r.spare, b)
	return nil
}

// fill reads blocks and decompresses them side by side. When one is damaged, those
// before it are still handed out.
func (r *Reader) fill() {
	var blocks []*block
	total := 0
	for len(blocks) < 4*r.workers && total < batchBytes {
		b, err := r.read()
		if err != nil {
			r.err = err
			break
		}
		blocks = append(blocks, b)
		total += b.plainLen
	}
	var g errgroup.Group
	g.SetLimit(r.workers)
	for _, b := range blocks {
		if r.workers == 1 || len(blocks) == 1 {
			b.decompress()
			continue
		}
		g.Go(func() error { b.decompress(); return nil })
	}
	_ = g.Wait() // errors are in the blocks
	for i, b := range blocks {
		if b.err != nil {
			r.err = fmt.Errorf("%w: block %d: %w", ErrDamaged, b.number, b.err)
			blocks = blocks[:i]
			break
		}
	}
	r.blocks = blocks
}

// read returns the next block, compressed, or io.EOF.
func (r *Reader) read() (*block, error) {
	for {
		if !r.inside {
			if err := r.begin(); err != nil {
				return nil, err
			}
		}
		b := r.recycled()
		b.number = r.number
		last, err := b.read(r.in, r.member.flags)
		if err != nil {
			return nil, err
		}
		if !last {
			r.number++
			return b, nil
		}
		r.spare = append(r.spare, b)
		r.inside = false
	}
}

// recycled returns a block whose memory may be used again. All of spare was
// handed out and read, but for the last while r.part is of it; fill runs only
// when r.part is empty.
func (r *Reader) recycled() *block {
	if n := len(r.spare); n > 0 {
		b := r.spare[n-1]
		r.spare = r.spare[:n-1]
		return b
	}
	return &block{}
}

// begin reads the header of the next member. Zero bytes after the last one are
// padding, as lzop has it.
func (r *Reader) begin() error {
	magic, err := r.in.Peek(len(Magic))
	switch {
	case err != nil && err != io.EOF:
		return err
	case string(magic) == Magic:
		r.in.Discard(len(Magic)) // it is there
	case !r.began && len(magic) < len(Magic):
		return fmt.Errorf("%w: it has %d bytes", ErrFormat, len(magic))
	case !r.began:
		return fmt.Errorf("%w: it begins with %x", ErrFormat, magic)
	default:
		return r.padding()
	}
	r.began = true
	r.inside = true
	r.member, err = readMember(r.in)
	return err
}

// padding returns io.EOF if only zero bytes follow.
func (r *Reader) padding() error {
	buf := make([]byte, 4096)
	for {
		n, err := r.in.Read(buf)
		if len(bytes.Trim(buf[:n], "\x00")) > 0 {
			return fmt.Errorf("%w: bytes follow its end", ErrDamaged)
		}
		if err != nil {
			return err
		}
	}
}

// A block is one block of a file. Its memory is used again.
type block struct {
	number   int64
	plainLen int
	plain    []byte // the decompressed bytes
	packed   []byte // as they were in the file; not compressed if as long as plainLen

	flags                uint32
	adlerPlain, crcPlain uint32
	adler, crc           uint32 // of packed
	err                  error  // of decompress
}

// read reads a block, or that there is none any more.
func (b *block) read(r *bufio.Reader, flags uint32) (last bool, err error) {
	var word [4]byte
	next := func() uint32 {
		if err == nil {
			_, err = io.ReadFull(r, word[:])
		}
		return binary.BigEndian.Uint32(word[:])
	}
	plain := next()
	if err != nil {
		return false, ended(err)
	}
	switch {
	case plain == 0:
		return true, nil
	case plain == 0xFFFFFFFF:
		return false, fmt.Errorf("%w: it is one part of a file", ErrUnsupported)
	case plain > maxBlockSize:
		return false, fmt.Errorf("%w: block %d says that it holds %d bytes: at most %d are allowed", ErrDamaged, b.number, plain, maxBlockSize)
	}
	packed := next()
	if err == nil && (packed == 0 || packed > plain) {
		return false, fmt.Errorf("%w: block %d says that its %d bytes are %d compressed", ErrDamaged, b.number, plain, packed)
	}
	b.flags, b.plainLen = flags, int(plain)
	if flags&flagAdlerPlain != 0 {
		b.adlerPlain = next()
	}
	if flags&flagCRCPlain != 0 {
		b.crcPlain = next()
	}
	// Of a block that isn't compressed they are not stored.
	if flags&flagAdlerPacked != 0 && packed < plain {
		b.adler = next()
	}
	if flags&flagCRCPacked != 0 && packed < plain {
		b.crc = next()
	}
	if err != nil {
		return false, ended(err)
	}
	b.packed, err = readUpTo(r, b.packed, int(packed))
	return false, ended(err)
}

// readUpTo reads n bytes into buf, which grows as they come: a length alone
// makes nobody allocate much.
func readUpTo(r io.Reader, buf []byte, n int) ([]byte, error) {
	buf = buf[:0]
	for len(buf) < n {
		step := min(n-len(buf), max(1<<20, len(buf)))
		if cap(buf)-len(buf) < step {
			grown := make([]byte, len(buf), len(buf)+step)
			copy(grown, buf)
			buf = grown
		}
		got, err := io.ReadFull(r, buf[len(buf):len(buf)+step])
		buf = buf[:len(buf)+got]
		if err != nil {
			return buf, err
		}
	}
	return buf, nil
}

// maxRatio is more than LZO compresses: a byte stands for at most 255.
const maxRatio = 256

// decompress fills plain and verifies it, or sets err.
func (b *block) decompress() {
	b.err = nil
	compressed := len(b.packed) < b.plainLen
	if compressed {
		if err := b.check("compressed bytes", b.packed, flagAdlerPacked, b.adler, flagCRCPacked, b.crc); err != nil {
			b.err = err
			return
		}
		if b.plainLen > maxRatio*len(b.packed) {
			b.err = errTooShort
			return
		}
		if cap(b.plain) < b.plainLen {
			b.plain = make([]byte, b.plainLen)
		}
		b.plain = b.plain[:b.plainLen]
		if b.err = decompress(b.plain, b.packed); b.err != nil {
			return
		}
	} else {
		b.plain = append(b.plain[:0], b.packed...)
	}
	b.err = b.check("bytes", b.plain, flagAdlerPlain, b.adlerPlain, flagCRCPlain, b.crcPlain)
}

func (b *block) check(what string, data []byte, adlerFlag, adler, crcFlag, crc uint32) error {
	if b.flags&adlerFlag != 0 {
		if sum := adler32Sum(data); sum != adler {
			return fmt.Errorf("the Adler-32 of its %s is %08x, and says %08x", what, sum, adler)
		}
	}
	if b.flags&crcFlag != 0 {
		if sum := crc32.ChecksumIEEE(data); sum != crc {
			return fmt.Errorf("the CRC-32 of its %s is %08x, and says %08x", what, sum, crc)
		}
	}
	return nil
}

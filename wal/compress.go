package wal

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"

	"wal-e/internal/fault"
)

// pieceSize is how much plaintext each zstd frame of a new object holds. Frames
// of their own let several cores work on one file, in both directions; at this
// size they cost one percent of compression on pgbench's WAL, and stay in a core's
// cache.
const pieceSize = 512 << 10

// windowSize is how far back the encoder looks. At the fastest level a larger one
// gains nothing on WAL (0.1 % on pgbench's), and costs memory that each process has
// to be given anew, zeroed.
const windowSize = 256 << 10

// maxWorkers bounds the cores that work on one file when Config doesn't say: the
// database needs them too.
const maxWorkers = 4

// Compression levels of zstd, of which the encoder knows four apart.
const (
	fastestLevel = 1
	maxLevel     = 22
)

// A compressor turns plaintext into zstd frames.
type compressor struct {
	enc     *zstd.Encoder
	level   int
	workers int
	pieces  []frame // what it works on

	zeroOnce sync.Once
	zero     []byte // the frame of a piece of zeros
}

// Compressors are used by one push after the other. They bound how many files are
// compressed at once, however many are on their way.
type Compressors struct {
	free chan *compressor // nil: not made yet
}

// NewCompressors returns n of them, each of which works on a file with one core.
func NewCompressors(n int) *Compressors {
	c := &Compressors{free: make(chan *compressor, n)}
	for range n {
		c.free <- nil
	}
	return c
}

// use calls f with a compressor for files of about the given size, one of
// Config.Compressors if there are any.
func (cfg Config) use(ctx context.Context, size int64, f func(*compressor) error) error {
	if cfg.Compressors == nil {
		c, err := newCompressor(cfg, size)
		if err != nil {
			return err
		}
		return f(c)
	}
	var c *compressor
	select {
	case c = <-cfg.Compressors.free:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { cfg.Compressors.free <- c }()
	if level, err := cfg.level(); err != nil {
		return err
	} else if c == nil || c.level != level {
		cfg.Workers = 1
		if c, err = newCompressor(cfg, size); err != nil {
			return err
		}
	}
	return f(c)
}

func (cfg Config) level() (int, error) {
	switch {
	case cfg.Level < 0 || cfg.Level > maxLevel:
		return 0, fault.BadSetting.Errorf("wal: zstd level %d is not within 1 and %d", cfg.Level, maxLevel)
	case cfg.Level == 0:
		return fastestLevel, nil
	}
	return cfg.Level, nil
}

// newCompressor returns a compressor for files of about the given size.
func newCompressor(cfg Config, size int64) (*compressor, error) {
	level, err := cfg.level()
	if err != nil {
		return nil, err
	}
	pieces := max(1, (size+pieceSize-1)/pieceSize)
	workers := int(min(int64(cfg.workers()), pieces))
	window := pieceSize // a larger one is of no use
	if level == fastestLevel {
		window = windowSize
	}
	enc, err := zstd.NewWriter(nil,
		zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)),
		zstd.WithEncoderConcurrency(workers),
		zstd.WithWindowSize(window),
		zstd.WithLowerEncoderMem(true),
		zstd.WithSingleSegment(true))
	if err != nil {
		return nil, fmt.Errorf("wal: zstd level %d: %w", level, err)
	}
	return &compressor{enc: enc, level: level, workers: workers, pieces: makePieces[frame](workers)}, nil
}

func (cfg Config) workers() int {
	if cfg.Workers > 0 {
		return cfg.Workers
	}
	return min(maxWorkers, runtime.GOMAXPROCS(0))
}

// encode appends the frame of a piece to dst. The unwritten end of a segment that
// was switched early is zeros, whose frame is made once.
func (c *compressor) encode(piece, dst []byte) []byte {
	if len(piece) < pieceSize || !isZero(piece) {
		return c.enc.EncodeAll(piece, dst)
	}
	c.zeroOnce.Do(func() { c.zero = c.enc.EncodeAll(piece, nil) })
	return append(dst, c.zero...)
}

func isZero(b []byte) bool {
	const head = 64
	return bytes.Equal(b[:head], make([]byte, head)) && bytes.Equal(b[head:], b[:len(b)-head])
}

// A frame is one piece of a file, and what became of it.
type frame struct {
	plain  []byte
	stored []byte
}

// compress hands the frames of src, which has size bytes, to sink, one after the
// other, and returns the fingerprint of what was read. It is an error when there
// are more or fewer.
func (c *compressor) compress(ctx context.Context, src io.ReaderAt, size int64, sink func(stored []byte) error) (Fingerprint, error) {
	hash, at := blake3.New(), int64(0)
	err := inOrder(c.workers, c.pieces, func(f *frame) (bool, error) {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		if want := min(pieceSize, size+1); int64(cap(f.plain)) < want {
			f.plain = make([]byte, want)
		}
		f.plain = f.plain[:min(pieceSize, cap(f.plain))]
		n, err := src.ReadAt(f.plain, at)
		f.plain, at = f.plain[:n], at+int64(n)
		switch {
		case err != nil && err != io.EOF:
			return false, err
		case at > size:
			return false, errChanged
		}
		return n > 0, nil
	}, func(f *frame) error {
		f.stored = c.encode(f.plain, f.stored[:0])
		return nil
	}, func(f *frame) error {
		_, _ = hash.Write(f.plain) // never fails
		return sink(f.stored)
	})
	if err == nil && at != size {
		err = errChanged
	}
	var f Fingerprint
	hash.Sum(f[:0])
	return f, err
}

// A frameBatch is the frames of some pieces that follow each other.
type frameBatch struct {
	plain  []byte   // as many pieces as there are workers
	frames [][]byte // frames[i] is made of piece i of plain
}

// read returns the frames of what follows in src, and adds it to hash; io.EOF when
// nothing does. They are overwritten by the next call.
func (b *frameBatch) read(c *compressor, src io.Reader, hash *blake3.Hasher) ([][]byte, error) {
	if b.plain == nil {
		b.plain, b.frames = make([]byte, c.workers*pieceSize), make([][]byte, c.workers)
	}
	n, err := io.ReadFull(src, b.plain)
	if err != nil && err != io.ErrUnexpectedEOF {
		return nil, err
	}
	var wg sync.WaitGroup
	pieces := 0
	for rest := b.plain[:n]; len(rest) > 0; pieces++ {
		piece, i := rest[:min(pieceSize, len(rest))], pieces
		rest = rest[len(piece):]
		wg.Go(func() { b.frames[i] = c.encode(piece, b.frames[i][:0]) })
	}
	_, _ = hash.Write(b.plain[:n]) // never fails
	wg.Wait()
	return b.frames[:pieces], nil
}

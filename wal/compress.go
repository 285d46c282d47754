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
)

// pieceSize is how much plaintext each zstd frame of a new object holds. Frames
// of their own let several cores work on one file, in both directions; at this
// size they cost half a percent of compression on pgbench's WAL.
const pieceSize = 1 << 20

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

// A compressor turns plaintext into zstd frames, and fingerprints it.
type compressor struct {
	enc     *zstd.Encoder
	workers int
	plain   []byte   // as many pieces as there are workers
	frames  [][]byte // frames[i] is made of piece i of plain

	zeroOnce sync.Once
	zero     []byte // the frame of a piece of zeros
}

// newCompressor returns a compressor for files of about the given size.
func newCompressor(cfg Config, size int64) (*compressor, error) {
	level := cfg.Level
	if level == 0 {
		level = fastestLevel
	}
	if level < 0 || level > maxLevel {
		return nil, fmt.Errorf("wal: zstd level %d is not within 1 and %d", level, maxLevel)
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
	return &compressor{
		enc:     enc,
		workers: workers,
		plain:   make([]byte, min(int64(workers)*pieceSize, max(size, 1))),
		frames:  make([][]byte, workers),
	}, nil
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

// A stream is the frames of one file.
type stream struct {
	ctx    context.Context // of the Push that reads it
	c      *compressor
	src    io.Reader
	hash   *blake3.Hasher
	length int64 // bytes of plaintext so far
}

func (c *compressor) stream(ctx context.Context, src io.Reader) *stream {
	return &stream{ctx: ctx, c: c, src: src, hash: blake3.New()}
}

// next returns the frames of the pieces that follow, and io.EOF when there are
// none. They are overwritten by the next call of any stream of the compressor.
func (s *stream) next() ([][]byte, error) {
	if err := s.ctx.Err(); err != nil {
		return nil, err
	}
	n, err := io.ReadFull(s.src, s.c.plain)
	if err != nil && err != io.ErrUnexpectedEOF {
		return nil, err
	}
	batch := s.c.plain[:n]
	s.length += int64(n)

	var wg sync.WaitGroup
	pieces := 0
	for rest := batch; len(rest) > 0; pieces++ {
		piece, i := rest[:min(pieceSize, len(rest))], pieces
		rest = rest[len(piece):]
		wg.Go(func() { s.c.frames[i] = s.c.encode(piece, s.c.frames[i][:0]) })
	}
	// The hash takes bytes in their order; it is as fast as the others together.
	_, _ = s.hash.Write(batch) // never fails
	wg.Wait()
	return s.c.frames[:pieces], nil
}

// fingerprint returns that of the plaintext so far.
func (s *stream) fingerprint() Fingerprint {
	var f Fingerprint
	s.hash.Sum(f[:0])
	return f
}

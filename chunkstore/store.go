package chunkstore

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/klauspost/compress/zstd"

	"wal-e/index"
	"wal-e/internal/chunk"
	"wal-e/internal/storage"
)

// A Store is the chunk store of one prefix.
type Store struct {
	bucket storage.Bucket
	prefix *Prefix
	hasher *chunk.Hasher
	cutter *chunk.Cutter
	sealer *sealer // nil: plain
	log    *slog.Logger
}

// Open opens the store that LoadPrefix finds in b, or returns ErrNoPrefix. log
// may be nil.
func Open(ctx context.Context, b storage.Bucket, log *slog.Logger) (*Store, error) {
	p, err := LoadPrefix(ctx, b)
	if err != nil {
		return nil, err
	}
	return New(b, p, log)
}

// New returns the store of a prefix that was loaded or admitted to.
func New(b storage.Bucket, p *Prefix, log *slog.Logger) (*Store, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	h, err := chunk.NewHasher(p.key)
	if err != nil {
		return nil, err
	}
	c, err := chunk.NewCutter(p.Chunking)
	if err != nil {
		return nil, err
	}
	return &Store{bucket: b, prefix: p, hasher: h, cutter: c, log: log}, nil
}

// Bucket returns the bucket that the store is in.
func (s *Store) Bucket() storage.Bucket { return s.bucket }

// Prefix returns the parameters of the store's prefix.
func (s *Store) Prefix() *Prefix { return s.prefix }

// ExtentSize is how many bytes of a file are cut, hashed and listed on their
// own.
func (s *Store) ExtentSize() int { return s.prefix.Chunking.Extent }

func newEncoder() (*zstd.Encoder, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	return enc, nil
}

func newDecoder() (*zstd.Decoder, error) {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxRaw))
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	return dec, nil
}

// Owner names the prefix and the epoch, so that local caches can be told from
// those of others.
func (s *Store) Owner() string { return s.tableOwner() }

// OpenTable opens, or makes, a local index table of this prefix.
func (s *Store) OpenTable(path string) (*index.Table, error) {
	return index.Open(path, s.tableOwner())
}

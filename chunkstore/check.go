package chunkstore

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/zstd"

	"wal-e/index"
	"wal-e/internal/runid"
	"wal-e/internal/seal"
	"wal-e/internal/storage"
)

// CheckIndex reads the index objects of a run and calls visit for each, with
// its key and either what it holds or, when it is damaged, why it can't be
// used.
func (s *Store) CheckIndex(ctx context.Context, run runid.ID, visit func(key string, packs []index.Pack, damage error)) error {
	dir := indexDir + run.String() + "/"
	for o, err := range s.bucket.List(ctx, dir, "") {
		if err != nil {
			return err
		}
		n, ok := parseNumber(strings.TrimPrefix(o.Key, dir))
		if !ok {
			continue
		}
		data, err := storage.ReadAll(ctx, s.bucket, o.Key, index.MaxObjectSize)
		if err != nil {
			return err
		}
		packs, err := s.decodeIndex(index.ObjectID{Run: run, N: n}, data)
		visit(o.Key, packs, err)
	}
	return nil
}

// maxRecord bounds a record in bytes: a record isn't stored compressed when that
// makes it longer.
const maxRecord = recordHeader + 4<<16 + maxRaw + sealedOverhead

// CheckPack reads every byte of a pack, which a listing said to be size bytes
// long. It calls damaged for each record that doesn't hold what the pack's
// directory says, and returns the directory. An error means that the pack as
// a whole couldn't be checked; it is a *PackError when the pack is to blame.
//
// With a host's keys records of encrypted data aren't opened: their checksums are
// compared, and that is all.
//
// It holds one record at a time, not the pack.
func (s *Store) CheckPack(ctx context.Context, p index.PackID, size int64, damaged func(index.Record, error)) (*index.Pack, error) {
	dir, err := s.readDirectory(ctx, p, map[index.PackID]int64{p: size})
	if err == nil {
		err = s.checkRecords(ctx, p, dir, damaged)
	}
	if err == nil {
		return dir, nil
	}
	if isPackDamage(err) {
		return nil, &PackError{Pack: p, URL: s.bucket.URL(), Err: err}
	}
	return nil, fmt.Errorf("read pack %s of %s: %w", PackKey(p), s.bucket.URL(), err)
}

func (s *Store) checkRecords(ctx context.Context, p index.PackID, dir *index.Pack, damaged func(index.Record, error)) (err error) {
	end, err := s.recordsEnd(dir)
	if err != nil {
		return err
	}
	body, err := s.bucket.Get(ctx, PackKey(p), 0, int64(end))
	if err != nil {
		return err
	}
	defer func() {
		if cerr := body.Close(); err == nil && cerr != nil {
			err = cerr
		}
	}()
	c := recordChecker{store: s, in: bufio.NewReaderSize(body, 1<<20)}
	if c.decoder, err = newDecoder(); err != nil {
		return err
	}
	defer c.decoder.Close()
	header, err := c.read(s.sealer.headerSize())
	if err != nil {
		return err
	}
	if c.opener, err = s.checkOpener(p, header); err != nil {
		return err
	}
	for i, r := range dir.Records {
		b, err := c.read(int(r.Stored))
		if err != nil {
			return err
		}
		if err := c.check(b, uint32(i), r); err != nil {
			damaged(r, err)
		}
	}
	return nil
}

// recordsEnd returns where the records end, which fill a pack from its header
// to its directory.
func (s *Store) recordsEnd(dir *index.Pack) (int, error) {
	end := s.sealer.headerSize()
	for i, r := range dir.Records {
		if int64(r.Offset) != int64(end) || r.Stored < recordHeader || r.Stored > maxRecord {
			return 0, fmt.Errorf("%w: record %d has %d bytes at %d, after one that ends at %d", ErrDamaged, i, r.Stored, r.Offset, end)
		}
		end += int(r.Stored)
	}
	if size := end + len(index.AppendPack(nil, *dir)) + s.sealer.overhead() + footerSize; size != int(dir.Size) {
		return 0, fmt.Errorf("%w: records end at %d of %d bytes", ErrDamaged, end, dir.Size)
	}
	return end, nil
}

// A recordChecker reads records one after the other.
type recordChecker struct {
	store   *Store
	in      *bufio.Reader
	decoder *zstd.Decoder
	opener  *opener
	buf     []byte
}

// read returns the next n bytes, which are valid until it is called again.
func (c *recordChecker) read(n int) ([]byte, error) {
	if cap(c.buf) < n {
		c.buf = make([]byte, n)
	}
	_, err := io.ReadFull(c.in, c.buf[:n])
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		err = fmt.Errorf("%w: it is shorter than its directory says", ErrDamaged)
	}
	return c.buf[:n], err
}

// check tells whether b is record number n of its pack and holds the chunks
// that the directory says.
func (c *recordChecker) check(b []byte, n uint32, want index.Record) error {
	r, err := parseRecordHeader(b)
	if err != nil {
		return err
	}
	if r.number != n || r.kind > kindNode {
		return fmt.Errorf("%w: record %d of kind %d where %d belongs", ErrDamaged, r.number, r.kind, n)
	}
	data, lengths, err := decodeRecord(b, c.decoder, c.opener)
	if errors.Is(err, seal.ErrNoPrivateKey) {
		return nil // its checksums were compared before
	}
	if err != nil {
		return err
	}
	if len(lengths) != len(want.Chunks) {
		return fmt.Errorf("%w: record of %d chunks, %d in the directory", ErrDamaged, len(lengths), len(want.Chunks))
	}
	h := c.store.hasher.Clone()
	for i, w := range want.Chunks {
		if lengths[i] != w.Length || h.Sum(data[:w.Length]) != w.ID {
			return fmt.Errorf("%w: chunk %s has other bytes", ErrDamaged, w.ID)
		}
		data = data[w.Length:]
	}
	return nil
}

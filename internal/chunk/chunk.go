// Package chunk says where one chunk of a file ends and the next begins, and
// what a chunk is called.
//
// A chunk is a run of whole 8 KiB pages; only the last chunk of a file may end
// within a page. Its ID is keyed and made of the hashes of its pages, so that
// a list of page hashes kept elsewhere can be proven against the ID without
// reading the data. Cuts are chosen by content, but nothing depends on their
// being chosen again the same way: a list records them.
package chunk

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/zeebo/blake3"
)

// PageSize is the unit of cuts and of page hashes in bytes. It is the page
// size of nearly every PostgreSQL; a server built with another one loses some
// deduplication, nothing else.
const PageSize = 8192

// MaxSize is the largest chunk in bytes, of data and of nodes alike. Readers
// refuse a larger length before they allocate.
const MaxSize = 16 << 20

// HashSize is the length of IDs and page hashes in bytes. An ID can be no
// stronger than the page hashes it is made of, so both have one length; 128
// keyed bits put the chance of any collision among 2^33 chunks (256 TiB) below
// 2^-62.
const HashSize = 16

// An ID names a chunk by its content.
type ID [HashSize]byte

// String returns the ID in lower-case hex.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// ParseID parses 32 hex digits.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 2*HashSize {
		return id, fmt.Errorf("chunk: id %q: want %d hex digits", s, 2*HashSize)
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return id, fmt.Errorf("chunk: id %q: %w", s, err)
	}
	return id, nil
}

// A PageHash is the keyed hash of one page, or of what a file has of its last.
type PageHash [HashSize]byte

// Contexts of the two keys that are derived from a prefix's dedup key.
const (
	pageContext  = "wal-e 006 page hash"
	chunkContext = "wal-e 006 chunk id"
)

// KeySize is the length of a dedup key in bytes.
const KeySize = 32

// A Hasher computes the IDs of one prefix. It is not safe for concurrent use;
// Clone gives each goroutine its own.
type Hasher struct {
	key  [KeySize]byte
	page *blake3.Hasher
	id   *blake3.Hasher
	list []byte
}

// NewHasher returns a Hasher for the dedup key of a prefix.
func NewHasher(key [KeySize]byte) (*Hasher, error) {
	if key == ([KeySize]byte{}) {
		return nil, errors.New("chunk: the dedup key is all zeros")
	}
	h := &Hasher{key: key}
	var err error
	if h.page, err = newKeyed(pageContext, key); err != nil {
		return nil, err
	}
	if h.id, err = newKeyed(chunkContext, key); err != nil {
		return nil, err
	}
	return h, nil
}

func newKeyed(context string, key [KeySize]byte) (*blake3.Hasher, error) {
	var sub [KeySize]byte
	blake3.DeriveKey(context, key[:], sub[:])
	return blake3.NewKeyed(sub[:])
}

// Clone returns a Hasher with the same key for another goroutine.
func (h *Hasher) Clone() *Hasher {
	return &Hasher{key: h.key, page: h.page.Clone(), id: h.id.Clone()}
}

// Pages appends the hashes of b's pages to dst. The last page may be short.
func (h *Hasher) Pages(dst []PageHash, b []byte) []PageHash {
	var sum [32]byte
	for len(b) > 0 {
		n := min(len(b), PageSize)
		h.page.Reset()
		_, _ = h.page.Write(b[:n]) // a hash never fails to write
		dst = append(dst, PageHash(h.page.Sum(sum[:0])[:HashSize]))
		b = b[n:]
	}
	return dst
}

// ID returns the ID of a chunk of length bytes with these page hashes.
func (h *Hasher) ID(length int, pages []PageHash) ID {
	h.list = binary.LittleEndian.AppendUint64(h.list[:0], uint64(length))
	for i := range pages {
		h.list = append(h.list, pages[i][:]...)
	}
	var sum [32]byte
	h.id.Reset()
	_, _ = h.id.Write(h.list) // a hash never fails to write
	return ID(h.id.Sum(sum[:0])[:HashSize])
}

// Sum returns the ID of b.
func (h *Hasher) Sum(b []byte) ID {
	var buf [8]PageHash
	return h.ID(len(b), h.Pages(buf[:0], b))
}

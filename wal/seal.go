package wal

import (
	"bufio"
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/zeebo/blake3"

	"wal-e/internal/fault"
	"wal-e/internal/postgres"
	"wal-e/internal/storage"
)

// An encrypted object is an OpenPGP message whose text is a plain object, so
// that `gpg -d` and `zstd -d` give the file. Before the message stands a packet
// that OpenPGP's readers pass over (tag 61), with the identity:
//
//	 0  1  FD, a packet of tag 61
//	 1  1  bytes that follow, 156
//	 2  8  "WALEWALS"
//	10  8  system identifier
//	18  8  bytes of the file
//	26 16  epoch whose key made the fingerprint
//	42 32  BLAKE3 keyed_hash(key of the epoch, bytes 10 to 25 || BLAKE3-256 of the file || name)
//	74 80  the key of the message, sealed to the epoch; associated data are bytes 2 to 73
//	154 4  CRC-32C of bytes 2 to 153
//
// Whoever has the epoch's key can tell whether a file is the stored one without
// a private key, and whoever hasn't can't try out files. Whoever has opened the
// epoch once opens all its messages without another operation of a private key.
//
// A timeline's history has another such packet after the first, so that hosts
// with the epoch's keys can read it, and tell that one of them wrote it:
//
//	 0  2  FD FF
//	 2  4  bytes that follow, big-endian
//	 6  8  "WALEHIST"
//	14 12  nonce, random
//	26     the file, sealed with AES-256-GCM under the epoch's history key;
//	       associated data are bytes 2 to 73 of the first packet
const (
	sealedHeaderSize = 158
	sealedKeyAt      = 74
	sealedSumAt      = 154
	sealedMagic      = "WALEWALS"
	sealedTag        = 0xFD

	historyHead     = 14
	historyMagic    = "WALEHIST"
	historyOverhead = 12 + 16 // nonce and tag
)

// An Epoch names the key of a keyed fingerprint; that of a fingerprint without
// a key is zero.
type Epoch [16]byte

// EpochKeys are what is known of an epoch: its keyed fingerprints, and how
// timeline histories and the keys of messages are sealed.
type EpochKeys struct {
	Epoch       Epoch
	Fingerprint [32]byte
	History     [32]byte
	// SealKey seals the key of a message to the epoch, with header as associated
	// data; OpenKey opens it. Without the private key it may be nil.
	SealKey func(header []byte, key [32]byte) ([]byte, error)
	OpenKey func(header, sealed []byte) ([32]byte, error)
}

// A Cipher encrypts and decrypts objects. Functions that aren't needed may be
// nil: then what needs them fails.
type Cipher struct {
	// Encrypt returns a writer of text; closing it completes the message in w,
	// whose key is key.
	Encrypt func(w io.Writer, key [32]byte) (io.WriteCloser, error)
	// Decrypt returns the text of a message. It ends with an error unless the
	// message is what was written.
	Decrypt func(ctx context.Context, message io.Reader) (io.ReadCloser, error)
	// Open returns the keys of an epoch with its private key, as often as it is
	// asked, for one operation. When it fails Decrypt is asked; it may be nil, if
	// there are so few messages that it isn't worth its requests. DecryptWith
	// goes with it.
	Open        func(ctx context.Context, epoch Epoch) (*EpochKeys, error)
	DecryptWith func(ctx context.Context, key [32]byte, message io.Reader) (io.ReadCloser, error)
	// Keys are those of all epochs that are known here. New objects have
	// fingerprints of the last.
	Keys []EpochKeys
	// Only refuses what none of Keys proves: plain objects, and encrypted ones
	// of other epochs, which anybody can have made who can write to the archive.
	Only bool
}

// WithCipher returns the bucket as what the functions of this package take it
// for when its objects are, or are to be, encrypted.
func WithCipher(b storage.Bucket, c *Cipher) storage.Bucket { return &cipherBucket{b, c} }

type cipherBucket struct {
	storage.Bucket
	cipher *Cipher
}

// cipherOf returns the cipher of a bucket, an empty one if there is none.
func cipherOf(b storage.Bucket) *Cipher {
	if c, ok := b.(*cipherBucket); ok && c.cipher != nil {
		return c.cipher
	}
	return &Cipher{}
}

// ErrNoEpochKey is wrapped when a file can't be compared with the stored one.
var ErrNoEpochKey = errors.New("the dedup key of the object's epoch isn't on this host")

// ErrBadMessage is what Cipher.Decrypt and its reader wrap when the message isn't
// what was written.
var ErrBadMessage = errors.New("message is damaged")

// key returns the keys of an epoch.
func (c *Cipher) key(epoch Epoch) (EpochKeys, error) {
	for _, k := range c.Keys {
		if k.Epoch == epoch {
			return k, nil
		}
	}
	return EpochKeys{}, fmt.Errorf("epoch %s: %w", hex.EncodeToString(epoch[:]), ErrNoEpochKey)
}

// keyed returns the identity with the keyed fingerprint of an epoch.
func (c *Cipher) keyed(id Identity, name string, epoch Epoch) (Identity, error) {
	k, err := c.key(epoch)
	if err != nil {
		return Identity{}, err
	}
	return k.identity(id, name), nil
}

// identity returns that of a file of that name with a keyed fingerprint. The
// name is in it so that an object isn't taken for another's.
func (k EpochKeys) identity(id Identity, name string) Identity {
	h, err := blake3.NewKeyed(k.Fingerprint[:])
	if err != nil {
		panic("wal: internal error: " + err.Error()) // the key has 32 bytes
	}
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], uint64(id.System))
	binary.LittleEndian.PutUint64(b[8:], uint64(id.Length))
	_, _ = h.Write(b[:])              // never fails
	_, _ = h.Write(id.Fingerprint[:]) // never fails
	_, _ = h.Write([]byte(name))      // never fails
	id.Epoch = k.Epoch
	h.Sum(id.Fingerprint[:0])
	return id
}

// A sealedHeader is the packet before a message.
type sealedHeader [sealedHeaderSize]byte

// header returns the packet of an identity with a keyed fingerprint, before a
// message of that key.
func (k EpochKeys) header(id Identity, key [32]byte) (*sealedHeader, error) {
	b := make([]byte, 0, sealedHeaderSize)
	b = append(b, sealedTag, sealedHeaderSize-2)
	b = append(b, sealedMagic...)
	b = binary.LittleEndian.AppendUint64(b, uint64(id.System))
	b = binary.LittleEndian.AppendUint64(b, uint64(id.Length))
	b = append(append(b, id.Epoch[:]...), id.Fingerprint[:]...)
	sealed, err := k.SealKey(b[2:], key)
	if err != nil {
		return nil, err
	}
	if b = append(b, sealed...); len(b) != sealedSumAt {
		panic("wal: internal error: the sealed key has another length")
	}
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[2:], crc32.MakeTable(crc32.Castagnoli)))
	return (*sealedHeader)(b), nil
}

// said is what the header says of the file, with which other things are sealed.
func (b *sealedHeader) said() []byte { return b[2:sealedKeyAt] }

// parse parses what header wrote.
func (b *sealedHeader) parse() (Identity, error) {
	switch {
	case b[0] != sealedTag || b[1] != sealedHeaderSize-2 || string(b[2:10]) != sealedMagic:
		return Identity{}, errors.New("wal: object begins with no identity header")
	case crc32.Checksum(b[2:sealedSumAt], crc32.MakeTable(crc32.Castagnoli)) != binary.LittleEndian.Uint32(b[sealedSumAt:]):
		return Identity{}, errors.New("wal: identity header has a wrong checksum")
	}
	id := Identity{
		System:      postgres.SystemID(binary.LittleEndian.Uint64(b[10:])),
		Length:      int64(binary.LittleEndian.Uint64(b[18:])),
		Epoch:       Epoch(b[26:42]),
		Fingerprint: Fingerprint(b[42:74]),
	}
	if err := id.check(); err != nil {
		return Identity{}, fmt.Errorf("wal: identity header: %w", err)
	}
	if id.Epoch == (Epoch{}) {
		return Identity{}, errors.New("wal: identity header has no epoch")
	}
	return id, nil
}

// readHead reads the identity of an object of either form, and the header of an
// encrypted one.
func readHead(r *bufio.Reader) (Identity, *sealedHeader, error) {
	first, err := r.Peek(1)
	if err != nil || first[0] != sealedTag {
		id, err := readIdentity(r)
		return id, nil, err
	}
	b := new(sealedHeader)
	if n, err := io.ReadFull(r, b[:]); err == io.EOF || err == io.ErrUnexpectedEOF {
		return Identity{}, nil, formatError{fmt.Errorf("it ends after %d bytes, within the identity header", n)}
	} else if err != nil {
		return Identity{}, nil, err
	}
	id, err := b.parse()
	if err != nil {
		return Identity{}, nil, formatError{err}
	}
	return id, b, nil
}

// history returns the AEAD of timeline histories. Its nonces are random, and an
// epoch sees few of them.
func (k EpochKeys) history() cipher.AEAD {
	block, err := aes.NewCipher(k.History[:])
	if err == nil {
		var aead cipher.AEAD
		if aead, err = cipher.NewGCMWithRandomNonce(block); err == nil {
			return aead
		}
	}
	panic("wal: internal error: " + err.Error()) // the key has 32 bytes
}

// historyPacket returns the packet with a sealed timeline history.
func (k EpochKeys) historyPacket(header *sealedHeader, text []byte) []byte {
	b := make([]byte, 0, historyHead+len(text)+historyOverhead)
	b = append(b, sealedTag, 0xFF)
	b = binary.BigEndian.AppendUint32(b, uint32(len(historyMagic)+len(text)+historyOverhead))
	b = append(b, historyMagic...)
	return k.history().Seal(b, nil, text, header.said())
}

// isHistory tells whether a file's object has a packet with the sealed text.
func isHistory(name string, id Identity) bool {
	return id.Length <= maxHistory && postgres.ParseWALFile(name).Kind == postgres.HistoryFile
}

// readHistory reads the packet with the history of an object whose header was
// read, and returns the text.
func (k EpochKeys) readHistory(r *bufio.Reader, outer Identity, header *sealedHeader) ([]byte, error) {
	b := make([]byte, historyHead+outer.Length+historyOverhead)
	if _, err := io.ReadFull(r, b); err == io.EOF || err == io.ErrUnexpectedEOF {
		return nil, formatError{errors.New("it ends within the sealed timeline history")}
	} else if err != nil {
		return nil, err
	}
	if b[0] != sealedTag || b[1] != 0xFF || binary.BigEndian.Uint32(b[2:]) != uint32(len(b)-6) || string(b[6:historyHead]) != historyMagic {
		return nil, formatError{errors.New("it has no sealed timeline history")}
	}
	text, err := k.history().Open(nil, nil, b[historyHead:], header.said())
	if err != nil {
		return nil, formatError{errors.New("its timeline history was altered, or is another's")}
	}
	return text, nil
}

// encrypt makes an encrypted object of a plain one, that of a file of that name.
// f is the file.
func (c *Cipher) encrypt(ctx context.Context, o *object, name string, f io.ReaderAt) (*object, error) {
	if c.Encrypt == nil {
		return o, nil
	}
	if len(c.Keys) == 0 {
		return nil, fmt.Errorf("encrypt: %w", ErrNoEpochKey)
	}
	var text []byte // of a history
	if isHistory(name, o.id) {
		text = make([]byte, o.id.Length)
		if n, err := f.ReadAt(text, 0); n < len(text) {
			return nil, err
		}
		if blake3.Sum256(text) != o.id.Fingerprint {
			return nil, errChanged
		}
	}
	if o.size < 0 {
		s := &sealedStream{ctx: ctx, c: c, id: o.id, name: name, plain: o.body}
		return &object{id: o.id, body: s, size: -1}, s.rewind()
	}
	held := bytes.NewBuffer(make([]byte, 0, o.size+o.size/64+4096))
	w, err := c.begin(held, o.id, name, text)
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(w, contextReader{ctx, o.body}); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return &object{id: o.id, body: bytes.NewReader(held.Bytes()), size: int64(held.Len())}, nil
}

// begin writes the header of a message with a key of its own, and returns the
// writer of its text. history is the file if it is one that goes there too.
func (c *Cipher) begin(w io.Writer, id Identity, name string, history []byte) (io.WriteCloser, error) {
	keys := c.Keys[len(c.Keys)-1]
	var key [32]byte
	if _, err := rand.Read(key[:]); err != nil {
		return nil, fmt.Errorf("read randomness: %w", err)
	}
	header, err := keys.header(keys.identity(id, name), key)
	if err != nil {
		return nil, err
	}
	head := header[:]
	if isHistory(name, id) {
		head = append(head, keys.historyPacket(header, history)...)
	}
	if _, err := w.Write(head); err != nil {
		return nil, err
	}
	return c.Encrypt(w, key)
}

// A sealedStream is an encrypted object made while it is read. Each time that
// it is read from the beginning it has other bytes, of the same meaning.
type sealedStream struct {
	ctx   context.Context // of the Push that reads
	c     *Cipher
	id    Identity
	name  string
	plain io.ReadSeeker

	w     io.WriteCloser
	ready bytes.Buffer
	buf   []byte
	pos   int64
	err   error
}

func (s *sealedStream) rewind() error {
	if _, err := s.plain.Seek(0, io.SeekStart); err != nil {
		return err
	}
	s.ready.Reset()
	s.pos, s.err = 0, nil
	var err error
	s.w, err = s.c.begin(&s.ready, s.id, s.name, nil) // no history is so long
	return err
}

func (s *sealedStream) Read(p []byte) (int, error) {
	if s.buf == nil {
		s.buf = make([]byte, 256<<10)
	}
	for s.ready.Len() == 0 && s.err == nil {
		n, err := s.plain.Read(s.buf)
		if _, werr := s.w.Write(s.buf[:n]); werr != nil {
			s.err = werr
			break
		}
		if err == io.EOF {
			if err = s.w.Close(); err == nil {
				err = io.EOF
			}
		}
		s.err = err
	}
	if s.ready.Len() > 0 && (s.err == nil || s.err == io.EOF) {
		n, _ := s.ready.Read(p) // it isn't empty
		s.pos += int64(n)
		return n, nil
	}
	return 0, s.err
}

// Seek goes back to the beginning, and tells where it is.
func (s *sealedStream) Seek(offset int64, whence int) (int64, error) {
	switch {
	case offset == 0 && whence == io.SeekCurrent:
		return s.pos, nil
	case offset == 0 && whence == io.SeekStart:
		return 0, s.rewind()
	}
	return s.pos, fmt.Errorf("wal: seek to %d from %d: %w", offset, whence, errors.ErrUnsupported)
}

// decodeObject is decode for an object of either form, of a file of that name.
func (c *Cipher) decodeObject(ctx context.Context, r io.Reader, name string, want expectation, workers int, sink func([]byte) error) (Identity, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	if first, err := br.Peek(1); err != nil || first[0] != sealedTag {
		if err == nil && c.Only {
			return Identity{}, formatError{fault.Required.Errorf("it isn't encrypted, so anybody who can write to the archive can have made it, and WALE_ENCRYPTION=required refuses it")}
		}
		return decode(br, want, workers, sink)
	}
	outer, header, err := readHead(br)
	if err != nil {
		return Identity{}, err
	}
	keys, err := c.key(outer.Epoch)
	switch {
	case err != nil && c.Only:
		return Identity{}, fmt.Errorf("whether it is what was archived can't be told, and WALE_ENCRYPTION=required demands it: %w: "+
			"bring it here with `wal-e key export-host` and `wal-e key import-host`", err)
	case err == nil && isHistory(name, outer):
		id, err := keys.decodeHistory(br, outer, header, name, want, sink)
		if err != nil || !want.whole {
			return id, err
		}
		sink = func([]byte) error { return nil } // it has the text
	}
	text, err := c.openText(ctx, br, outer, header, &keys)
	if err != nil {
		return Identity{}, messageError(err)
	}
	id, err := decode(text, want, workers, sink)
	if err == nil {
		// Only the end proves the message.
		var more int64
		if more, err = io.Copy(io.Discard, io.LimitReader(text, 1)); err == nil && more > 0 {
			err = formatError{errors.New("bytes follow the file in the message")}
		}
	}
	if cerr := text.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return Identity{}, messageError(err)
	}
	if keys.Epoch != outer.Epoch { // not known here: only the rest can be compared
		id.Epoch, id.Fingerprint = outer.Epoch, outer.Fingerprint
	} else {
		id = keys.identity(id, name)
	}
	if !id.equal(outer) {
		return Identity{}, formatError{errors.New("its content isn't the one that its identity header says")}
	}
	return id, nil
}

// openText returns the text of a message: by the key in its header where the epoch
// can be opened, whose keys it returns too, else by its own recipients' keys.
func (c *Cipher) openText(ctx context.Context, r io.Reader, outer Identity, header *sealedHeader, keys *EpochKeys) (io.ReadCloser, error) {
	if c.Open != nil {
		opened, err := c.Open(ctx, outer.Epoch)
		switch {
		case err == nil:
			key, err := opened.OpenKey(header.said(), header[sealedKeyAt:sealedSumAt])
			if err != nil {
				return nil, formatError{fmt.Errorf("the key of its message can't be opened: %w", err)}
			}
			*keys = *opened
			return c.DecryptWith(ctx, key, r)
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		}
	}
	if c.Decrypt == nil {
		return nil, fault.NoSecretKey.Errorf("it is encrypted, and no private key is at hand")
	}
	return c.Decrypt(ctx, r)
}

// decodeHistory is decodeObject for a timeline's history, with the epoch's keys
// instead of the private one.
func (k EpochKeys) decodeHistory(r *bufio.Reader, outer Identity, header *sealedHeader, name string, want expectation, sink func([]byte) error) (Identity, error) {
	text, err := k.readHistory(r, outer, header)
	if err != nil {
		return Identity{}, err
	}
	id := k.identity(Identity{System: outer.System, Length: int64(len(text)), Fingerprint: blake3.Sum256(text)}, name)
	if !id.equal(outer) {
		return Identity{}, formatError{errors.New("its content isn't the one that its identity header says")}
	}
	if want.system != 0 && want.system != id.System {
		return Identity{}, formatError{fmt.Errorf("it is of the system %s", id.System)}
	}
	if err := want.check(id, text); err != nil {
		return Identity{}, formatError{err}
	}
	if err := sink(text); err != nil {
		return Identity{}, sinkError{err}
	}
	return id, nil
}

// equal compares in a time that tells nothing of keyed fingerprints.
func (id Identity) equal(other Identity) bool {
	same := subtle.ConstantTimeCompare(id.Fingerprint[:], other.Fingerprint[:]) == 1
	return same && id.System == other.System && id.Length == other.Length && id.Epoch == other.Epoch
}

// messageError says of a damaged message that the object is.
func messageError(err error) error {
	if errors.Is(err, ErrBadMessage) {
		return formatError{err}
	}
	return err
}

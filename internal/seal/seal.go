// Package seal is the cryptography of an encrypted archive: which secrets there
// are, and which key seals which object.
//
// An epoch has two secrets. The dedup key names chunks and seals what a push
// must read again: indexes, lists, manifests. The private key opens the data.
// A database host has the dedup key and the public half only, so it can
// deduplicate and can't read what it stored. Both secrets stand in the archive
// as an OpenPGP message, which is package openpgp's.
//
// Keys derived here are for one object each, and an object is written once, so
// a nonce never meets other bytes. docs/format.md, section 12, has every
// derivation with an example.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
)

// KeySize is the length of every key and secret in bytes; Overhead is how many
// bytes a sealed text is longer than the plain one; EncapsulatedSize is the
// length of what tells the owner of the private key a run's key, SealedKeySize
// that of what SealKey returns.
const (
	KeySize          = 32
	Overhead         = 16
	EncapsulatedSize = 32
	SealedKeySize    = EncapsulatedSize + KeySize + Overhead
)

// ErrForged is wrapped when bytes weren't sealed under the key of their object:
// they were altered, or belong elsewhere.
var ErrForged = errors.New("seal is broken")

// ErrNoPrivateKey is wrapped when data is to be read with a host's keys, which
// can only write it.
var ErrNoPrivateKey = errors.New("the private key of the epoch isn't here")

// An Epoch names a pair of secrets. It is made of them, so that nobody can put
// other secrets in their place: whoever noted the name can tell.
type Epoch [16]byte

func (e Epoch) String() string { return hex.EncodeToString(e[:]) }

// ParseEpoch parses what String returns.
func ParseEpoch(s string) (Epoch, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(Epoch{}) || hex.EncodeToString(b) != s {
		return Epoch{}, fmt.Errorf("%q is no epoch: want %d hex digits", s, 2*len(Epoch{}))
	}
	return Epoch(b), nil
}

// Keys are the secrets of one epoch, on a host without the private one.
type Keys struct {
	epoch   Epoch
	dedup   [KeySize]byte
	public  hpke.PublicKey
	private hpke.PrivateKey // nil on a host
}

// New makes the secrets of a new epoch.
func New() (*Keys, error) {
	k := &Keys{}
	if _, err := rand.Read(k.dedup[:]); err != nil {
		return nil, fmt.Errorf("read randomness: %w", err)
	}
	private, err := kem().GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("make the epoch's key: %w", err)
	}
	k.private, k.public = private, private.PublicKey()
	k.epoch = k.name()
	return k, nil
}

// name is the epoch that the secrets make.
func (k *Keys) name() Epoch { return Epoch(k.key(labelEpoch, k.public.Bytes(), 0)[:len(Epoch{})]) }

func kem() hpke.KEM { return hpke.DHKEM(ecdh.X25519()) }

// Epoch names the keys.
func (k *Keys) Epoch() Epoch { return k.epoch }

// String names the epoch and no secret, so that none reaches a log.
func (k *Keys) String() string { return "keys of epoch " + k.epoch.String() }

// GoString is String.
func (k *Keys) GoString() string { return k.String() }

// DedupKey is the key of page hashes and chunk ids.
func (k *Keys) DedupKey() [KeySize]byte { return k.dedup }

// CanRead tells whether the private key is here.
func (k *Keys) CanRead() bool { return k.private != nil }

// Host returns the keys as a database host has them.
func (k *Keys) Host() *Keys {
	host := *k
	host.private = nil
	return &host
}

// What a derived key is for. The text is part of the format.
const (
	labelEpoch    = "wal-e 006 epoch"
	labelNode     = "wal-e 006 node"
	labelDir      = "wal-e 006 directory"
	labelIndex    = "wal-e 006 index"
	labelManifest = "wal-e 006 manifest"
	labelWAL      = "wal-e 006 wal fingerprint"
	labelHistory  = "wal-e 006 wal history"
	labelMessage  = "wal-e 006 wal message"
	labelRun      = "wal-e 006 run"
	labelPack     = "wal-e 006 pack"
)

// derive is HKDF-SHA256 without salt; its info is the label, a zero byte, the
// run (of an epoch's name: the public key) and a number.
func derive(secret []byte, label string, run []byte, n uint32) []byte {
	info := append([]byte(label), 0)
	info = append(info, run...)
	info = binary.LittleEndian.AppendUint32(info, n)
	key, err := hkdf.Key(sha256.New, secret, nil, string(info), KeySize)
	if err != nil {
		panic("seal: internal error: " + err.Error()) // lengths are constant
	}
	return key
}

// Nodes returns the box of records of nodes of a pack, numbered in their pack.
func (k *Keys) Nodes(run []byte, pack uint32) *Box { return newBox(k.key(labelNode, run, pack)) }

// Directory returns the box of a pack's directory, number 0.
func (k *Keys) Directory(run []byte, pack uint32) *Box { return newBox(k.key(labelDir, run, pack)) }

// Index returns the box of an index object, number 0.
func (k *Keys) Index(run []byte, n uint32) *Box { return newBox(k.key(labelIndex, run, n)) }

// Manifest returns the box of the manifest of a run, number 0.
func (k *Keys) Manifest(run []byte) *Box { return newBox(k.key(labelManifest, run, 0)) }

// WALKey is the key of the fingerprints of WAL files.
func (k *Keys) WALKey() [KeySize]byte { return [KeySize]byte(k.key(labelWAL, nil, 0)) }

// HistoryKey is the key under which timeline histories can be read by hosts
// that have no private key.
func (k *Keys) HistoryKey() [KeySize]byte { return [KeySize]byte(k.key(labelHistory, nil, 0)) }

func (k *Keys) key(label string, run []byte, n uint32) []byte {
	return derive(k.dedup[:], label, run, n)
}

// A RunKey seals the data of one run. Whoever pushes forgets it with the run;
// later only the private key gives it back.
type RunKey struct {
	key []byte
	run []byte
}

// SealKey seals the key of a WAL file's message to the epoch, together with
// header, which stays readable.
func (k *Keys) SealKey(header []byte, key [KeySize]byte) ([]byte, error) {
	enc, sender, err := hpke.NewSender(k.public, hpke.HKDFSHA256(), hpke.AES256GCM(), k.messageInfo())
	if err != nil {
		return nil, fmt.Errorf("seal a message's key: %w", err)
	}
	sealed, err := sender.Seal(header, key[:])
	if err != nil {
		return nil, fmt.Errorf("seal a message's key: %w", err)
	}
	return append(enc, sealed...), nil
}

// OpenKey returns the key that SealKey sealed, or an error that wraps ErrForged.
func (k *Keys) OpenKey(header, sealed []byte) (key [KeySize]byte, err error) {
	if k.private == nil {
		return key, fmt.Errorf("epoch %s: %w", k.epoch, ErrNoPrivateKey)
	}
	if len(sealed) != SealedKeySize {
		return key, ErrForged
	}
	r, err := hpke.NewRecipient(sealed[:EncapsulatedSize], k.private, hpke.HKDFSHA256(), hpke.AES256GCM(), k.messageInfo())
	if err != nil {
		return key, ErrForged
	}
	opened, err := r.Open(header, sealed[EncapsulatedSize:])
	if err != nil || len(opened) != KeySize {
		return key, ErrForged
	}
	return [KeySize]byte(opened), nil
}

func (k *Keys) messageInfo() []byte { return append([]byte(labelMessage+"\x00"), k.epoch[:]...) }

// runInfo binds a run's key to its epoch and run.
func (k *Keys) runInfo(run []byte) []byte {
	return append(append([]byte(labelRun+"\x00"), k.epoch[:]...), run...)
}

// NewRun makes the key of a run, and what stands in its packs to tell the key.
func (k *Keys) NewRun(run []byte) (*RunKey, []byte, error) {
	enc, sender, err := hpke.NewSender(k.public, hpke.HKDFSHA256(), hpke.AES256GCM(), k.runInfo(run))
	if err != nil {
		return nil, nil, fmt.Errorf("make the run's key: %w", err)
	}
	key, err := sender.Export(labelRun, KeySize)
	if err != nil {
		return nil, nil, fmt.Errorf("make the run's key: %w", err)
	}
	return &RunKey{key: key, run: append([]byte(nil), run...)}, enc, nil
}

// OpenRun returns the key of a run from what stands in its packs. A wrong one
// gives a key that opens nothing.
func (k *Keys) OpenRun(run, enc []byte) (*RunKey, error) {
	if k.private == nil {
		return nil, fmt.Errorf("epoch %s: %w", k.epoch, ErrNoPrivateKey)
	}
	r, err := hpke.NewRecipient(enc, k.private, hpke.HKDFSHA256(), hpke.AES256GCM(), k.runInfo(run))
	if err != nil {
		return nil, fmt.Errorf("%w: key of the run: %w", ErrForged, err)
	}
	key, err := r.Export(labelRun, KeySize)
	if err != nil {
		return nil, fmt.Errorf("%w: key of the run: %w", ErrForged, err)
	}
	return &RunKey{key: key, run: append([]byte(nil), run...)}, nil
}

// Pack returns the box of records of data of a pack, numbered in their pack.
func (r *RunKey) Pack(pack uint32) *Box { return newBox(derive(r.key, labelPack, r.run, pack)) }

// A Box seals and opens texts by number, with AES-256-GCM. It is safe for
// concurrent use.
type Box struct{ aead cipher.AEAD }

func newBox(key []byte) *Box {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic("seal: internal error: " + err.Error()) // the key has 32 bytes
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic("seal: internal error: " + err.Error())
	}
	return &Box{aead}
}

// nonce is the number as 12 bytes, big-endian.
func nonce(n uint32) []byte { return binary.BigEndian.AppendUint32(make([]byte, 8, 12), n) }

// Seal appends text, sealed under number n together with header, which stays
// readable, to dst. A number is used once in a box. dst may be text[:0].
func (b *Box) Seal(dst []byte, n uint32, header, text []byte) []byte {
	return b.aead.Seal(dst, nonce(n), text, header)
}

// Open appends the text that was sealed to dst, or returns an error that wraps
// ErrForged. dst may be sealed[:0].
func (b *Box) Open(dst []byte, n uint32, header, sealed []byte) ([]byte, error) {
	text, err := b.aead.Open(dst, nonce(n), sealed, header)
	if err != nil {
		return nil, ErrForged
	}
	return text, nil
}

// Package openpgp encrypts to recipients and decrypts with their keys, in
// messages that plain gpg reads.
//
// Recipients come from GnuPG's key ring or from a file, so that a host that
// only encrypts needs no gpg. Decryption goes through gpg and its agent, where
// cards and passphrases are, or takes a key file. A message without integrity
// protection isn't read, and an altered or truncated one ends in an error that
// wraps ErrDamaged, after some of its text: whoever reads must wait for the end.
package openpgp

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	pgp "github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"

	"wal-e/internal/fault"
)

// ErrDamaged is wrapped when a message isn't what was written.
var ErrDamaged = errors.New("OpenPGP message is damaged")

// ErrNoKey is wrapped when none of the keys at hand opens a message.
var ErrNoKey = errors.New("no private key for it")

// maxKeys bounds a file of keys in bytes.
const maxKeys = 16 << 20

// Recipients are the keys that messages are encrypted to.
type Recipients struct{ keys []*pgp.Entity }

// ReadRecipients takes recipients from keys, armored or not, in files with
// those names: the ones that ids name by key id, fingerprint or e-mail address,
// all without ids. Each must be able to decrypt now.
func ReadRecipients(files []string, ids []string, now time.Time) (*Recipients, error) {
	var all pgp.EntityList
	for _, name := range files {
		data, err := readFile(name, maxKeys)
		if err != nil {
			return nil, err
		}
		keys, err := parseKeys(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, keys...)
	}
	if len(ids) == 0 {
		return newRecipients(all, now)
	}
	var chosen pgp.EntityList
	for _, id := range ids {
		key, err := choose(all, id, now)
		if err != nil {
			return nil, fmt.Errorf("%w in %s", err, strings.Join(files, ", "))
		}
		chosen = append(chosen, key)
	}
	return newRecipients(chosen, now)
}

func readFile(name string, limit int64) (data []byte, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read
	data, err = io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fault.BadKey.Errorf("%s: more than %d bytes", name, limit)
	}
	return data, err
}

// parseKeys reads keys in either form; a file may have several armored blocks.
func parseKeys(data []byte) (pgp.EntityList, error) {
	if !bytes.Contains(data, []byte("-----BEGIN PGP")) {
		keys, err := pgp.ReadKeyRing(bytes.NewReader(data))
		if err == nil && len(keys) == 0 {
			err = fault.BadKey.Errorf("it is empty")
		}
		if err != nil {
			return nil, fmt.Errorf("holds no OpenPGP keys: %w", err)
		}
		return keys, nil
	}
	var all pgp.EntityList
	for rest := data; ; {
		at := bytes.Index(rest, []byte("-----BEGIN PGP"))
		if at < 0 {
			return all, nil
		}
		rest = rest[at:]
		block, err := armor.Decode(bytes.NewReader(rest))
		if err != nil {
			return nil, fmt.Errorf("holds a damaged armored block: %w", err)
		}
		keys, err := pgp.ReadKeyRing(block.Body)
		if err != nil {
			return nil, fmt.Errorf("holds no OpenPGP keys: %w", err)
		}
		all = append(all, keys...)
		rest = rest[len("-----BEGIN PGP"):]
	}
}

// choose returns the key that id names.
func choose(keys pgp.EntityList, id string, now time.Time) (*pgp.Entity, error) {
	var found pgp.EntityList
	for _, k := range keys {
		if named(k, id) {
			found = append(found, k)
		}
	}
	if len(found) > 1 { // an expired predecessor with the same address is no rival
		var usable pgp.EntityList
		for _, k := range found {
			if unusable(k, now) == "" {
				usable = append(usable, k)
			}
		}
		if len(usable) > 0 {
			found = usable
		}
	}
	switch len(found) {
	case 0:
		return nil, fault.BadKey.Errorf("key %q is unknown", id)
	case 1:
		return found[0], nil
	}
	return nil, fault.BadKey.Errorf("key %q is ambiguous, name one by its fingerprint: %s", id, strings.Join(describe(found), "; "))
}

// named tells whether id is the key's: a fingerprint, a key id of 8 or 16
// digits, of the key or of a subkey, or an e-mail address.
func named(k *pgp.Entity, id string) bool {
	digits := strings.ToUpper(strings.TrimPrefix(strings.ReplaceAll(id, " ", ""), "0x"))
	switch len(digits) {
	case 8, 16, 40, 64:
		if strings.HasSuffix(fingerprint(k.PrimaryKey), digits) {
			return true
		}
		for _, s := range k.Subkeys {
			if strings.HasSuffix(fingerprint(s.PublicKey), digits) {
				return true
			}
		}
	}
	for _, i := range k.Identities {
		if i.UserId != nil && i.UserId.Email != "" && strings.EqualFold(i.UserId.Email, strings.Trim(id, "<>")) {
			return true
		}
	}
	return false
}

func fingerprint(k *packet.PublicKey) string { return fmt.Sprintf("%X", k.Fingerprint) }

// unusable says why nothing can be encrypted to a key, "" when it can.
func unusable(k *pgp.Entity, now time.Time) string {
	if _, ok := k.EncryptionKey(now); ok {
		return ""
	}
	sig, _ := k.PrimarySelfSignature()
	switch {
	case k.Revoked(now):
		return "is revoked"
	case sig != nil && k.PrimaryKey.KeyExpired(sig, now):
		return "has expired"
	}
	expired, revoked := false, false
	for _, s := range k.Subkeys {
		if s.Sig != nil && s.Sig.FlagEncryptCommunications {
			expired = expired || s.PublicKey.KeyExpired(s.Sig, now) || s.Sig.SigExpired(now)
			revoked = revoked || s.Revoked(now)
		}
	}
	switch {
	case revoked:
		return "has no subkey for encryption that isn't revoked"
	case expired:
		return "has no subkey for encryption that hasn't expired"
	}
	return "can sign only: it has no subkey for encryption"
}

func newRecipients(keys pgp.EntityList, now time.Time) (*Recipients, error) {
	if len(keys) == 0 {
		return nil, fault.NoRecipient.Errorf("no keys to encrypt to")
	}
	for _, k := range keys {
		if why := unusable(k, now); why != "" {
			return nil, fault.BadKey.Errorf("key %s %s: name another, or get its newest form", describe(pgp.EntityList{k})[0], why)
		}
	}
	return &Recipients{keys}, nil
}

// Describe names each recipient by fingerprint and user id.
func (r *Recipients) Describe() []string { return describe(r.keys) }

func describe(keys pgp.EntityList) []string {
	var list []string
	for _, k := range keys {
		s := fingerprint(k.PrimaryKey)
		if i := k.PrimaryIdentity(); i != nil {
			s += " " + i.Name
		}
		list = append(list, s)
	}
	return list
}

// KeyIDs returns the ids of the keys that messages are encrypted to now, as
// the function KeyIDs does of a message.
func (r *Recipients) KeyIDs(now time.Time) []string {
	var ids []string
	for _, k := range r.keys {
		if key, ok := k.EncryptionKey(now); ok {
			ids = append(ids, fmt.Sprintf("%016X", key.PublicKey.KeyId))
		}
	}
	return ids
}

// UnusableAt says of each recipient that can't be encrypted to at a time to come
// which it is, and why.
func (r *Recipients) UnusableAt(t time.Time) []string {
	var list []string
	for _, k := range r.keys {
		if why := unusable(k, t); why != "" {
			list = append(list, describe(pgp.EntityList{k})[0]+" "+why)
		}
	}
	return list
}

// SessionKeySize is the length of the key of a message in bytes.
const SessionKeySize = 32 // AES-256

// Encrypt returns a writer of text; the message in w is whole once it has been
// closed. It is protected against changes, and not compressed.
func (r *Recipients) Encrypt(w io.Writer) (io.WriteCloser, error) {
	key := make([]byte, SessionKeySize)
	if _, err := rand.Read(key); err != nil {
		return nil, fmt.Errorf("read randomness: %w", err)
	}
	return r.EncryptWith(w, key)
}

// EncryptWith is Encrypt with a session key of the caller's, by which DecryptWith
// opens the message. It must be random, and of this message alone.
func (r *Recipients) EncryptWith(w io.Writer, key []byte) (io.WriteCloser, error) {
	now := time.Now()
	for _, k := range r.keys {
		to, ok := k.EncryptionKey(now)
		if !ok {
			return nil, fault.BadKey.Errorf("key %s %s", describe(pgp.EntityList{k})[0], unusable(k, now))
		}
		if err := packet.SerializeEncryptedKeyAEAD(w, to.PublicKey, packet.CipherAES256, false, key, nil); err != nil {
			return nil, fmt.Errorf("encrypt to %s: %w", describe(pgp.EntityList{k})[0], err)
		}
	}
	text, err := packet.SerializeSymmetricallyEncrypted(w, packet.CipherAES256, false, packet.CipherSuite{}, key, nil)
	if err != nil {
		return nil, fmt.Errorf("encrypt: %w", err)
	}
	return packet.SerializeLiteral(text, true, "", 0)
}

// KeyIDs returns the ids of the keys, mostly subkeys, that a message is
// encrypted to, as 16 hex digits. It needs no key.
func KeyIDs(message []byte) ([]string, error) {
	var ids []string
	packets := packet.NewReader(bytes.NewReader(message))
	for {
		p, err := packets.Next()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		switch p := p.(type) {
		case *packet.EncryptedKey:
			ids = append(ids, fmt.Sprintf("%016X", p.KeyId))
		case *packet.SymmetricallyEncrypted, *packet.AEADEncrypted:
			return ids, nil
		}
	}
}

package compat

import (
	"archive/tar"
	"errors"

	"wal-e/compat/lzop"
	"wal-e/internal/storage"
)

// IsDamage tells errors that say something of an object, and not of the way to
// it. What can't be decrypted is not among them: the key may just not be here.
func IsDamage(err error) bool {
	for _, kind := range []error{
		lzop.ErrFormat, lzop.ErrDamaged, lzop.ErrUnsupported, ErrNotClassic, ErrDamagedMessage, ErrBadMember, ErrIncomplete, ErrBadWAL,
		tar.ErrHeader, tar.ErrFieldTooLong, storage.ErrNotExist,
	} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

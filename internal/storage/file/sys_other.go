//go:build !linux

package file

import (
	"errors"
	"os"

	"wal-e/internal/storage"
)

// setMeta refuses: extended attributes are used on Linux only.
func setMeta(*os.File, storage.Meta) error { return storage.ErrNoMeta }

func getMeta(string) (storage.Meta, error) { return nil, nil }

func renameNoReplace(string, string) error { return errors.ErrUnsupported }

func networkKind(string) (string, error) { return "", nil }

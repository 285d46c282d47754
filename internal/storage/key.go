package storage

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits on what a bucket is given. They are the smallest of what the stores
// take, with room left for the prefix that a bucket puts before its keys.
const (
	MaxKeyLen     = 900  // bytes in a key
	MaxElementLen = 255  // bytes between two slashes: one file name
	MaxMetaLen    = 1024 // bytes in all keys and values of a Meta
)

var (
	// ErrInvalid is wrapped when a call asks for what no store can do: a key
	// that CheckKey refuses, metadata that CheckMeta refuses, a negative
	// offset. Trying again does not help.
	ErrInvalid = errors.New("invalid request")
	// ErrSize is wrapped by Create when the reader held another number of
	// bytes than the caller said. Nothing was created.
	ErrSize = errors.New("reader is not of the size given")
)

// CheckKey reports why key cannot name an object, wrapping ErrInvalid. What it
// lets pass is a relative path that every store keeps as it is and that cannot
// lead out of a folder.
func CheckKey(key string) error {
	switch {
	case key == "":
		return fmt.Errorf("%w: empty key", ErrInvalid)
	case len(key) > MaxKeyLen:
		return fmt.Errorf("%w: key %.40q… is %d bytes long: at most %d", ErrInvalid, key, len(key), MaxKeyLen)
	case !utf8.ValidString(key):
		return fmt.Errorf("%w: key %q is not UTF-8", ErrInvalid, key)
	case strings.ContainsFunc(key, unicode.IsControl):
		return fmt.Errorf("%w: key %q holds a control character", ErrInvalid, key)
	}
	for element := range strings.SplitSeq(key, "/") {
		switch {
		case element == "", element == ".", element == "..":
			return fmt.Errorf("%w: key %q holds the element %q", ErrInvalid, key, element)
		case len(element) > MaxElementLen:
			return fmt.Errorf("%w: key %q holds an element of %d bytes: at most %d",
				ErrInvalid, key, len(element), MaxElementLen)
		}
	}
	return nil
}

// CheckMeta reports why m cannot be kept beside an object, wrapping ErrInvalid.
func CheckMeta(m Meta) error {
	total := 0
	for k, v := range m {
		if k == "" || strings.ContainsFunc(k, notMetaKey) {
			return fmt.Errorf("%w: metadata key %q: want [a-z0-9-]+", ErrInvalid, k)
		}
		if strings.ContainsFunc(v, notPrintable) {
			return fmt.Errorf("%w: metadata value of %s, %q, is not printable ASCII", ErrInvalid, k, v)
		}
		total += len(k) + len(v)
	}
	if total > MaxMetaLen {
		return fmt.Errorf("%w: %d bytes of metadata: at most %d", ErrInvalid, total, MaxMetaLen)
	}
	return nil
}

func notMetaKey(r rune) bool {
	return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-'
}

func notPrintable(r rune) bool { return r < ' ' || r > '~' }

// ListError is what a List of prefix in b fails with: it names both, as the errors
// of all requests do.
func ListError(prefix string, b Bucket, err error) error {
	if prefix == "" {
		return fmt.Errorf("list %s: %w", b.URL(), err)
	}
	return fmt.Errorf("list %s in %s: %w", prefix, b.URL(), err)
}

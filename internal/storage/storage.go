// Package storage is where an archive's objects live: a small create-only
// bucket, what every implementation of it must keep, and the wrappers that
// work on any of them.
//
// An object is created once and never overwritten. That one rule carries the
// whole archive: two writers that race for a name have one winner, a name that
// was seen complete stays complete, and nothing that pushes needs the right to
// delete. Implementations are in the folders below this one; the conformance
// suite that all of them pass is in storagetest.
package storage

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"
)

// Errors that callers branch on. Implementations translate their own errors
// into these at the lowest layer and wrap them with the key.
var (
	// ErrNotExist is wrapped when the object proven not to be there was asked
	// for. A store that cannot tell absence from lack of rights returns
	// another error.
	ErrNotExist = errors.New("object does not exist")
	// ErrExist is wrapped by Create when the key is taken.
	ErrExist = errors.New("object already exists")
	// ErrNoMeta is wrapped by Create when metadata was given and the store
	// cannot keep any. The object was not created.
	ErrNoMeta = errors.New("store keeps no object metadata")
	// ErrPermission is wrapped when the store refuses the operation for want
	// of a right. Trying again does not help.
	ErrPermission = errors.New("permission denied")
)

// An Object is one line of a listing.
type Object struct {
	Key     string
	Size    int64     // bytes
	ModTime time.Time // by the store's clock
}

// Meta is what is kept beside an object and read without its content. Keys
// match [a-z0-9-]+, values are printable ASCII; together at most 1 KiB.
type Meta map[string]string

// Attributes is what Stat knows of an object.
type Attributes struct {
	Object
	Meta Meta // nil when the object was created without
}

// A Bucket holds named, immutable objects. Keys are slash-separated paths
// without empty, "." or ".." elements (see CheckKey). Implementations are safe
// for concurrent use, and give read-after-write, list-after-write and one
// winner per key; one that cannot says so in its documentation. Their errors name
// the request, the key or prefix, and the bucket, so callers needn't.
type Bucket interface {
	// Create stores r under key unless key exists (ErrExist); it is the only
	// write there is, and the object is durable when it returns nil. When it
	// fails, nothing can be seen under key, unless the answer was lost after
	// the store had finished. size is the number of bytes in r, or -1 when
	// that is not known; when it is known and r holds another number, Create
	// fails. An io.Seeker is rewound and sent again on a retry, any other
	// reader is read once. One that can't seek to its end may have other bytes
	// then, so each attempt reads it once. A retry after a lost answer may report ErrExist for
	// our own write. meta may be nil.
	Create(ctx context.Context, key string, r io.Reader, size int64, meta Meta) error

	// Get reads length bytes from offset on; a negative length reads to the
	// end. A range that reaches past the end is cut short, one that begins
	// past it reads nothing. The reader fails when the store breaks off; it
	// never ends early with a plain EOF. Missing objects give ErrNotExist,
	// from Get itself.
	Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error)

	// Stat returns size, time and metadata of an object, or ErrNotExist.
	Stat(ctx context.Context, key string) (Attributes, error)

	// List yields the objects whose keys begin with prefix, in byte order of
	// their keys. startAfter, when not empty, leaves out keys up to and
	// including it. An error is yielded once, last.
	List(ctx context.Context, prefix, startAfter string) iter.Seq2[Object, error]

	// Delete removes keys. Deleting what is not there succeeds. On an error
	// any part of keys may be gone.
	Delete(ctx context.Context, keys ...string) error

	// URL names the bucket for people, such as
	// "file://localhost/srv/archive" or "s3://bucket/prefix". It holds no
	// secret and has no trailing slash.
	URL() string
}

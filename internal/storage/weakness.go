package storage

import (
	"context"
	"errors"
)

// ErrUnsettled is wrapped when listings of a weak store don't agree with each
// other: what they lack may be there.
var ErrUnsettled = errors.New("listings don't agree with each other")

// Weakness says what the store of a bucket doesn't promise although Bucket asks
// for it, in a sentence for people, or "" when nothing is known. An
// implementation says so with a method Weakness() string; it is looked for
// behind the wrappers of this package and those that have Unwrap() Bucket.
func Weakness(b Bucket) string {
	if w, ok := behind[interface{ Weakness() string }](b); ok {
		return w.Weakness()
	}
	return ""
}

// CheckListings asks a weak store whether its listings agree with each other, as
// far as it can tell, and wraps ErrUnsettled if they don't. Whoever is about to
// delete what no listing names does so first. It finds a server that was away
// for long and knows nothing of what happened meanwhile; what happens while it
// looks, it may miss. Other stores have nothing to be asked.
func CheckListings(ctx context.Context, b Bucket) error {
	if c, ok := behind[interface {
		CheckListings(context.Context) error
	}](b); ok {
		return c.CheckListings(ctx)
	}
	return nil
}

// behind looks for a capability of a bucket, or of what it wraps.
func behind[T any](b Bucket) (capable T, ok bool) {
	for b != nil {
		if capable, ok = b.(T); ok {
			return capable, true
		}
		switch v := b.(type) {
		case interface{ Unwrap() Bucket }:
			b = v.Unwrap()
		case *retrying:
			b = v.b
		case *limited:
			b = v.Bucket
		case *Counter:
			b = v.b
		default:
			return capable, false
		}
	}
	return capable, false
}

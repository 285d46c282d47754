package file

import "time"

// SetHook makes the bucket call hook before each change to the file system. An
// error of hook is returned in place of making the change.
func (b *Bucket) SetHook(hook func(op, path string) error) { b.hook = hook }

// SetNow sets the clock by which hidden files grow stale.
func (b *Bucket) SetNow(now func() time.Time) { b.now = now }

// SetKind sets what tells the kind of the file system that a directory is on.
func (b *Bucket) SetKind(kind func(dir string) (string, error)) { b.kind = kind }

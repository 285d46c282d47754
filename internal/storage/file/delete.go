package file

import (
	"context"
	"path/filepath"
)

// Delete implements storage.Bucket. It is durable when it returns nil. Folders
// that have become empty go too, and so does, from the folders it deletes in,
// what processes killed in a Create more than a day ago have left there.
func (b *Bucket) Delete(ctx context.Context, keys ...string) error {
	var dirs []string // in the order of keys, each once
	seen := make(map[string]bool)
	for _, key := range keys {
		err := checkKey(key)
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = b.unlink(b.path(key))
		}
		if err != nil {
			return b.fail("delete", key, err)
		}
		if dir := filepath.Dir(b.path(key)); !seen[dir] {
			seen[dir] = true
			dirs = append(dirs, dir)
		}
	}
	for _, dir := range dirs {
		err := b.syncDir(dir)
		if err == nil {
			err = b.sweep(dir)
		}
		if err == nil {
			err = b.trim(dir)
		}
		if err != nil {
			return b.fail("delete in", dir, err)
		}
	}
	return nil
}

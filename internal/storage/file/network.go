package file

import (
	"os"
	"path/filepath"
)

// Weakness says what a directory on a network file system doesn't promise, or "".
// Such a client keeps listings of directories for up to a minute (acdirmax of
// NFS), so an object that another host has created may be missing from them;
// what it has created itself it sees. Links are decided by the server, and of a
// link whose answer was lost the file tells whose it is.
func (b *Bucket) Weakness() string {
	dir := b.dir
	for {
		kind, err := b.kind(dir)
		switch parent := filepath.Dir(dir); {
		case err == nil && kind != "":
			return "it is on " + kind + ", where listings may be up to a minute behind what other hosts have written"
		case os.IsNotExist(err) && parent != dir:
			dir = parent // the first push makes it
		default:
			return ""
		}
	}
}

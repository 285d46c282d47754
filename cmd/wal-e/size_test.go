package main_test

import (
	"os"
	"testing"

	"wal-e/internal/pgtest"
)

// maxBinary is what the program may measure in bytes. PostgreSQL starts it for
// each segment, and each of them pays for what it loads and initialises. Most of
// it is the libraries of object stores. It grows by a third when something calls
// text/template or html/template, or reflect's MethodByName: the linker then keeps
// every exported method. Raise it only for something that is worth it.
const maxBinary = 30 << 20

func TestBinarySize(t *testing.T) {
	t.Parallel()
	info, err := os.Stat(pgtest.Binary(t))
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > maxBinary {
		t.Errorf("the program has %d bytes, want at most %d", info.Size(), maxBinary)
	}
}

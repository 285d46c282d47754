package lzop_test

import (
	"bytes"
	"hash/adler32"
	"math/rand/v2"
	"testing"

	"wal-e/compat/lzop"
)

func TestAdler32(t *testing.T) {
	t.Parallel()
	random := make([]byte, 3<<20)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(random) // it never fails
	for what, data := range map[string][]byte{
		"random": random, "all ones": bytes.Repeat([]byte{0xff}, len(random)), "zeros": make([]byte, len(random)),
	} {
		for n := range 1000 {
			if got, want := lzop.Adler32Sum(data[n:2*n]), adler32.Checksum(data[n:2*n]); got != want {
				t.Fatalf("%d bytes, %s: %08x, want %08x", n, what, got, want)
			}
		}
		for _, n := range []int{1<<20 - 1, 1 << 20, 1<<20 + 1, 1<<20 + 129, len(data)} {
			if got, want := lzop.Adler32Sum(data[:n]), adler32.Checksum(data[:n]); got != want {
				t.Errorf("%d bytes, %s: %08x, want %08x", n, what, got, want)
			}
		}
	}
}

func FuzzAdler32(f *testing.F) {
	f.Add([]byte("Wikipedia"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if got, want := lzop.Adler32Sum(data), adler32.Checksum(data); got != want {
			t.Errorf("%08x, want %08x", got, want)
		}
	})
}

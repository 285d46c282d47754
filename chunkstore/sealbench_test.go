package chunkstore_test

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// pages returns n bytes that compress about as heap pages of pgbench do.
func pages(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 0))
	b := make([]byte, n)
	for i := 0; i+32 <= n; i += 32 {
		binary.LittleEndian.PutUint64(b[i:], seed<<40|uint64(i))
		binary.LittleEndian.PutUint32(b[i+8:], r.Uint32())
	}
	return b
}

// BenchmarkPush stores new data, plain and sealed, side by side.
func BenchmarkPush(b *testing.B) {
	data := pages(1, 64<<20)
	for _, kind := range []string{"plain", "sealed"} {
		b.Run(kind, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				bucket := newBucket(b)
				s := open(b, bucket)
				if kind == "sealed" {
					s = sealed(b, s, newKeys(b).Host())
				}
				p := newPusher(b)
				p.cfg.PackSize = 32 << 20
				p.mustPush(b, s, data)
			}
		})
	}
}

package postgres_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"

	"wal-e/internal/postgres"
)

// checksumAsWritten is checksum_impl.h line by line, to compare with.
func checksumAsWritten(page []byte, blkno uint32) uint16 {
	page = bytes.Clone(page)
	page[8], page[9] = 0, 0
	sums := [32]uint32{
		0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C,
		0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB,
		0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
		0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
	}
	comp := func(sum *uint32, value uint32) {
		tmp := *sum ^ value
		*sum = tmp*16777619 ^ tmp>>17
	}
	for i := 0; i < len(page); i += 4 {
		comp(&sums[i/4%32], binary.LittleEndian.Uint32(page[i:]))
	}
	var result uint32
	for i := range sums {
		comp(&sums[i], 0)
		comp(&sums[i], 0)
		result ^= sums[i]
	}
	result ^= blkno
	return uint16(result%65535 + 1)
}

func randomPage(rnd *rand.Rand, size int) []byte {
	page := make([]byte, size)
	for i := 0; i < size; i += 8 {
		binary.LittleEndian.PutUint64(page[i:], rnd.Uint64())
	}
	return page
}

func TestPageChecksum(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{1024, 8192, 32768} {
		for _, blkno := range []uint32{0, 1, 131071, 1<<32 - 2} {
			page := randomPage(rnd, size)
			before := bytes.Clone(page)
			if got, want := postgres.PageChecksum(page, blkno), checksumAsWritten(page, blkno); got != want {
				t.Errorf("PageChecksum of %d bytes, block %d = %04X, want %04X", size, blkno, got, want)
			}
			if !bytes.Equal(page, before) {
				t.Error("PageChecksum changed the page")
			}
		}
	}
}

func TestVerifyPage(t *testing.T) {
	const start, old, young = 0x2_00000000, 0x1_00000000, 0x2_00000000
	newPage := func(lsn postgres.LSN, edit func(page []byte)) []byte {
		page := randomPage(rand.New(rand.NewPCG(3, 4)), 8192)
		binary.LittleEndian.PutUint32(page, uint32(lsn>>32))
		binary.LittleEndian.PutUint32(page[4:], uint32(lsn))
		binary.LittleEndian.PutUint16(page[14:], 8000) // pd_upper
		binary.LittleEndian.PutUint16(page[8:], postgres.PageChecksum(page, 7))
		edit(page)
		return page
	}
	keep := func([]byte) {}
	damage := func(page []byte) { page[5000]++ }
	for _, tt := range []struct {
		name  string
		page  []byte
		blkno uint32
		start postgres.LSN
		want  bool
	}{
		{"right", newPage(old, keep), 7, start, true},
		{"another block", newPage(old, keep), 8, start, false},
		{"damaged", newPage(old, damage), 7, start, false},
		{"damaged checksum", newPage(old, func(p []byte) { p[8]++ }), 7, start, false},
		{"damaged, last LSN before the start", newPage(start-1, damage), 7, start, false},
		{"damaged, changed since the start", newPage(young, damage), 7, start, true},
		{"damaged, young, shut down", newPage(young, damage), 7, postgres.MaxLSN, false},
		{"ones, shut down", bytes.Repeat([]byte{0xFF}, 8192), 7, postgres.MaxLSN, false},
		{"zeros", make([]byte, 8192), 7, start, true},
		{"zeros, shut down", make([]byte, 8192), 7, postgres.MaxLSN, true},
		{"zeros but the last byte", append(make([]byte, 8191), 1), 7, start, false},
		{"no pd_upper, right checksum", newPage(old, func(p []byte) {
			p[14], p[15] = 0, 0
			binary.LittleEndian.PutUint16(p[8:], postgres.PageChecksum(p, 7))
		}), 7, start, false},
	} {
		ok, got, want := postgres.VerifyPage(tt.page, tt.blkno, tt.start)
		if ok != tt.want {
			t.Errorf("%s: VerifyPage = %v, %04X, %04X, want %v", tt.name, ok, got, want, tt.want)
		}
		if !ok && tt.name != "no pd_upper, right checksum" && got == want {
			t.Errorf("%s: VerifyPage found and wants the same checksum %04X", tt.name, got)
		}
	}
}

func BenchmarkPageChecksum(b *testing.B) {
	page := randomPage(rand.New(rand.NewPCG(1, 2)), 8192)
	b.SetBytes(int64(len(page)))
	for b.Loop() {
		postgres.PageChecksum(page, 1)
	}
}

func BenchmarkVerifyPage(b *testing.B) {
	page := make([]byte, 8192)
	b.SetBytes(int64(len(page)))
	for b.Loop() {
		postgres.VerifyPage(page, 1, 1)
	}
}

func FuzzVerifyPage(f *testing.F) {
	f.Add(randomPage(rand.New(rand.NewPCG(1, 2)), 8192), uint32(0), uint64(0))
	f.Add(make([]byte, 1024), uint32(1), uint64(1))
	f.Fuzz(func(t *testing.T, b []byte, blkno uint32, start uint64) {
		page := b[:len(b)&^127]
		if len(page) == 0 {
			return
		}
		if got, want := postgres.PageChecksum(page, blkno), checksumAsWritten(page, blkno); got != want {
			t.Errorf("PageChecksum = %04X, want %04X", got, want)
		}
		if ok, got, want := postgres.VerifyPage(page, blkno, postgres.LSN(start)); !ok && start != 1<<64-1 && postgres.PageLSN(page) >= postgres.LSN(start) {
			t.Error(fmt.Sprint("VerifyPage reports a young page: ", got, want))
		}
	})
}

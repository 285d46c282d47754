package lzop_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/adler32"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"wal-e/compat/lzop"
)

const block = 256 << 10

// program returns the path of Debian's lzop.
func program(t testing.TB) string {
	t.Helper()
	path, err := exec.LookPath("lzop")
	if err != nil {
		t.Fatalf("%v; run: .ci/install-engines classic", err)
	}
	return path
}

// run runs lzop on input.
func run(t testing.TB, input []byte, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program(t), args...)
	var out, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &out, &stderr
	if err := cmd.Run(); err != nil || stderr.Len() > 0 {
		t.Fatalf("lzop %v: %v\n%s", args, err, stderr.Bytes())
	}
	return out.Bytes()
}

func pack(t testing.TB, plain []byte, workers int) []byte {
	t.Helper()
	var out bytes.Buffer
	w := lzop.NewWriter(&out, lzop.Header{Mode: 0o100600, ModTime: time.Unix(1795372594, 0)}, workers)
	if n, err := w.Write(plain); err != nil || n != len(plain) {
		t.Fatalf("Write = %d, %v", n, err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func unpack(packed []byte, workers int) ([]byte, error) {
	return io.ReadAll(lzop.NewReader(bytes.NewReader(packed), workers))
}

// samples are inputs of n bytes of several kinds.
func samples(n int) map[string][]byte {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	random, words, pages := make([]byte, n), make([]byte, 0, n+20), make([]byte, n)
	for i := range random {
		random[i] = byte(r.Uint32())
	}
	for len(words) < n {
		words = append(words, fmt.Sprintf("%x,", r.IntN(5000))...)
	}
	for i := 0; i < n; i += 8192 { // like a heap: a hole of zeros in every page
		copy(pages[i:min(n, i+1500+r.IntN(3000))], words[i:])
	}
	return map[string][]byte{"zeros": make([]byte, n), "random": random, "words": words[:n], "pages": pages}
}

func sizes() []int {
	return []int{0, 1, 2, 3, 4, 5, 17, 18, 19, 237, 238, 239, 240, 300, 4096, 49152, 70000, block - 1, block, block + 1, 3*block + 77}
}

// What we write, lzop and we read; what lzop writes we read.
func TestAgainstLzop(t *testing.T) {
	t.Parallel()
	for _, n := range sizes() {
		for kind, plain := range samples(n) {
			packed := pack(t, plain, 1+n%4)
			if !bytes.Equal(packed, pack(t, plain, 8)) {
				t.Errorf("%s, %d bytes: the result depends on the number of workers", kind, n)
			}
			if got, err := unpack(packed, 1+n%3); err != nil || !bytes.Equal(got, plain) {
				t.Errorf("%s, %d bytes: our own come back as %d bytes, %v", kind, n, len(got), err)
			}
			if got := run(t, packed, "-dc"); !bytes.Equal(got, plain) {
				t.Errorf("%s, %d bytes: lzop makes %d bytes of ours", kind, n, len(got))
			}
			theirs := run(t, plain, "-c")
			if got, err := unpack(theirs, 4); err != nil || !bytes.Equal(got, plain) {
				t.Errorf("%s, %d bytes: lzop's come back as %d bytes, %v", kind, n, len(got), err)
			}
			if kind != "random" && n > 300 && len(packed) > len(theirs)*11/10 {
				t.Errorf("%s, %d bytes: we need %d bytes, lzop %d", kind, n, len(packed), len(theirs))
			}
		}
	}
}

// All levels and checksums of lzop.
func TestOptionsOfLzop(t *testing.T) {
	t.Parallel()
	for level := 1; level <= 9; level++ {
		for _, opt := range []string{"--quiet", "--crc32", "--no-checksum"} {
			for i, n := range []int{0, 1, 5000, block - 1, block, block + 1, 2*block + 5} {
				if (i+level)%3 != 0 && opt != "--quiet" {
					continue
				}
				kind := []string{"pages", "words", "random"}[(i+level)%3]
				plain := samples(n)[kind]
				packed := run(t, plain, "-c", fmt.Sprint("-", level), opt)
				if got, err := unpack(packed, 2); err != nil || !bytes.Equal(got, plain) {
					t.Errorf("-%d %s, %s, %d bytes: %d bytes, %v", level, opt, kind, n, len(got), err)
				}
			}
		}
	}
}

// The header is the one that the original's objects have.
func TestHeader(t *testing.T) {
	t.Parallel()
	packed := pack(t, []byte("x"), 1)
	want := "89 4c 5a 4f 00 0d 0a 1a 0a" + " 10 40 20 a0 09 40 01 05" + " 03 00 00 0d" + " 00 00 81 80" + " 6b 03 36 32 00 00 00 00" + " 00"
	if got := fmt.Sprintf("% x", packed[:34]); got != want {
		t.Errorf("header\n%s, want\n%s", got, want)
	}
	if got := run(t, packed, "-dc"); string(got) != "x" {
		t.Errorf("lzop makes %q of it", got)
	}
}

// A file is built by hand, for what no lzop at hand writes.
type file struct {
	version, needed uint16
	flags           uint32
	method          byte
	extra           []byte
	plain           []byte
	packed          []byte // nil: not compressed
}

func (f file) marshal() []byte {
	sum := func(crc bool, b []byte) uint32 {
		if crc {
			return crc32.ChecksumIEEE(b)
		}
		return adler32.Checksum(b)
	}
	be := binary.BigEndian
	var h []byte
	h = be.AppendUint16(h, f.version)
	h = be.AppendUint16(h, 0x1234)
	if f.version >= 0x0940 {
		h = be.AppendUint16(h, f.needed)
	}
	h = append(h, f.method)
	if f.version >= 0x0940 {
		h = append(h, 7)
	}
	h = be.AppendUint32(h, f.flags)
	if f.flags&0x800 != 0 {
		h = be.AppendUint32(h, 1)
	}
	h = be.AppendUint32(h, 0o100644)
	h = be.AppendUint32(h, 12345)
	if f.version >= 0x0940 {
		h = be.AppendUint32(h, 0)
	}
	h = append(append(h, 4), "name"...)
	out := append([]byte(lzop.Magic), h...)
	out = be.AppendUint32(out, sum(f.flags&0x1000 != 0, h))
	if f.flags&0x40 != 0 {
		x := append(be.AppendUint32(nil, uint32(len(f.extra))), f.extra...)
		out = append(out, x...)
		out = be.AppendUint32(out, sum(f.flags&0x1000 != 0, x))
	}
	packed := f.packed
	if packed == nil {
		packed = f.plain
	}
	out = be.AppendUint32(out, uint32(len(f.plain)))
	out = be.AppendUint32(out, uint32(len(packed)))
	if f.flags&1 != 0 {
		out = be.AppendUint32(out, adler32.Checksum(f.plain))
	}
	if f.flags&0x100 != 0 {
		out = be.AppendUint32(out, crc32.ChecksumIEEE(f.plain))
	}
	if f.flags&2 != 0 && f.packed != nil {
		out = be.AppendUint32(out, adler32.Checksum(packed))
	}
	if f.flags&0x200 != 0 && f.packed != nil {
		out = be.AppendUint32(out, crc32.ChecksumIEEE(packed))
	}
	return append(append(out, packed...), 0, 0, 0, 0)
}

// packedBlock is what a block of plain is compressed to.
func packedBlock(t *testing.T, plain []byte) []byte {
	p := pack(t, plain, 1)[38:]
	return p[12 : 12+binary.BigEndian.Uint32(p[4:])]
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	plain := []byte(strings.Repeat("abcabcabd", 30))
	f := func(change func(*file)) []byte {
		x := file{version: 0x1040, needed: 0x0940, flags: 0x0300000D, method: 1, plain: plain, packed: packedBlock(t, plain)}
		change(&x)
		return x.marshal()
	}
	for _, tc := range []struct {
		name string
		file []byte
		err  error // nil: plain comes out
	}{
		{"as we write", f(func(f *file) {}), nil},
		{"version 0.90", f(func(f *file) { f.version = 0x0900 }), nil},
		{"version 0.80", f(func(f *file) { f.version = 0x0800 }), lzop.ErrUnsupported},
		{"a later version", f(func(f *file) { f.version = 0x2000 }), nil},
		{"wants a later version", f(func(f *file) { f.needed = 0x1050 }), lzop.ErrUnsupported},
		{"method 2", f(func(f *file) { f.method = 2 }), nil},
		{"method 3", f(func(f *file) { f.method = 3 }), nil},
		{"zlib", f(func(f *file) { f.method = 128 }), lzop.ErrUnsupported},
		{"all checksums", f(func(f *file) { f.flags = 0x1303 }), nil},
		{"all checksums, not compressed", f(func(f *file) { f.flags = 0x1303; f.packed = nil }), nil},
		{"checksums of compressed bytes", f(func(f *file) { f.flags = 0x202 }), nil},
		{"no checksums", f(func(f *file) { f.flags = 0 }), nil},
		{"extra field", f(func(f *file) { f.flags |= 0x40; f.extra = make([]byte, 70000) }), nil},
		{"extra field with CRC", f(func(f *file) { f.flags |= 0x1040; f.extra = []byte("x") }), nil},
		{"path, DOS, GMT difference, charset", f(func(f *file) { f.flags = 0x01F020B1 }), nil},
		{"filter", f(func(f *file) { f.flags |= 0x800 }), lzop.ErrUnsupported},
		{"multipart", f(func(f *file) { f.flags |= 0x400 }), lzop.ErrUnsupported},
		{"unknown flag", f(func(f *file) { f.flags |= 0x4000 }), lzop.ErrUnsupported},
		{"padding", append(f(func(f *file) {}), make([]byte, 5000)...), nil},
		{"garbage", append(f(func(f *file) {}), "x"...), lzop.ErrDamaged},
		{"garbage in the padding", append(append(f(func(f *file) {}), make([]byte, 5000)...), "x"...), lzop.ErrDamaged},
		{"block of 4 GB", append(f(func(f *file) {})[:42], "\xff\xff\xff\xfe\xff\xff\xff\xfe\x00\x00\x00\x00"...), lzop.ErrDamaged},
		{"block of 4 GB less 1", append(f(func(f *file) {})[:42], "\xff\xff\xff\xff"...), lzop.ErrUnsupported},
		{"more compressed than not", append(f(func(f *file) {})[:42], "\x00\x00\x00\x04\x00\x00\x00\x05\x00\x00\x00\x00"...), lzop.ErrDamaged},
		{"a byte that stands for 64 MB", append(f(func(f *file) { f.flags = 0 })[:42], "\x04\x00\x00\x00\x00\x00\x00\x01\x11"...), lzop.ErrDamaged},
		{"nothing", nil, lzop.ErrFormat},
		{"short", []byte("\x89LZ"), lzop.ErrFormat},
		{"OpenPGP", []byte("\x85\x01\x0c\x03 and so on, and so on"), lzop.ErrFormat},
	} {
		got, err := unpack(tc.file, 2)
		switch {
		case !errors.Is(err, tc.err) || tc.err == nil && err != nil:
			t.Errorf("%s: error %v, want %v", tc.name, err, tc.err)
		case tc.err == nil && !bytes.Equal(got, plain):
			t.Errorf("%s: %d bytes", tc.name, len(got))
		}
	}
	two := append(f(func(f *file) {}), f(func(f *file) { f.flags = 0x1100 })...)
	if got, err := unpack(two, 1); err != nil || !bytes.Equal(got, append(plain[:len(plain):len(plain)], plain...)) {
		t.Errorf("two members: %d bytes, %v", len(got), err)
	}
}

// Whatever byte is changed or missing, it is an error, and what came before it
// is what it was.
func TestDamage(t *testing.T) {
	t.Parallel()
	plain := samples(9000)["pages"]
	packed := pack(t, plain, 1)
	for i := range packed {
		if got, err := unpack(packed[:i], 1); err == nil || !bytes.HasPrefix(plain, got) || errors.Is(err, io.EOF) {
			t.Errorf("cut at %d of %d: %d bytes, %v", i, len(packed), len(got), err)
		}
		bad := bytes.Clone(packed)
		bad[i] ^= 0x20
		if got, err := unpack(bad, 1); err == nil || !bytes.HasPrefix(plain, got) {
			t.Errorf("byte %d of %d changed: %d bytes, %v", i, len(packed), len(got), err)
		}
	}
}

// What is before a damaged block comes out, and the error names the block.
func TestDamagedBlock(t *testing.T) {
	t.Parallel()
	packed := pack(t, samples(6 * block)["random"], 4)
	packed[len(packed)-block-100] ^= 1
	got, err := unpack(packed, 4)
	if len(got) != 4*block || !errors.Is(err, lzop.ErrDamaged) || !strings.Contains(err.Error(), "block 4") {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// An error of the store isn't damage.
func TestReaderError(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	packed := pack(t, samples(3 * block)["random"], 1)
	for _, n := range []int{0, 5, 20, 40, 45, 1000, 2 * block, len(packed)} {
		r := io.MultiReader(bytes.NewReader(packed[:n]), iotest.ErrReader(broken))
		if _, err := io.ReadAll(lzop.NewReader(r, 2)); !errors.Is(err, broken) || errors.Is(err, lzop.ErrDamaged) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
	var w failing
	z := lzop.NewWriter(&w, lzop.Header{}, 1)
	if _, err := z.Write(make([]byte, 2*block)); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("Write = %v", err)
	}
	if err := z.Close(); !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("Close = %v", err)
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

// Small reads and writes make no difference.
func TestSmallPieces(t *testing.T) {
	t.Parallel()
	plain := samples(2*block + 9)["words"]
	var out bytes.Buffer
	w := lzop.NewWriter(&out, lzop.Header{ModTime: time.Unix(1, 0)}, 3)
	if _, err := io.CopyBuffer(struct{ io.Writer }{w}, iotest.HalfReader(bytes.NewReader(plain)), make([]byte, 777)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("x")); err == nil {
		t.Error("Write after Close succeeded")
	}
	r := lzop.NewReader(iotest.OneByteReader(&out), 2)
	var got bytes.Buffer
	if _, err := io.CopyBuffer(struct{ io.Writer }{&got}, struct{ io.Reader }{r}, make([]byte, 555)); err != nil || !bytes.Equal(got.Bytes(), plain) {
		t.Errorf("%d bytes, %v", got.Len(), err)
	}
}

func FuzzReader(f *testing.F) {
	for _, plain := range samples(3000) {
		f.Add(pack(f, plain, 1))
	}
	f.Add(file{version: 0x0900, flags: 0x1343, method: 1, plain: []byte("abc"), extra: []byte("x")}.marshal())
	f.Fuzz(func(t *testing.T, b []byte) {
		a, errA := unpack(b, 1)
		c, errC := unpack(b, 3)
		if !bytes.Equal(a, c) || (errA == nil) != (errC == nil) {
			t.Errorf("one worker: %d bytes, %v; three: %d bytes, %v", len(a), errA, len(c), errC)
		}
		if len(a) > 256*len(b) {
			t.Errorf("%d bytes of %d", len(a), len(b))
		}
	})
}

func FuzzRoundTrip(f *testing.F) {
	for _, plain := range samples(3000) {
		f.Add(plain)
	}
	f.Fuzz(func(t *testing.T, plain []byte) {
		if got, err := unpack(pack(t, plain, 2), 2); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%d bytes come back as %d, %v", len(plain), len(got), err)
		}
	})
}

func BenchmarkWriter(b *testing.B) {
	plain := samples(16 << 20)["pages"]
	b.SetBytes(int64(len(plain)))
	for b.Loop() {
		pack(b, plain, 1)
	}
}

func BenchmarkReader(b *testing.B) {
	packed := pack(b, samples(16 << 20)["pages"], 1)
	b.SetBytes(16 << 20)
	for b.Loop() {
		if _, err := io.Copy(io.Discard, lzop.NewReader(bytes.NewReader(packed), 1)); err != nil {
			b.Fatal(err)
		}
	}
}

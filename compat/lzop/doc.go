// Package lzop reads and writes the container of the program lzop, in which
// classic WAL-E keeps every partition and WAL file.
//
// A Reader takes what any lzop from 0.90 on writes with an LZO method: every
// level, both kinds of checksums on both sides, names, extra fields, several
// members one after the other. Every checksum is verified, and a stream that
// ends early is an error. A Writer writes what the original gets from
// `lzop -c`: LZO1X-1, blocks of 256 KiB, Adler-32 of the plain bytes.
//
// Blocks are independent of each other, so both work on several at once. Memory
// is bounded by the number of workers and the size of a block, at most 64 MiB by
// the format and 256 KiB in practice; no allocation comes from a length that
// was not checked.
//
// Compressing is done by github.com/rasky/go-lzo. Decompressing is not: that
// library's output has no bound (a block of 1 MiB that says it holds 100 bytes
// became 255 MiB), and what we read may come from anybody. The decompressor here is
// written after the description of the bit stream in the documentation of Linux
// (lib/lzo: "LZO stream format as understood by Linux's LZO decompressor"), fills a
// buffer of the length that the block says, and never leaves it.
package lzop

import "errors"

// Errors that callers branch on; every error of a Reader wraps one of them, or
// one of the reader below it.
var (
	// ErrFormat is wrapped when the bytes are not those of an lzop file at all.
	ErrFormat = errors.New("not an lzop file")
	// ErrDamaged is wrapped when an lzop file ends early, or a checksum or a
	// length in it is wrong.
	ErrDamaged = errors.New("damaged lzop file")
	// ErrUnsupported is wrapped when an lzop file uses what we don't read.
	ErrUnsupported = errors.New("unsupported lzop file")
)

// Magic begins every lzop file.
const Magic = "\x89LZO\x00\r\n\x1a\n"

// Sizes of blocks, in plain bytes.
const (
	blockSize    = 256 << 10 // that we write, as lzop does
	maxBlockSize = 64 << 20  // that lzop reads
)

// Flags of a header (conf.h of lzop 1.04).
const (
	flagAdlerPlain  = 1 << 0 // of each block's plain bytes
	flagAdlerPacked = 1 << 1 // of each block's compressed bytes
	flagStdin       = 1 << 2
	flagStdout      = 1 << 3
	flagExtra       = 1 << 6
	flagCRCPlain    = 1 << 8
	flagCRCPacked   = 1 << 9
	flagMultipart   = 1 << 10
	flagFilter      = 1 << 11
	flagHeaderCRC   = 1 << 12
	flagsKnown      = 1<<14 - 1
	flagsOS         = 0xFF000000
	flagsCharset    = 0x00F00000
	flagUnix        = 3 << 24
)

// Methods.
const (
	methodLZO1X1   = 1
	methodLZO1X115 = 2 // a smaller table; the same stream
	methodLZO1X999 = 3 // searches longer; the same stream
)

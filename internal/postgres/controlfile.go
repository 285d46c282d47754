package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"math/bits"
	"os"
	"path/filepath"
	"time"

	"wal-e/internal/fault"
)

// A ControlFile is what global/pg_control says of a cluster.
type ControlFile struct {
	SystemID       SystemID
	FormatVersion  uint32 // pg_control_version: 960 is 9.6, 1300 is 13 to 16
	CatalogVersion uint32
	State          State
	Time           time.Time // when pg_control was last written
	Checkpoint     Checkpoint

	MinRecoveryPoint    LSN // zero unless recovering from an archive
	MinRecoveryTimeline Timeline
	BackupStartPoint    LSN // these three are set while recovering from a base backup
	BackupEndPoint      LSN
	BackupEndRequired   bool

	WALLevel              WALLevel
	WALLogHints           bool
	MaxConnections        int
	MaxWorkerProcesses    int
	MaxWALSenders         int // zero before 12, which does not record it
	MaxPreparedXacts      int
	MaxLocksPerXact       int
	TrackCommitTimestamps bool

	BlockSize       uint32
	BlocksPerFile   uint32 // of a relation's files but the last (relseg_size)
	WALBlockSize    uint32
	WALSegmentSize  SegmentSize
	ChecksumVersion uint32 // zero without data checksums
}

// A Checkpoint is the latest checkpoint, where recovery would begin.
type Checkpoint struct {
	LSN              LSN // of the checkpoint's record
	Redo             LSN
	Timeline         Timeline
	PreviousTimeline Timeline // differs if the checkpoint begins a timeline
	FullPageWrites   bool
	Time             time.Time
}

// A State is the cluster's DBState.
type State uint32

// The states, in PostgreSQL's order.
const (
	Starting State = iota
	ShutDown
	ShutDownInRecovery
	ShuttingDown
	InCrashRecovery
	InArchiveRecovery
	InProduction
)

// String returns the words of pg_controldata.
func (s State) String() string {
	switch s {
	case Starting:
		return "starting up"
	case ShutDown:
		return "shut down"
	case ShutDownInRecovery:
		return "shut down in recovery"
	case ShuttingDown:
		return "shutting down"
	case InCrashRecovery:
		return "in crash recovery"
	case InArchiveRecovery:
		return "in archive recovery"
	case InProduction:
		return "in production"
	}
	return fmt.Sprintf("unrecognized state %d", uint32(s))
}

// A WALLevel is the setting wal_level.
type WALLevel uint32

// The levels, in PostgreSQL's order.
const (
	WALMinimal WALLevel = iota
	WALReplica
	WALLogical
)

func (l WALLevel) String() string {
	switch l {
	case WALMinimal:
		return "minimal"
	case WALReplica:
		return "replica"
	case WALLogical:
		return "logical"
	}
	return fmt.Sprintf("unrecognized wal_level %d", uint32(l))
}

// ErrControlFileChecksum is wrapped by the error for a pg_control whose CRC is
// wrong. While a server runs, that may be a read in the middle of a write.
var ErrControlFileChecksum = fault.BadControl.Errorf("pg_control has a wrong checksum")

// controlFileSize is PG_CONTROL_FILE_SIZE; the struct takes less than 512 bytes of it.
const controlFileSize = 8192

// ReadControlFile reads global/pg_control of a data directory, and returns its
// bytes too. A wrong CRC makes it read again, up to a second.
func ReadControlFile(ctx context.Context, dir string) (*ControlFile, []byte, error) {
	const attempts, pause = 20, 50 * time.Millisecond
	name := filepath.Join(dir, "global", "pg_control")
	for i := 1; ; i++ {
		b, err := readControlFile(name)
		if err != nil {
			return nil, nil, err
		}
		c, err := ParseControlFile(b)
		if err == nil {
			return c, b, nil
		}
		if !errors.Is(err, ErrControlFileChecksum) || i == attempts {
			return nil, nil, fmt.Errorf("read %s: %w", name, err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, nil, fmt.Errorf("read %s: %w (last: %w)", name, ctx.Err(), err)
		}
	}
}

func readControlFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, controlFileSize))
}

// A controlLayout says where a format of pg_control has what moved between
// formats. The fields' order is that of ControlFileData in pg_control.h.
type controlLayout struct {
	prevCheckpoint bool // until 10: the checkpoint before the last
	xid64          bool // since 12: nextXid is one 64-bit number, which moves what follows
	walSenders     bool // since 12: max_wal_senders
	nonce          bool // since 10: mock_authentication_nonce
	charSignedness bool // since 18: default_char_signedness
}

func layoutOf(formatVersion uint32) (controlLayout, bool) {
	switch formatVersion {
	case 960: // 9.6
		return controlLayout{prevCheckpoint: true}, true
	case 1002: // 10
		return controlLayout{prevCheckpoint: true, nonce: true}, true
	case 1100: // 11
		return controlLayout{nonce: true}, true
	case 1201, 1300, 1700: // 12, 13 to 16, 17
		return controlLayout{nonce: true, xid64: true, walSenders: true}, true
	case 1800: // 18
		return controlLayout{nonce: true, xid64: true, walSenders: true, charSignedness: true}, true
	}
	return controlLayout{}, false
}

// ParseControlFile parses the bytes of pg_control, of which it needs the first
// 512. It takes the struct as compilers lay it out on little-endian 64-bit machines.
func ParseControlFile(b []byte) (*ControlFile, error) {
	if len(b) < 512 {
		return nil, fault.BadControl.Errorf("postgres: pg_control has %d bytes: want %d", len(b), controlFileSize)
	}
	format := binary.LittleEndian.Uint32(b[8:])
	layout, ok := layoutOf(format)
	if !ok {
		if _, ok := layoutOf(bits.ReverseBytes32(format)); ok {
			return nil, fault.BadControl.Errorf("postgres: pg_control is big-endian: clusters of little-endian machines only are supported")
		}
		return nil, fault.BadControl.Errorf("postgres: pg_control has format version %d: want that of PostgreSQL 9.6 to 18", format)
	}
	r := &structReader{b: b}
	c := r.controlFile(layout)
	end := r.align(4)
	if crc32.Checksum(b[:end], crc32.MakeTable(crc32.Castagnoli)) != r.u32() {
		return nil, fmt.Errorf("postgres: %w (format version %d)", ErrControlFileChecksum, format)
	}
	return c, c.check(r)
}

// check refuses what no server writes, although the CRC is right.
func (c *ControlFile) check(r *structReader) error {
	switch {
	case r.maxAlign != 8 || r.float != 1234567.0:
		return fault.BadControl.Errorf("postgres: pg_control comes from a machine with another alignment (%d) or floating-point format", r.maxAlign)
	case !isPageSize(c.BlockSize, 32<<10):
		return fault.BadControl.Errorf("postgres: pg_control has block size %d", c.BlockSize)
	case !isPageSize(c.WALBlockSize, 64<<10):
		return fault.BadControl.Errorf("postgres: pg_control has WAL block size %d", c.WALBlockSize)
	case c.BlocksPerFile == 0:
		return fault.BadControl.Errorf("postgres: pg_control has relation files of no blocks")
	case c.Checkpoint.Timeline == 0:
		return fault.BadControl.Errorf("postgres: pg_control has no timeline")
	}
	return c.WALSegmentSize.Check()
}

func isPageSize(size, limit uint32) bool {
	return size >= 1024 && size <= limit && size&(size-1) == 0
}

// RecoveryWAL returns the range of WAL that a server needs to start from these
// files alone: from REDO to the end of the checkpoint's record, or of what was
// replayed if that is later. Of a cluster that is shut down it is all there is to
// replay. On a standby the end is on MinRecoveryTimeline.
func (c *ControlFile) RecoveryWAL() (start, end LSN) {
	return c.Checkpoint.Redo, max(c.checkpointEnd(), c.MinRecoveryPoint)
}

// checkpointEnd returns where the record after the checkpoint's begins. A record
// goes on behind the header of the next page, which is longer in a segment's first
// (xlogrecord.h, xlog_internal.h).
func (c *ControlFile) checkpointEnd() LSN {
	const (
		recordHeader = 24 + 2 // SizeOfXLogRecord and SizeOfXLogRecordDataHeaderShort
		pageHeader   = walPageHeaderSize
		longHeader   = walLongHeaderSize
	)
	left := LSN(recordHeader + 80)
	if l, _ := layoutOf(c.FormatVersion); l.xid64 {
		left = recordHeader + 88
	}
	pos := c.Checkpoint.LSN
	for {
		page := LSN(c.WALBlockSize)
		room := page - pos%page
		if left <= room {
			return (pos + left + 7) &^ 7
		}
		left -= room
		pos += room
		if c.WALSegmentSize.Offset(pos) == 0 {
			pos += longHeader
		} else {
			pos += pageHeader
		}
	}
}

// A structReader reads the fields of a C struct in their order, each aligned to
// its size. Its bytes are known to suffice.
type structReader struct {
	b        []byte
	off      int
	maxAlign uint32
	float    float64
}

func (r *structReader) controlFile(l controlLayout) *ControlFile {
	c := &ControlFile{
		SystemID:       SystemID(r.u64()),
		FormatVersion:  r.u32(),
		CatalogVersion: r.u32(),
		State:          State(r.u32()),
		Time:           r.time(),
	}
	c.Checkpoint.LSN = r.lsn()
	if l.prevCheckpoint {
		r.lsn()
	}
	r.checkpoint(&c.Checkpoint, l)
	r.lsn() // unloggedLSN
	c.MinRecoveryPoint = r.lsn()
	c.MinRecoveryTimeline = Timeline(r.u32())
	c.BackupStartPoint = r.lsn()
	c.BackupEndPoint = r.lsn()
	c.BackupEndRequired = r.bool()

	c.WALLevel = WALLevel(r.u32())
	c.WALLogHints = r.bool()
	c.MaxConnections = r.int()
	c.MaxWorkerProcesses = r.int()
	if l.walSenders {
		c.MaxWALSenders = r.int()
	}
	c.MaxPreparedXacts = r.int()
	c.MaxLocksPerXact = r.int()
	c.TrackCommitTimestamps = r.bool()

	r.maxAlign = r.u32()
	r.float = math.Float64frombits(r.u64())

	c.BlockSize = r.u32()
	c.BlocksPerFile = r.u32()
	c.WALBlockSize = r.u32()
	c.WALSegmentSize = SegmentSize(r.u32())
	r.skip(4 * 4) // nameDataLen, indexMaxKeys, toast_max_chunk_size, loblksize
	r.skip(4)     // enableIntTimes until 9.6, float4ByVal until 12, float8ByVal; padding
	c.ChecksumVersion = r.u32()
	if l.charSignedness {
		r.bool()
	}
	if l.nonce {
		r.skip(32)
	}
	return c
}

// checkpoint reads struct CheckPoint.
func (r *structReader) checkpoint(c *Checkpoint, l controlLayout) {
	start := r.align(8)
	c.Redo = r.lsn()
	c.Timeline = Timeline(r.u32())
	c.PreviousTimeline = Timeline(r.u32())
	c.FullPageWrites = r.bool()
	if l.xid64 { // wal_level of 17 is in what was padding
		r.u64()
	} else {
		r.u32() // nextXidEpoch
		r.u32() // nextXid
	}
	r.skip(7 * 4) // nextOid to oldestMultiDB
	c.Time = r.time()
	r.skip(3 * 4) // oldestCommitTsXid, newestCommitTsXid, oldestActiveXid
	r.off = start + (r.off-start+7)&^7
}

func (r *structReader) align(n int) int {
	r.off = (r.off + n - 1) &^ (n - 1)
	return r.off
}

func (r *structReader) skip(n int) { r.off += n }

func (r *structReader) u32() uint32 {
	off := r.align(4)
	r.off += 4
	return binary.LittleEndian.Uint32(r.b[off:])
}

func (r *structReader) u64() uint64 {
	off := r.align(8)
	r.off += 8
	return binary.LittleEndian.Uint64(r.b[off:])
}

func (r *structReader) bool() bool {
	r.off++
	return r.b[r.off-1] != 0
}

func (r *structReader) int() int        { return int(int32(r.u32())) }
func (r *structReader) lsn() LSN        { return LSN(r.u64()) }
func (r *structReader) time() time.Time { return time.Unix(int64(r.u64()), 0).UTC() }

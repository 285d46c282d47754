package postgres_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"hash/crc32"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"wal-e/internal/postgres"
)

// controlFunctions is what pg_control_system(), pg_control_checkpoint(),
// pg_control_init() and pg_control_recovery() returned for a golden file.
type controlFunctions struct {
	FormatVersion  uint32    `json:"pg_control_version"`
	CatalogVersion uint32    `json:"catalog_version_no"`
	SystemID       uint64    `json:"system_identifier"`
	Modified       time.Time `json:"pg_control_last_modified"`
	Checkpoint     string    `json:"checkpoint_lsn"`
	Redo           string    `json:"redo_lsn"`
	Timeline       uint32    `json:"timeline_id"`
	PrevTimeline   uint32    `json:"prev_timeline_id"`
	FullPageWrites bool      `json:"full_page_writes"`
	CheckpointTime time.Time `json:"checkpoint_time"`
	BlockSize      uint32    `json:"database_block_size"`
	BlocksPerFile  uint32    `json:"blocks_per_segment"`
	WALBlockSize   uint32    `json:"wal_block_size"`
	SegmentSize    uint32    `json:"bytes_per_wal_segment"`
	Checksums      uint32    `json:"data_page_checksum_version"`
	MinRecovery    string    `json:"min_recovery_end_lsn"`
	MinRecoveryTL  uint32    `json:"min_recovery_end_timeline"`
	BackupStart    string    `json:"backup_start_lsn"`
	BackupEnd      string    `json:"backup_end_lsn"`
	EndRequired    bool      `json:"end_of_backup_record_required"`
}

func controlFunctionsOf(c *postgres.ControlFile) controlFunctions {
	return controlFunctions{
		c.FormatVersion, c.CatalogVersion, uint64(c.SystemID), c.Time,
		c.Checkpoint.LSN.String(), c.Checkpoint.Redo.String(), uint32(c.Checkpoint.Timeline), uint32(c.Checkpoint.PreviousTimeline),
		c.Checkpoint.FullPageWrites, c.Checkpoint.Time,
		c.BlockSize, c.BlocksPerFile, c.WALBlockSize, uint32(c.WALSegmentSize), c.ChecksumVersion,
		c.MinRecoveryPoint.String(), uint32(c.MinRecoveryTimeline), c.BackupStartPoint.String(), c.BackupEndPoint.String(), c.BackupEndRequired,
	}
}

// goldenMajors are the releases of which testdata has a pg_control, each of a
// primary in production with settings of its own, 14 and 16 with segments of 1 and
// 64 MB, and what its server said of it. pg_control.standby.18 is a standby's.
func goldenMajors() []string { return []string{"13", "14", "15", "16", "17", "18", "standby.18"} }

func readGolden(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParseControlFileGolden(t *testing.T) {
	for _, major := range goldenMajors() {
		t.Run(major, func(t *testing.T) {
			c, err := postgres.ParseControlFile(readGolden(t, "pg_control."+major))
			if err != nil {
				t.Fatal(err)
			}
			var want controlFunctions
			if err := json.Unmarshal(readGolden(t, "pg_control."+major+".json"), &want); err != nil {
				t.Fatal(err)
			}
			got := controlFunctionsOf(c)
			for _, at := range []*time.Time{&got.Modified, &got.CheckpointTime, &want.Modified, &want.CheckpointTime} {
				*at = at.UTC()
			}
			if got != want {
				t.Errorf("ParseControlFile = %+v\nthe server says   %+v", got, want)
			}
			// What no function shows, as the server was configured.
			wantState := postgres.InProduction
			if major == "standby.18" {
				wantState = postgres.InArchiveRecovery
			}
			type settings struct {
				State                                       postgres.State
				Level                                       postgres.WALLevel
				Hints, Timestamps                           bool
				Connections, Workers, Senders, Xacts, Locks int
			}
			wantSettings := settings{wantState, postgres.WALLogical, true, true, 50 + int(majorOf(major)/10000), 9, 7, 3, 70}
			if got := (settings{c.State, c.WALLevel, c.WALLogHints, c.TrackCommitTimestamps, c.MaxConnections, c.MaxWorkerProcesses,
				c.MaxWALSenders, c.MaxPreparedXacts, c.MaxLocksPerXact}); got != wantSettings {
				t.Errorf("ParseControlFile = %+v, want %+v", got, wantSettings)
			}
		})
	}
}

func majorOf(golden string) postgres.Version {
	v, err := postgres.ParseVersion(golden[strings.LastIndex(golden, ".")+1:])
	if err != nil {
		panic(err)
	}
	return v
}

// oldControlFile builds the struct of 9.6 to 12 at the offsets that pg_control.h
// of those releases gives on 64-bit machines. There is no server of them to ask:
// these files are synthetic.
func oldControlFile(format uint32) []byte {
	b := make([]byte, 8192)
	u32 := func(off int, v uint32) { binary.LittleEndian.PutUint32(b[off:], v) }
	u64 := func(off int, v uint64) { binary.LittleEndian.PutUint64(b[off:], v) }
	u64(0, 6500000000000000001)
	u32(8, format)
	u32(12, 201608131)
	u32(16, uint32(postgres.ShutDownInRecovery))
	u64(24, 1500000000)
	u64(32, 0x1_02000060)
	cp, rest := 40, 128 // CheckPoint; what follows it
	switch format {
	case 960, 1002:
		u64(40, 0x1_01000060) // prevCheckPoint
		cp, rest = 48, 128
	case 1100:
		rest = 120
	}
	u64(cp, 0x1_02000028)
	u32(cp+8, 3)
	u32(cp+12, 2)
	b[cp+16] = 1
	if format == 1201 {
		u64(cp+64, 1500000001)
	} else {
		u64(cp+56, 1500000001)
	}
	u64(rest, 1) // unloggedLSN
	u64(rest+8, 0x1_03000000)
	u32(rest+16, 3)
	u64(rest+24, 0x1_01000000)
	u64(rest+32, 0x1_03000100)
	b[rest+40] = 1
	u32(rest+44, 1) // wal_level
	b[rest+48] = 1
	u32(rest+52, 101) // MaxConnections
	u32(rest+56, 102)
	off := rest + 60
	if format == 1201 {
		u32(off, 103) // max_wal_senders
		off += 4
	}
	u32(off, 104)
	u32(off+4, 105)
	b[off+8] = 1
	u32(off+12, 8) // maxAlign
	off = (off + 16 + 7) &^ 7
	u64(off, math.Float64bits(1234567.0))
	u32(off+8, 8192)
	u32(off+12, 131072)
	u32(off+16, 8192)
	u32(off+20, 16*mb)
	u32(off+24, 64)
	u32(off+40, 0x00010101) // the flags of pass-by-value
	u32(off+44, 1)
	crc := off + 48
	if format != 960 {
		crc += 32
	}
	return withCRC(b, crc)
}

func withCRC(b []byte, off int) []byte {
	binary.LittleEndian.PutUint32(b[off:], crc32.Checksum(b[:off], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// crcOffset is where the format of a golden file has its CRC.
func crcOffset(format uint32) int {
	return map[uint32]int{960: 240, 1002: 272, 1100: 264, 1201: 280, 1300: 288, 1700: 288, 1800: 292}[format]
}

func TestParseControlFileOld(t *testing.T) {
	for _, format := range []uint32{960, 1002, 1100, 1201} {
		got, err := postgres.ParseControlFile(oldControlFile(format))
		if err != nil {
			t.Errorf("ParseControlFile of format %d: %v", format, err)
			continue
		}
		want := &postgres.ControlFile{
			SystemID: 6500000000000000001, FormatVersion: format, CatalogVersion: 201608131,
			State: postgres.ShutDownInRecovery, Time: time.Unix(1500000000, 0).UTC(),
			Checkpoint: postgres.Checkpoint{LSN: 0x1_02000060, Redo: 0x1_02000028, Timeline: 3, PreviousTimeline: 2,
				FullPageWrites: true, Time: time.Unix(1500000001, 0).UTC()},
			MinRecoveryPoint: 0x1_03000000, MinRecoveryTimeline: 3,
			BackupStartPoint: 0x1_01000000, BackupEndPoint: 0x1_03000100, BackupEndRequired: true,
			WALLevel: postgres.WALReplica, WALLogHints: true, MaxConnections: 101, MaxWorkerProcesses: 102,
			MaxPreparedXacts: 104, MaxLocksPerXact: 105, TrackCommitTimestamps: true,
			BlockSize: 8192, BlocksPerFile: 131072, WALBlockSize: 8192, WALSegmentSize: 16 * mb, ChecksumVersion: 1,
		}
		if format == 1201 {
			want.MaxWALSenders = 103
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("ParseControlFile of format %d = %+v\nwant %+v", format, got, want)
		}
	}
}

func TestParseControlFileRefuses(t *testing.T) {
	golden := readGolden(t, "pg_control.15")
	edit := func(edit func(b []byte)) []byte {
		b := append([]byte(nil), golden...)
		edit(b)
		return b
	}
	u32 := func(off int, v uint32) []byte { // with the right CRC
		return edit(func(b []byte) { binary.LittleEndian.PutUint32(b[off:], v); withCRC(b, crcOffset(1300)) })
	}
	for _, tt := range []struct {
		name string
		b    []byte
		want string
	}{
		{"empty", nil, "0 bytes"},
		{"short", golden[:511], "511 bytes"},
		{"zeros", make([]byte, 8192), "format version 0"},
		{"9.5", u32(8, 942), "format version 942"},
		{"future", u32(8, 1900), "format version 1900"},
		{"big-endian", edit(func(b []byte) { binary.BigEndian.PutUint32(b[8:], 1300) }), "big-endian"},
		{"first byte", edit(func(b []byte) { b[0]++ }), "wrong checksum"},
		{"last byte before the CRC", edit(func(b []byte) { b[crcOffset(1300)-1]++ }), "wrong checksum"},
		{"CRC", edit(func(b []byte) { b[crcOffset(1300)]++ }), "wrong checksum"},
		{"another format's layout", edit(func(b []byte) { binary.LittleEndian.PutUint32(b[8:], 1800) }), "wrong checksum"},
		{"alignment", u32(204, 4), "alignment"},
		{"block size", u32(216, 12345), "block size 12345"},
		{"relation files", u32(220, 0), "no blocks"},
		{"WAL block size", u32(224, 0), "WAL block size 0"},
		{"segment size", u32(228, 3<<20), "segment size"},
		{"timeline", u32(48, 0), "no timeline"},
	} {
		if c, err := postgres.ParseControlFile(tt.b); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: ParseControlFile = %+v, %v, want an error with %q", tt.name, c, err, tt.want)
		}
	}
}

func TestReadControlFile(t *testing.T) {
	t.Parallel()
	good := readGolden(t, "pg_control.18")
	torn := append([]byte(nil), good...)
	torn[40]++
	newDir := func(b []byte) (dir, name string) {
		dir = t.TempDir()
		name = filepath.Join(dir, "global", "pg_control")
		if err := os.Mkdir(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return dir, name
	}
	t.Run("waits for the end of a write", func(t *testing.T) {
		t.Parallel()
		dir, name := newDir(torn)
		written := make(chan error)
		go func() {
			time.Sleep(150 * time.Millisecond) // the write that the read meets
			written <- os.WriteFile(name, good, 0o600)
		}()
		c, b, err := postgres.ReadControlFile(t.Context(), dir)
		if err := <-written; err != nil {
			t.Fatal(err)
		}
		if err != nil || c.FormatVersion != 1800 || string(b) != string(good) {
			t.Errorf("ReadControlFile = %+v, %d bytes, %v, want the file written meanwhile", c, len(b), err)
		}
	})
	t.Run("gives up", func(t *testing.T) {
		t.Parallel()
		dir, _ := newDir(torn)
		if _, _, err := postgres.ReadControlFile(t.Context(), dir); !errors.Is(err, postgres.ErrControlFileChecksum) {
			t.Errorf("ReadControlFile of a damaged file: %v, want %v", err, postgres.ErrControlFileChecksum)
		}
	})
	t.Run("stops with its context", func(t *testing.T) {
		t.Parallel()
		dir, _ := newDir(torn)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		_, _, err := postgres.ReadControlFile(ctx, dir)
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, postgres.ErrControlFileChecksum) {
			t.Errorf("ReadControlFile = %v, want the context's error and the last one", err)
		}
	})
	t.Run("no file", func(t *testing.T) {
		t.Parallel()
		if _, _, err := postgres.ReadControlFile(t.Context(), t.TempDir()); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("ReadControlFile of an empty folder: %v, want %v", err, os.ErrNotExist)
		}
	})
}

// The record of a checkpoint is 106 bytes before 12 and 114 since; it goes on
// behind the header of the next page, and ends at a multiple of eight.
func TestRecoveryWAL(t *testing.T) {
	for _, tt := range []struct {
		name       string
		format     uint32
		checkpoint postgres.LSN
		replayed   postgres.LSN
		end        postgres.LSN
	}{
		{"11", 1100, 0x2000028, 0, 0x2000098},
		{"12", 1201, 0x2000028, 0, 0x20000A0},
		{"replayed further", 1201, 0x2000028, 0x2001000, 0x2001000},
		{"replayed less", 1201, 0x2000028, 0x2000028, 0x20000A0},
		{"next page", 1300, 0x2003FF8, 0, 0x2004000 + 24 + 112},
		{"fills the page", 1300, 0x2004000 - 120, 0, 0x2004000},
		{"next segment", 1300, 0x3000000 - 16, 0, 0x3000000 + 40 + 104},
	} {
		c := &postgres.ControlFile{FormatVersion: tt.format, MinRecoveryPoint: tt.replayed, WALBlockSize: 8192, WALSegmentSize: 16 * mb,
			Checkpoint: postgres.Checkpoint{LSN: tt.checkpoint, Redo: 0x1FFFFF0}}
		if start, end := c.RecoveryWAL(); start != 0x1FFFFF0 || end != tt.end {
			t.Errorf("%s: RecoveryWAL = %s, %s, want 0/1FFFFF0, %s", tt.name, start, end, tt.end)
		}
	}
}

func TestVersion(t *testing.T) {
	for _, tt := range []struct {
		in     string
		want   postgres.Version
		major  string
		number string
	}{
		{"9.6\n", postgres.V9_6, "9.6", "9.6.0"},
		{"10", postgres.V10, "10", "10.0"},
		{"18\n", postgres.V18, "18", "18.0"},
	} {
		got, err := postgres.ParseVersion(tt.in)
		if err != nil || got != tt.want || got.Major() != tt.major || got.String() != tt.number {
			t.Errorf("ParseVersion(%q) = %d, %v, want %d", tt.in, got, err, tt.want)
		}
	}
	if got := postgres.Version(90624).String(); got != "9.6.24" {
		t.Errorf("Version(90624) = %s, want 9.6.24", got)
	}
	for _, in := range []string{"", "9", "15.4", "9.6.24", "-1", "9.", "x", "99999999999"} {
		if v, err := postgres.ParseVersion(in); err == nil {
			t.Errorf("ParseVersion(%q) = %v, want an error", in, v)
		}
	}
}

func FuzzParseControlFile(f *testing.F) {
	for _, major := range goldenMajors() {
		f.Add(readGolden(f, "pg_control."+major)[:512], true)
	}
	f.Add(oldControlFile(960)[:512], true)
	f.Add(oldControlFile(1002)[:512], false)
	f.Fuzz(func(t *testing.T, b []byte, fix bool) {
		if len(b) >= 512 && fix { // get behind the CRC
			if off := crcOffset(binary.LittleEndian.Uint32(b[8:])); off > 0 {
				b = withCRC(append([]byte(nil), b...), off)
			}
		}
		c, err := postgres.ParseControlFile(b)
		if err != nil {
			return
		}
		if _, end := c.RecoveryWAL(); end < c.MinRecoveryPoint {
			t.Errorf("RecoveryWAL ends at %s, before %s", end, c.MinRecoveryPoint)
		}
		_ = c.State.String() + c.WALLevel.String()
	})
}

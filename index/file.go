package index

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"syscall"

	bolt "go.etcd.io/bbolt"
)

// The file of a table is a bbolt file with a trailer, and isn't changed once it
// is in place:
//
//	0  8  magic "WALETBL1"
//	8  8  length of the bbolt file, little-endian
//	16 4  CRC-32C of the bbolt file and of the 16 bytes before this, little-endian
//
// bbolt trusts its file: what is wrong in the tree makes it panic, also in
// goroutines of its own, or run until the stack is full, and neither can be
// stopped. So nothing is opened that isn't as it was written.
const (
	tableMagic  = "WALETBL1"
	trailerSize = 20
)

// replaceFile puts a file that fill writes in the place of the one at path.
func replaceFile(path string, fill func(*bolt.DB) error) error {
	name := path + ".new"
	err := fillFile(name, fill)
	if err == nil {
		err = sealFile(name)
	}
	if err != nil {
		_ = os.Remove(name) // the error that matters is err
		return err
	}
	if err := os.Rename(name, path); err != nil {
		return fmt.Errorf("index: %w", err)
	}
	return nil
}

func fillFile(name string, fill func(*bolt.DB) error) (err error) {
	db, err := create(name)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := db.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("index: close table: %w", cerr)
		}
	}()
	return fill(db)
}

// create makes a new bbolt file at path. It is written once and either sealed
// or removed, so nothing in it need be synced before.
func create(path string) (*bolt.DB, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("index: %w", err)
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoSync: true, NoFreelistSync: true, FreelistType: bolt.FreelistMapType})
	if err != nil {
		return nil, fmt.Errorf("index: create %s: %w", path, err)
	}
	return db, nil
}

// sealFile appends the trailer to a bbolt file and makes it durable.
func sealFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("index: %w", err)
	}
	err = appendTrailer(f)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("index: seal table: %w", err)
	}
	return nil
}

func appendTrailer(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	trailer := binary.LittleEndian.AppendUint64([]byte(tableMagic), uint64(info.Size()))
	sum, err := sumFile(f, info.Size(), trailer)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(binary.LittleEndian.AppendUint32(trailer, sum), info.Size()); err != nil {
		return err
	}
	return f.Sync()
}

// sumFile returns the checksum of the first n bytes of f and of the beginning
// of the trailer.
func sumFile(f *os.File, n int64, trailer []byte) (uint32, error) {
	h := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	size := int(min(max(n, 4<<10), 1<<20)) // small tables are many
	if _, err := io.Copy(h, bufio.NewReaderSize(io.NewSectionReader(f, 0, n), size)); err != nil {
		return 0, err
	}
	_, _ = h.Write(trailer) // a hash never fails to write
	return h.Sum32(), nil
}

// checkFile reads the whole file and returns its length in bytes, or an error
// when it isn't as it was written. That costs less than bbolt's own look at a file
// that it may write to.
func checkFile(path string) (size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("index: %w", err)
	}
	defer f.Close() // it was only read
	info, err := f.Stat()
	if err != nil {
		return 0, fmt.Errorf("index: %w", err)
	}
	n := info.Size() - trailerSize
	trailer := make([]byte, trailerSize)
	if n < 0 {
		return 0, fmt.Errorf("%w: table of %d bytes", ErrDamaged, info.Size())
	}
	if _, err := f.ReadAt(trailer, n); err != nil {
		return 0, fmt.Errorf("index: %w", err)
	}
	if string(trailer[:8]) != tableMagic || binary.LittleEndian.Uint64(trailer[8:]) != uint64(n) {
		return 0, fmt.Errorf("%w: table without its end", ErrDamaged)
	}
	sum, err := sumFile(f, n, trailer[:16])
	if err != nil {
		return 0, fmt.Errorf("index: read %s: %w", path, err)
	}
	if sum != binary.LittleEndian.Uint32(trailer[16:]) {
		return 0, fmt.Errorf("%w: checksum of the table differs", ErrDamaged)
	}
	return info.Size(), nil
}

// A fileLock is a file that is there while its lock is held. The table's own
// file can't serve: updates replace it.
type fileLock struct{ f *os.File }

// takeLock takes the lock at path, or returns ErrLocked.
func takeLock(path string) (*fileLock, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, fmt.Errorf("index: %w", err)
		}
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil && isAt(f, path) {
			return &fileLock{f}, nil
		}
		_ = f.Close() // nothing was written
		if err == nil {
			continue // its holder removed it meanwhile; the next one is ours or another's
		}
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = ErrLocked
		}
		return nil, fmt.Errorf("index: %s: %w", path, err)
	}
}

// isAt tells whether f is the file at path.
func isAt(f *os.File, path string) bool {
	there, err := os.Stat(path)
	if err != nil {
		return false
	}
	info, err := f.Stat()
	return err == nil && os.SameFile(info, there)
}

// release removes the file, and with it the lock. Twice does no harm.
func (l *fileLock) release() error {
	if isAt(l.f, l.f.Name()) {
		if err := os.Remove(l.f.Name()); err != nil {
			return errors.Join(err, l.f.Close())
		}
	}
	if err := l.f.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

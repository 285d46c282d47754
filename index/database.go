package index

import (
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
)

// A database is the bbolt file of a table, which is only read. It is safe for
// concurrent use.
//
// bbolt maps the file: where the disk fails, or the file is cut short, reading
// it is a fault. That becomes ErrDamaged, and nothing waits for locks that bbolt
// held when it happened.
type database struct {
	db   *bolt.DB
	size int64 // bytes of the file

	mu     sync.Mutex // held while bbolt holds locks of its own
	broken bool       // bbolt may hold them for ever
}

// openDatabase opens a file that is as it was written.
func openDatabase(path string) (d *database, err error) {
	defer guard(&err)
	defer faults()()
	size, err := checkFile(path)
	if err != nil {
		return nil, err
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return nil, fmt.Errorf("index: open %s: %w", path, err)
	}
	return &database{db: db, size: size}, nil
}

// view runs f in a transaction.
func (d *database) view(f func(*bolt.Tx) error) (err error) {
	defer faults()()
	tx, err := d.begin()
	if err != nil {
		return err
	}
	defer d.end(tx)
	defer guard(&err)
	return f(tx)
}

func (d *database) begin() (tx *bolt.Tx, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.broken {
		return nil, fmt.Errorf("%w: the file could not be read", ErrDamaged)
	}
	d.broken = true // until bbolt has returned
	defer guard(&err)
	tx, err = d.db.Begin(false)
	d.broken = false
	if err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	return tx, nil
}

func (d *database) end(tx *bolt.Tx) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.broken {
		_ = tx.Rollback() // ends a read transaction
	}
}

// close closes the file, when all views have ended. The mapping of a broken one
// stays until the process ends.
func (d *database) close() (err error) {
	d.mu.Lock()
	broken := d.broken
	d.mu.Unlock()
	if broken {
		return nil
	}
	defer guard(&err)
	return d.db.Close()
}

// guard turns a panic of bbolt into an error.
func guard(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("%w: bbolt: %v", ErrDamaged, r)
	}
}

// faults makes faults in the mapped file panics, for guard, until the returned
// function runs.
func faults() func() {
	old := debug.SetPanicOnFault(true)
	return func() { debug.SetPanicOnFault(old) }
}

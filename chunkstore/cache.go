package chunkstore

import (
	"context"
	"sync"

	"wal-e/index"
)

// cachedBlocks is how many decoded blocks a Reader keeps: with the usual 256 KiB
// a block, 16 MiB. Small files share blocks, and are read one after the other.
const cachedBlocks = 64

type blockKey struct {
	pack   index.PackID
	offset uint32
}

type decodedBlock struct{ data []byte }

// A blockCache keeps the blocks that were read last. Two that want one block
// at once read it once.
type blockCache struct {
	limit int

	mu      sync.Mutex
	entries map[blockKey]*cacheEntry
	order   []blockKey // oldest first
}

type cacheEntry struct {
	done  chan struct{}
	block *decodedBlock
	err   error
}

// get returns a block, by read unless it is there or on its way. A read that
// failed isn't kept, and is not shared: its context was the other's.
func (c *blockCache) get(ctx context.Context, key blockKey, read func() (*decodedBlock, error)) (*decodedBlock, error) {
	c.mu.Lock()
	if e := c.entries[key]; e != nil {
		c.mu.Unlock()
		select {
		case <-e.done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if e.err == nil {
			return e.block, nil
		}
		return read()
	}
	e := &cacheEntry{done: make(chan struct{})}
	if c.entries == nil {
		c.entries = make(map[blockKey]*cacheEntry)
	}
	c.entries[key] = e
	c.order = append(c.order, key)
	if len(c.order) > c.limit {
		delete(c.entries, c.order[0])
		c.order = c.order[1:]
	}
	c.mu.Unlock()

	e.block, e.err = read()
	if e.err != nil {
		c.mu.Lock()
		if c.entries[key] == e {
			delete(c.entries, key)
		}
		c.mu.Unlock()
	}
	close(e.done)
	return e.block, e.err
}

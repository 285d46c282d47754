package mem

import (
	"iter"
	"slices"
	"strings"
)

// blockSize is how many entries a block of a Table has, at most twice as many.
const blockSize = 1024

// A Table holds values by key, in the order of keys. Its entries stand in
// sorted blocks, so that adding, removing and listing stay cheap beside a
// million others. The zero value is empty. It is not for concurrent use.
type Table[V any] struct {
	blocks [][]entry[V] // none is empty
}

type entry[V any] struct {
	key   string
	value V
}

// find returns the place of key, or where it would go. The table isn't empty.
func (t *Table[V]) find(key string) (block, at int, found bool) {
	block, found = slices.BinarySearchFunc(t.blocks, key, func(e []entry[V], key string) int { return strings.Compare(e[0].key, key) })
	if found {
		return block, 0, true
	}
	block = max(0, block-1)
	at, found = slices.BinarySearchFunc(t.blocks[block], key, func(e entry[V], key string) int { return strings.Compare(e.key, key) })
	return block, at, found
}

// Get returns the value of key.
func (t *Table[V]) Get(key string) (value V, ok bool) {
	if len(t.blocks) == 0 {
		return value, false
	}
	i, at, found := t.find(key)
	if found {
		value = t.blocks[i][at].value
	}
	return value, found
}

// Add adds a value, unless its key is taken.
func (t *Table[V]) Add(key string, value V) bool {
	e := entry[V]{key, value}
	if len(t.blocks) == 0 {
		t.blocks = [][]entry[V]{{e}}
		return true
	}
	i, at, found := t.find(key)
	if found {
		return false
	}
	block := slices.Insert(t.blocks[i], at, e)
	t.blocks[i] = block
	if len(block) >= 2*blockSize {
		t.blocks[i] = slices.Clone(block[:blockSize])
		t.blocks = slices.Insert(t.blocks, i+1, slices.Clone(block[blockSize:]))
	}
	return true
}

// Remove removes a value, if it is there.
func (t *Table[V]) Remove(key string) {
	if len(t.blocks) == 0 {
		return
	}
	i, at, found := t.find(key)
	if !found {
		return
	}
	if t.blocks[i] = slices.Delete(t.blocks[i], at, at+1); len(t.blocks[i]) == 0 {
		t.blocks = slices.Delete(t.blocks, i, i+1)
	}
}

// From yields the entries whose keys begin with prefix and come after a key,
// in order. The table must not change meanwhile.
func (t *Table[V]) From(prefix, after string) iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		if len(t.blocks) == 0 {
			return
		}
		i, at, _ := t.find(max(prefix, after))
		for ; i < len(t.blocks); i, at = i+1, 0 {
			for _, e := range t.blocks[i][at:] {
				switch {
				case strings.HasPrefix(e.key, prefix):
					if (after == "" || e.key > after) && !yield(e.key, e.value) {
						return
					}
				case e.key > prefix:
					return
				}
			}
		}
	}
}

// Clone returns a table with the same entries, whose values are copied as = does.
func (t *Table[V]) Clone() *Table[V] {
	c := &Table[V]{blocks: make([][]entry[V], len(t.blocks))}
	for i, block := range t.blocks {
		c.blocks[i] = slices.Clone(block)
	}
	return c
}

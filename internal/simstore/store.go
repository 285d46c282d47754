package simstore

import (
	"bytes"
	"context"
	"io"
	"iter"
	"slices"
	"strings"
	"time"

	"wal-e/internal/storage"
)

// A Change is something that was done to the store.
type Change struct {
	Client string // who asked for it
	Key    string
	Data   []byte // what was created; nil when Key was removed
	Late   bool   // nobody waited for it any more
}

// A content is the objects of a store and when each came. It is only touched
// while all processes are blocked.
type content struct {
	keys    []string // sorted
	objects map[string]object
	hidden  []lag // what listings don't show yet, or show still
}

type object struct {
	data []byte
	time time.Time
}

// A lag is a change that listings show only from a certain time on.
type lag struct {
	key   string
	until time.Time
	was   *object // nil: it was created
}

func (c *content) create(key string, data []byte, now time.Time) bool {
	i, taken := slices.BinarySearch(c.keys, key)
	if taken {
		return false
	}
	c.keys = slices.Insert(c.keys, i, key)
	c.objects[key] = object{data: data, time: now}
	return true
}

func (c *content) remove(key string) bool {
	i, there := slices.BinarySearch(c.keys, key)
	if there {
		c.keys = slices.Delete(c.keys, i, i+1)
		delete(c.objects, key)
	}
	return there
}

// page lists objects after a key, as a listing shows them now.
func (c *content) page(prefix, after string, n int, now time.Time) []storage.Object {
	c.hidden = slices.DeleteFunc(c.hidden, func(l lag) bool { return !l.until.After(now) })
	shown := c.keys
	old := make(map[string]object)
	for _, l := range c.hidden {
		i, there := slices.BinarySearch(shown, l.key)
		if l.was == nil && there {
			shown = slices.Delete(slices.Clone(shown), i, i+1)
		} else if l.was != nil && !there {
			shown = slices.Insert(slices.Clone(shown), i, l.key)
			old[l.key] = *l.was
		}
	}
	i, _ := slices.BinarySearch(shown, max(prefix, after))
	var page []storage.Object
	for ; i < len(shown) && len(page) < n && strings.HasPrefix(shown[i], prefix); i++ {
		if after != "" && shown[i] <= after {
			continue
		}
		o, ok := c.objects[shown[i]]
		if !ok {
			o = old[shown[i]]
		}
		page = append(page, storage.Object{Key: shown[i], Size: int64(len(o.data)), ModTime: o.time})
	}
	return page
}

// Direct is the store as it is, without scheduling and faults, to be read while
// all processes are blocked.
type Direct struct{ w *World }

// URL implements storage.Bucket.
func (d Direct) URL() string { return "sim://direct" }

// Create implements storage.Bucket.
func (d Direct) Create(_ context.Context, key string, r io.Reader, _ int64, _ storage.Meta) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if !d.w.content.create(key, data, time.Now()) {
		return storage.ErrExist
	}
	return nil
}

// Get implements storage.Bucket.
func (d Direct) Get(_ context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	o, ok := d.w.content.objects[key]
	if !ok {
		return nil, storage.ErrNotExist
	}
	return io.NopCloser(bytes.NewReader(cut(o.data, offset, length))), nil
}

func cut(data []byte, offset, length int64) []byte {
	data = data[min(offset, int64(len(data))):]
	if length >= 0 {
		data = data[:min(length, int64(len(data)))]
	}
	return data
}

// Stat implements storage.Bucket.
func (d Direct) Stat(_ context.Context, key string) (storage.Attributes, error) {
	o, ok := d.w.content.objects[key]
	if !ok {
		return storage.Attributes{}, storage.ErrNotExist
	}
	return storage.Attributes{Object: storage.Object{Key: key, Size: int64(len(o.data)), ModTime: o.time}}, nil
}

// List implements storage.Bucket.
func (d Direct) List(_ context.Context, prefix, after string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		for _, key := range d.w.content.keys {
			o := d.w.content.objects[key]
			if strings.HasPrefix(key, prefix) && key > after &&
				!yield(storage.Object{Key: key, Size: int64(len(o.data)), ModTime: o.time}, nil) {
				return
			}
		}
	}
}

// Delete implements storage.Bucket. It tells nobody.
func (d Direct) Delete(_ context.Context, keys ...string) error {
	for _, key := range keys {
		d.w.content.remove(key)
	}
	return nil
}

package simstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	"wal-e/internal/storage"
)

// ErrLost is what a request fails with whose answer didn't come.
var ErrLost = errors.New("no answer")

// ErrDead is what everything fails with that a process asks for after it died.
var ErrDead = errors.New("process is dead")

// An op is what a request asks for.
type op int

const (
	opCreate op = iota
	opGet
	opStat
	opPage
	opDelete
)

func (o op) String() string { return [...]string{"create", "get", "stat", "list", "delete"}[o] }

func (o op) changes() bool { return o == opCreate || o == opDelete }

// A request waits to be served.
type request struct {
	client *Client
	op     op
	keys   []string // of a delete those not yet removed; of a page the prefix
	after  string
	data   []byte
	once   bool // isn't sent again
	size   int
	ghost  bool // nobody waits for an answer any more
	done   chan answer
}

type answer struct {
	data []byte
	attr storage.Attributes
	page []storage.Object
	err  error
}

// A Client is the store as one process sees it. It sends a request again whose
// answer was lost, as long as the world lets it.
type Client struct {
	w      *World
	name   string
	index  int
	tries  int
	dead   bool
	frozen bool
	done   bool
}

// URL implements storage.Bucket.
func (c *Client) URL() string { return "sim://store" }

// ask has a request served.
func (c *Client) ask(ctx context.Context, r request) answer {
	var a answer
	tries := c.tries
	if r.once {
		tries = 1
	}
	for range tries {
		if err := ctx.Err(); err != nil {
			return answer{err: err}
		}
		again := r
		if a = c.w.submit(ctx, c, &again); !errors.Is(a.err, ErrLost) {
			break
		}
	}
	if a.err != nil {
		a.err = fmt.Errorf("%s %s: %w", r.op, r.keys[0], a.err)
	}
	return a
}

// Create implements storage.Bucket.
func (c *Client) Create(ctx context.Context, key string, r io.Reader, _ int64, _ storage.Meta) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	_, again := r.(io.Seeker) // as storage.Retry has it
	return c.ask(ctx, request{op: opCreate, keys: []string{key}, data: data, once: !again}).err
}

// Get implements storage.Bucket.
func (c *Client) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	a := c.ask(ctx, request{op: opGet, keys: []string{key}})
	if a.err != nil {
		return nil, a.err
	}
	return io.NopCloser(bytes.NewReader(cut(a.data, offset, length))), nil
}

// Stat implements storage.Bucket.
func (c *Client) Stat(ctx context.Context, key string) (storage.Attributes, error) {
	a := c.ask(ctx, request{op: opStat, keys: []string{key}})
	return a.attr, a.err
}

// List implements storage.Bucket. Each page is a request of its own.
func (c *Client) List(ctx context.Context, prefix, after string) iter.Seq2[storage.Object, error] {
	return func(yield func(storage.Object, error) bool) {
		for {
			size := c.w.pageSize()
			a := c.ask(ctx, request{op: opPage, keys: []string{prefix}, after: after, size: size})
			if a.err != nil {
				yield(storage.Object{}, a.err)
				return
			}
			for _, o := range a.page {
				if !yield(o, nil) {
					return
				}
				after = o.Key
			}
			if len(a.page) < size {
				return
			}
		}
	}
}

// Delete implements storage.Bucket.
func (c *Client) Delete(ctx context.Context, keys ...string) error {
	if len(keys) == 0 {
		return nil
	}
	return c.ask(ctx, request{op: opDelete, keys: append([]string(nil), keys...)}).err
}

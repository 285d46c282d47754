package simstore

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing/synctest"
	"time"

	"wal-e/internal/storage"
)

// Config says what a world does to its processes. Rates are chances per
// request, from 0 to 1.
type Config struct {
	Seed     uint64
	PageSize int // of listings, while there are faults
	Tries    int // of one request whose answer is lost

	Lose   float64 // applied, and the answer lost
	Fail   float64 // not applied, and no answer
	Late   float64 // no answer now, applied later
	Kill   float64 // the process dies
	Freeze float64 // the process stops for some time
	Stick  float64 // the process that was served last is served next
	// Nap is one more chance that a process stops, before the request that op
	// ("create", "get", "stat", "list", "delete") and the first key say; 1 is
	// certain, also in the calm. nil means none.
	Nap func(client, op, key string) float64

	Tick time.Duration // from one step to the next
	Lag  time.Duration // by which listings lag at most; 0 means none

	// Watch is called for each change, while all processes are blocked.
	Watch func(Change)
}

// A World is a store, its processes, and the requests that wait. Its methods
// are for the goroutine that runs the bubble.
type World struct {
	cfg     Config
	rng     *rand.Rand
	content content
	clients []*Client
	last    *Client
	was     map[string]bool // keys that were removed
	calm    atomic.Bool     // no more faults

	Steps  int // requests served
	Faults int // things that went wrong
	trace  []event

	mu      sync.Mutex // guards what processes touch
	pending []*request
	running sync.WaitGroup
}

// New returns an empty world.
func New(cfg Config) *World {
	return &World{
		cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 1)),
		content: content{objects: make(map[string]object)}, was: make(map[string]bool),
	}
}

// Rand is the world's source of chance, for its user between steps.
func (w *World) Rand() *rand.Rand { return w.rng }

// Direct is the store as it is.
func (w *World) Direct() Direct { return Direct{w} }

// Keys are the keys that are stored, sorted.
func (w *World) Keys() []string { return w.content.keys }

// Go begins a process. f must return soon once its requests fail.
func (w *World) Go(name string, f func(ctx context.Context, c *Client)) *Client {
	c := &Client{w: w, name: name, index: len(w.clients), tries: w.cfg.Tries}
	w.clients = append(w.clients, c)
	w.running.Go(func() {
		f(context.Background(), c)
		w.mu.Lock()
		defer w.mu.Unlock()
		c.done = true
	})
	return c
}

// Done tells whether the process has ended.
func (c *Client) Done() bool {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	return c.done
}

// Dead tells whether the process was killed.
func (c *Client) Dead() bool { return c.dead }

// Name is what the process was begun as.
func (c *Client) Name() string { return c.name }

// Index counts the processes.
func (c *Client) Index() int { return c.index }

func (w *World) submit(ctx context.Context, c *Client, r *request) answer {
	w.mu.Lock()
	if c.dead {
		w.mu.Unlock()
		return answer{err: ErrDead}
	}
	r.client, r.done = c, make(chan answer, 1)
	w.pending = append(w.pending, r)
	w.mu.Unlock()
	select {
	case a := <-r.done:
		return a
	case <-ctx.Done():
		return answer{err: context.Cause(ctx)} // what was sent may still arrive
	}
}

// Step waits until all processes are blocked and serves one request. It is
// false when there is none that can be served.
func (w *World) Step() bool {
	time.Sleep(w.cfg.Tick)
	synctest.Wait()
	r := w.pick()
	if r == nil {
		return false
	}
	w.Steps++
	w.last = r.client
	w.serve(r)
	return true
}

// pick chooses among the requests of processes that aren't frozen.
func (w *World) pick() *request {
	w.mu.Lock()
	defer w.mu.Unlock()
	ready := slices.DeleteFunc(slices.Clone(w.pending), func(r *request) bool { return r.client.frozen && !r.ghost })
	if len(ready) == 0 {
		return nil
	}
	slices.SortStableFunc(ready, func(a, b *request) int {
		return cmp.Or(a.client.index-b.client.index, int(a.op)-int(b.op), strings.Compare(w.nameless(a), w.nameless(b)))
	})
	if w.last != nil && w.rng.Float64() < w.cfg.Stick {
		var same []*request
		for _, r := range ready {
			if r.client == w.last && !r.ghost {
				same = append(same, r)
			}
		}
		if len(same) > 0 {
			return same[w.rng.IntN(len(same))]
		}
	}
	// A process first, then one of its requests: else those with many
	// goroutines get all the time.
	var owners []*Client
	for _, r := range ready {
		if !slices.Contains(owners, r.client) {
			owners = append(owners, r.client)
		}
	}
	owner := owners[w.rng.IntN(len(owners))]
	ready = slices.DeleteFunc(ready, func(r *request) bool { return r.client != owner })
	return ready[w.rng.IntN(len(ready))]
}

func (w *World) nameless(r *request) string { return strings.Join(r.keys, " ") + r.after }

func (w *World) drop(r *request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pending = slices.DeleteFunc(w.pending, func(p *request) bool { return p == r })
}

func (w *World) chance(p float64) bool { return !w.calm.Load() && p > 0 && w.rng.Float64() < p }

func (w *World) naps(r *request) bool {
	if w.cfg.Nap == nil {
		return false
	}
	p := w.cfg.Nap(r.client.name, r.op.String(), r.keys[0])
	return p >= 1 || w.chance(p)
}

// serve applies a request, or not, and answers it, or not.
func (w *World) serve(r *request) {
	if r.ghost {
		w.note(r, "arrives late")
		w.apply(r)
		w.drop(r)
		return
	}
	switch {
	case w.chance(w.cfg.Kill):
		w.Faults++
		w.note(r, "killed")
		w.Kill(r.client)
	case w.chance(w.cfg.Freeze):
		w.Faults++
		w.note(r, "frozen")
		w.Freeze(r.client)
	case w.naps(r):
		w.Faults++
		w.note(r, "takes a nap")
		w.Freeze(r.client)
	case r.op.changes() && w.chance(w.cfg.Late):
		w.Faults++
		w.note(r, "is late")
		late := *r
		late.ghost = true
		w.drop(r)
		w.mu.Lock()
		w.pending = append(w.pending, &late)
		w.mu.Unlock()
		r.done <- answer{err: ErrLost}
	case w.chance(w.cfg.Fail):
		w.Faults++
		w.note(r, "fails")
		w.drop(r)
		r.done <- answer{err: ErrLost}
	default:
		w.answer(r)
	}
}

func (w *World) answer(r *request) {
	a, finished := w.apply(r)
	if !finished {
		return
	}
	w.drop(r)
	if w.chance(w.cfg.Lose) {
		w.Faults++
		w.note(r, "answer lost")
		a = answer{err: ErrLost}
	} else {
		w.noteResult(r, "ok", a.err)
	}
	r.done <- a
}

// apply does what a request asks for. A delete of several objects may take
// several steps.
func (w *World) apply(r *request) (a answer, finished bool) {
	now := time.Now()
	switch r.op {
	case opCreate:
		if !w.content.create(r.keys[0], r.data, now) {
			return answer{err: storage.ErrExist}, true
		}
		w.delay(r.keys[0], nil)
		w.changed(Change{Client: r.client.name, Key: r.keys[0], Data: r.data, Late: r.ghost})
	case opDelete:
		n := len(r.keys)
		if !w.calm.Load() && !r.ghost {
			n = 1 + w.rng.IntN(n)
		}
		for _, key := range r.keys[:n] {
			if old, there := w.content.objects[key]; there {
				w.content.remove(key)
				w.was[key] = true
				w.delay(key, &old)
				w.changed(Change{Client: r.client.name, Key: key, Late: r.ghost})
			}
		}
		r.keys = r.keys[n:]
		return answer{}, len(r.keys) == 0
	case opPage:
		return answer{page: w.content.page(r.keys[0], r.after, r.size, now)}, true
	default:
		o, there := w.content.objects[r.keys[0]]
		if !there {
			return answer{err: storage.ErrNotExist}, true
		}
		return answer{data: o.data, attr: storage.Attributes{
			Object: storage.Object{Key: r.keys[0], Size: int64(len(o.data)), ModTime: o.time},
		}}, true
	}
	return answer{}, true
}

func (w *World) delay(key string, was *object) {
	if w.cfg.Lag > 0 {
		until := time.Now().Add(time.Duration(w.rng.Int64N(int64(w.cfg.Lag))))
		w.content.hidden = append(w.content.hidden, lag{key: key, until: until, was: was})
	}
}

func (w *World) changed(c Change) {
	if w.cfg.Watch != nil {
		w.cfg.Watch(c)
	}
}

// Remove removes an object as nobody's doing.
func (w *World) Remove(key string) {
	w.Faults++
	w.Note("lifecycle removes " + key)
	w.content.remove(key)
	w.was[key] = true
}

// Replace gives an object other bytes as nobody's doing, as a disk that rots does.
func (w *World) Replace(key string, data []byte) {
	w.Faults++
	w.Note("other bytes in " + key)
	o := w.content.objects[key]
	o.data = data
	w.content.objects[key] = o
}

// Kill ends a process as kill -9 does: what it asked for may have been sent.
func (w *World) Kill(c *Client) {
	synctest.Wait()
	w.mu.Lock()
	c.dead, c.frozen = true, false
	var mine []*request
	w.pending = slices.DeleteFunc(w.pending, func(r *request) bool {
		if r.client == c && !r.ghost {
			mine = append(mine, r)
			return true
		}
		return false
	})
	slices.SortStableFunc(mine, func(a, b *request) int {
		return cmp.Or(int(a.op)-int(b.op), strings.Compare(w.nameless(a), w.nameless(b)))
	})
	for _, r := range mine {
		if r.op.changes() && w.rng.IntN(3) == 0 {
			late := *r
			late.ghost = true
			w.pending = append(w.pending, &late)
		}
	}
	w.mu.Unlock()
	for _, r := range mine {
		r.done <- answer{err: ErrDead}
	}
}

// Freeze stops a process until Thaw.
func (w *World) Freeze(c *Client) { c.frozen = true }

// Thaw lets a frozen process go on.
func (w *World) Thaw(c *Client) { c.frozen = false }

// Frozen tells whether the process was frozen.
func (c *Client) Frozen() bool { return c.frozen }

// Calm ends all faults, until Storm: frozen processes go on, and what is late
// arrives.
func (w *World) Calm() {
	w.calm.Store(true)
	for _, c := range w.clients {
		c.frozen = false
	}
}

// pageSize is how long a page of a listing is. Without faults the moment of a page
// makes no difference, and short pages only cost time.
func (w *World) pageSize() int {
	if w.calm.Load() {
		return 1000
	}
	return w.cfg.PageSize
}

// Storm lets faults happen again.
func (w *World) Storm() { w.calm.Store(false) }

// Finish serves requests until no process runs, in at most limit steps.
func (w *World) Finish(limit int) error {
	for range limit {
		if w.Step() {
			continue
		}
		if w.Alive() == 0 {
			w.running.Wait()
			return nil
		}
		time.Sleep(time.Minute) // somebody waits for the time
	}
	return fmt.Errorf("%d processes still run after %d steps", w.Alive(), limit)
}

// Alive is how many processes haven't ended.
func (w *World) Alive() int {
	n := 0
	for _, c := range w.clients {
		if !c.Done() {
			n++
		}
	}
	return n
}

// End kills all processes, so that the bubble can end.
func (w *World) End() {
	for range 1000 {
		synctest.Wait()
		if w.Alive() == 0 {
			break
		}
		for _, c := range w.clients {
			if !c.Done() {
				w.Kill(c)
			}
		}
		time.Sleep(time.Hour)
	}
	w.running.Wait()
}

// An event is a line of the trace, not yet put into words: few are read.
type event struct {
	step   int
	client string
	op     op
	keys   []string
	after  string
	what   string
	err    error
}

func (e event) String() string {
	if e.client == "" {
		return e.what
	}
	if e.err != nil {
		e.what = e.err.Error()
	}
	return fmt.Sprintf("%4d %-12s %-6s %s %s: %s", e.step, e.client, e.op, strings.Join(e.keys, " "), e.after, e.what)
}

func (w *World) note(r *request, what string) { w.noteResult(r, what, nil) }

func (w *World) noteResult(r *request, what string, err error) {
	w.trace = append(w.trace, event{step: w.Steps, client: r.client.name, op: r.op, keys: r.keys, after: r.after, what: what, err: err})
}

// Note adds a line to the trace.
func (w *World) Note(line string) { w.trace = append(w.trace, event{what: line}) }

// Trace is what has happened, one line for each thing.
func (w *World) Trace() []string {
	lines := make([]string, len(w.trace))
	for i, e := range w.trace {
		lines[i] = e.String()
	}
	return lines
}

// Clients are the processes that were begun.
func (w *World) Clients() []*Client { return w.clients }

// Stored tells whether an object is there now.
func (w *World) Stored(key string) bool {
	_, there := w.content.objects[key]
	return there
}

// Existed tells whether an object was there at any time.
func (w *World) Existed(key string) bool {
	_, there := w.content.objects[key]
	return there || w.was[key]
}

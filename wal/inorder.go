package wal

import "sync"

// inOrder works on the pieces of a file side by side and hands them on in their
// order. next fills a piece with what follows, or reports that nothing does; work
// is called for several pieces at once; deliver takes each when all before it were
// taken. Neither next nor deliver is called twice at once. The first error ends it.
// All of it goes on in pieces, which are makePieces(workers) or were used before.
//
// Each of the workers, of which the caller is one, does whatever there is to do
// next. A goroutine for each step would be easier to read, and costs a fifth more
// processor time: it hands on each piece to a core that fell asleep meanwhile.
func inOrder[T any](workers int, pieces []T, next func(*T) (bool, error), work, deliver func(*T) error) error {
	l := &line[T]{next: next, work: work, deliver: deliver, slots: make([]slot[T], len(pieces))}
	for i := range pieces {
		l.slots[i].piece = &pieces[i]
	}
	l.changed.L = &l.mu
	var others sync.WaitGroup
	for range workers - 1 {
		others.Go(l.run)
	}
	l.run()
	others.Wait()
	return l.err
}

// makePieces returns as many pieces as that many workers are busy with: one that
// waits to be delivered keeps nobody from beginning another.
func makePieces[T any](workers int) []T {
	if workers == 1 {
		return make([]T, 1)
	}
	return make([]T, 2*workers)
}

// A line is one run of inOrder.
type line[T any] struct {
	next          func(*T) (bool, error)
	work, deliver func(*T) error

	mu                  sync.Mutex
	changed             sync.Cond
	slots               []slot[T] // piece i is in slot i modulo their number
	begun, delivered    int       // pieces
	reading, delivering bool      // one of the workers does
	over                bool      // nothing follows
	err                 error
}

type slot[T any] struct {
	piece *T
	taken bool // until it is delivered
	ready bool // for deliver
}

func (l *line[T]) run() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.err == nil {
		begun := &l.slots[l.begun%len(l.slots)]
		first := &l.slots[l.delivered%len(l.slots)]
		switch {
		case !l.delivering && first.taken && first.ready:
			l.delivering = true
			l.unlocked(l.deliver, first)
			l.delivering, first.taken = false, false
			l.delivered++
		case l.over:
			return // whoever works on a piece delivers it, and those behind it
		case !l.reading && !begun.taken:
			l.reading = true
			more := false
			l.unlocked(func(piece *T) (err error) {
				more, err = l.next(piece)
				return err
			}, begun)
			l.reading, l.over = false, !more
			if !more || l.err != nil {
				break
			}
			l.begun++
			begun.taken, begun.ready = true, false
			l.changed.Broadcast()
			l.unlocked(l.work, begun)
			begun.ready = true
		default:
			l.changed.Wait()
			continue
		}
		l.changed.Broadcast()
	}
}

// unlocked calls f while the others go on, and keeps the first error.
func (l *line[T]) unlocked(f func(*T) error, s *slot[T]) {
	l.mu.Unlock()
	err := f(s.piece)
	l.mu.Lock()
	if l.err == nil {
		l.err = err
	}
}

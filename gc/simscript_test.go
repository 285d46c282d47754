package gc_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"wal-e/chunkstore"
	"wal-e/gc"
	"wal-e/internal/simstore"
)

// A script is a counterexample of docs/model: it says which process runs when,
// for what chance hardly ever finds. The same code runs as in any seed, under
// the same oracle; there are no faults but that processes stop and wake.
type script func(*director) error

// A director lets one process run at a time.
type director struct {
	s    *sim
	stop func(client, op, key string) bool // where the one that runs stops
}

// play runs a script.
func (s *sim) play() error {
	d := &director{s: s}
	s.nap = func(client, op, key string) float64 {
		if d.stop != nil && d.stop(client, op, key) {
			return 1
		}
		return 0
	}
	s.w.Calm()
	err := s.sc.script(d)
	s.nap = nil
	return err
}

// run lets c go on, and nobody else, until it ends or is about to send a request
// for which stop is true.
func (d *director) run(c *simstore.Client, stop func(op, key string) bool) error {
	for _, other := range d.s.w.Clients() {
		if !other.Done() {
			d.s.w.Freeze(other)
		}
	}
	d.s.w.Thaw(c)
	// The request that it stopped at last is the first that is served now.
	d.stop = nil
	d.s.w.Step()
	d.stop = func(client, op, key string) bool { return stop != nil && client == c.Name() && stop(op, key) }
	for range 5000 {
		switch {
		case d.s.failed != "":
			return fmt.Errorf("%s", d.s.failed)
		case c.Done() && stop != nil:
			return fmt.Errorf("script: %s ended, and was to stop before", c.Name())
		case c.Done() || c.Frozen():
			return nil
		}
		if !d.s.w.Step() {
			time.Sleep(time.Minute)
		}
	}
	return fmt.Errorf("script: %s doesn't end", c.Name())
}

// finish lets c run to its end.
func (d *director) finish(c *simstore.Client) error { return d.run(c, nil) }

// at stops before the nth request for op and a key.
func at(n int, op, prefix, suffix string) func(op, key string) bool {
	return func(o, key string) bool {
		if o == op && strings.HasPrefix(key, prefix) && strings.HasSuffix(key, suffix) {
			n--
		}
		return n == 0
	}
}

// push begins a push on a host.
func (d *director) push(host int, start uint64, standby bool) *simstore.Client {
	s := d.s
	s.spawned++
	name := fmt.Sprintf("push-%d", s.spawned)
	p := &push{s: s, h: s.hosts[host], now: d.clock(), versions: s.versions, start: start, standby: standby, step: 2, client: s.sc.client}
	p.h.push = s.w.Go(name, p.run)
	return p.h.push
}

func (d *director) clock() func() time.Time {
	skew := time.Duration(d.s.spawned%16) * time.Millisecond
	return func() time.Time { return time.Now().Add(skew) }
}

// collect begins a collection, which deletes the valid backups that start at one
// of the segments.
func (d *director) collect(starts ...uint64) *simstore.Client {
	s := d.s
	var refs []chunkstore.Ref
	for ref, o := range s.backups() {
		if slices.Contains(starts, segmentOf(o)) {
			refs = append(refs, ref)
		}
	}
	s.spawned++
	name, now := fmt.Sprintf("collect-%d", s.spawned), d.clock()
	return s.w.Go(name, func(ctx context.Context, c *simstore.Client) {
		cfg := gc.Config{Bucket: c, Host: name, Now: now, Requests: 1}
		cfg.Skip(s.sc.skip)
		if len(refs) > 0 {
			_, _ = gc.Delete(ctx, cfg, refs) // what became of it, the oracle sees
			return
		}
		_, _ = gc.Collect(ctx, cfg)
	})
}

// archive stores old segments once more, up to where the cluster is.
func (d *director) archive(segments uint64) *simstore.Client {
	s := d.s
	s.spawned++
	return s.w.Go(fmt.Sprintf("archive-%d", s.spawned), func(ctx context.Context, c *simstore.Client) {
		s.archiveAgain(ctx, c, segments-1)
	})
}

// expectBackups makes sure that a script went as far as it says, so that it
// can't pass by doing nothing.
func (d *director) expectBackups(starts ...uint64) error {
	var got []uint64
	for o := range maps.Values(d.s.backups()) {
		got = append(got, segmentOf(o))
	}
	slices.Sort(got)
	if !slices.Equal(got, starts) {
		return fmt.Errorf("script: backups start at %v, want %v", got, starts)
	}
	return nil
}

// steps runs the steps of a script until one fails.
func steps(list ...func() error) error {
	for _, step := range list {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// scriptReaped is BUG_REAPED of wal.pml: a collection sleeps on its list of WAL
// files; another removes them, and the mark with the horizon; they are archived
// again, and a standby that is behind begins where the horizon forbade it.
func scriptReaped(d *director) error {
	s := d.s
	var sleeper *simstore.Client
	return steps(
		func() error { return d.finish(d.push(0, 10, false)) },
		func() error {
			s.lsn = 16
			for i := range s.versions { // so that nothing of the first backup is needed
				s.versions[i] = 7
			}
			return d.finish(d.archive(6))
		},
		func() error { return d.finish(d.push(0, 16, false)) },
		func() error { return d.expectBackups(10, 16) },
		func() error {
			sleeper = d.collect(10)
			return d.run(sleeper, at(1, "delete", "wal_006/", ""))
		},
		func() error { return d.finish(d.collect()) },
		func() error { return d.finish(d.archive(6)) },
		func() error { return d.finish(d.push(1, 12, true)) },
		func() error { return d.finish(sleeper) },
	)
}

// scriptPacksLeft is about a mark that went while one of its packs was needed,
// as BUG_PARDON of gc.pml has it: a collection sleeps that has read the mark, and whose grace is over; a push
// references the pack, which nothing condemns any more; the backup that needed
// it is deleted; the collection wakes.
func scriptPacksLeft(d *director) error {
	var heir, late, sleeper *simstore.Client
	return steps(
		func() error { return d.finish(d.push(0, 10, false)) },
		func() error { d.s.lsn = 12; heir = d.push(1, 12, false); return nil },
		func() error { return d.run(heir, at(1, "create", "basebackups_006/", ".outcome")) },
		func() error { return d.finish(d.collect(10)) }, // condemns its packs, and waits for heir
		func() error { return d.finish(heir) },
		func() error { return d.expectBackups(12) },
		func() error { sleeper = d.collect(); return d.run(sleeper, afterMarks()) },
		func() error { return d.finish(d.collect()) },
		func() error {
			d.s.lsn = 14
			late = d.push(2, 14, false)
			return d.run(late, at(1, "create", "basebackups_006/", ".outcome"))
		},
		func() error { return d.finish(d.collect(12)) },
		func() error { return d.finish(sleeper) },
		func() error { return d.finish(late) },
		func() error { return d.expectBackups(14) },
	)
}

// scriptSecondGrace is BUG_NO_GRACE of index-reap.pml: a push has found a pack
// that is condemned, and reads the marks only after pack, index and mark went.
func scriptSecondGrace(d *director) error {
	var heir, late *simstore.Client
	return steps(
		func() error { return d.finish(d.push(0, 10, false)) },
		func() error { d.s.lsn = 12; heir = d.push(1, 12, false); return nil },
		func() error { return d.run(heir, at(1, "create", "basebackups_006/", ".outcome")) },
		func() error { return d.finish(d.collect(10)) },
		func() error { return d.finish(heir) },
		func() error { return d.expectBackups(12) },
		func() error {
			d.s.lsn = 14
			late = d.push(2, 14, false)
			return d.run(late, at(1, "list", "chunks_006/condemned/", ""))
		},
		func() error { return d.finish(d.collect(12)) },
		func() error { return d.finish(late) },
		func() error { return d.expectBackups(14) },
	)
}

// afterMarks stops before the listing of runs that follows that of marks: G5.
func afterMarks() func(op, key string) bool {
	read := false
	return func(op, key string) bool {
		read = read || op == "list" && strings.HasPrefix(key, "chunks_006/condemned/")
		return read && op == "list" && strings.HasPrefix(key, "basebackups_006/")
	}
}

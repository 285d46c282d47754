package checkup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"wal-e/internal/runid"
	"wal-e/internal/storage"
)

const (
	area      = "storage"
	probeDir  = "probe_006/" // gc removes what is left there
	racers    = 8
	probeSize = 252 << 10 // bytes; a multiple of 12
	clockSlip = time.Minute
)

// Storage tries out a store with a handful of small objects. It goes on after a
// check that failed wherever a later one still says something.
func Storage(ctx context.Context, b storage.Bucket, now func() time.Time) Findings {
	s := &store{list: list{area: area}, b: b, now: now}
	if !s.reach(ctx) {
		return s.findings
	}
	s.absence(ctx)
	key, ok := s.create(ctx)
	if ok {
		s.createOnce(ctx, key)
		s.race(ctx)
		s.read(ctx, key)
		s.listed(ctx, key)
		s.clock(ctx, key)
		s.remove(ctx)
	}
	if why := storage.Weakness(b); why != "" {
		s.add(Warning, "keeps its promises", weakFix, "%s", why)
	}
	for _, r := range storage.Inspect(ctx, b) {
		s.add(statusOf(r.Verdict), r.Rule, r.Fix, "%s", r.Text)
	}
	return s.findings
}

// statusOf takes for well what credentials aren't told because they are the least:
// whoever sets the store up checks with others.
func statusOf(v storage.Verdict) Status {
	switch v {
	case storage.Fit, storage.Forbidden:
		return OK
	case storage.Doubtful:
		return Warning
	case storage.Unfit:
		return Failure
	}
	return Unknown
}

type store struct {
	list
	b    storage.Bucket
	now  func() time.Time
	made []string // probes
	body []byte
}

// reach lists the prefix up to its first object.
func (s *store) reach(ctx context.Context) bool {
	begun := s.now()
	held := "the prefix is empty"
	for o, err := range s.b.List(ctx, "", "") {
		if err != nil {
			fix := "check the prefix, the credentials, the endpoint and the network; the error names the request that failed"
			if errors.Is(err, storage.ErrPermission) {
				fix = "every role needs the right to list the prefix: without it nobody can tell an absent object from a forbidden one"
			}
			s.add(Failure, "reached and listed", fix, "%v", err)
			return false
		}
		held = "the first object is " + o.Key
		break
	}
	s.add(OK, "reached and listed", "", "%s, in %s; %s", s.b.URL(), round(s.now().Sub(begun)), held)
	return true
}

// absence asks for what is not there: that wal-fetch can be sure of it is what
// keeps PostgreSQL from ending a recovery too early.
func (s *store) absence(ctx context.Context) {
	key, err := s.name()
	if err != nil {
		s.add(Unknown, "absence is proven", "", "%v", err)
		return
	}
	switch _, err := s.b.Stat(ctx, key); {
	case errors.Is(err, storage.ErrNotExist):
		s.add(OK, "absence is proven", "", "an object that isn't there is said not to be there")
	case err == nil:
		s.add(Failure, "absence is proven", "find out what answers in place of the store", "%s of %s is said to exist, and nobody created it", key, s.b.URL())
	default:
		s.add(Failure, "absence is proven", "give the credentials the right to list the bucket: wal-fetch can't tell the end of WAL without it", "%v", err)
	}
}

func (s *store) name() (string, error) {
	id, err := runid.New(s.now(), nil)
	if err != nil {
		return "", err
	}
	return probeDir + id.String(), nil
}

func (s *store) create(ctx context.Context) (string, bool) {
	s.body = bytes.Repeat([]byte("wal-e probe\n"), probeSize/12)
	key, err := s.name()
	if err != nil {
		s.add(Unknown, "writes", "", "%v", err)
		return "", false
	}
	begun := s.now()
	err = storage.CreateBytes(ctx, s.b, key, s.body, nil)
	switch {
	case errors.Is(err, storage.ErrPermission):
		s.add(Warning, "writes", "a restorer needs no more; to push, take the policy of the role database-host (wal-e check --policy database-host)",
			"these credentials may not create objects: %v", err)
	case err != nil && !errors.Is(err, storage.ErrExist): // a retry may meet our own
		s.add(Failure, "writes", "the error names what the store refused", "%v", err)
	default:
		s.made = append(s.made, key)
		s.add(OK, "writes", "", "%d KiB in %s", len(s.body)>>10, round(s.now().Sub(begun)))
		return key, true
	}
	return "", false
}

const weakFix = "while this store is used, run delete and gc with --exclusive when no push is under way, or with --settle; see the docs on weak stores"

// createOnce makes sure that what exists can't be created again.
func (s *store) createOnce(ctx context.Context, key string) {
	const check = "creates only once"
	err := storage.CreateBytes(ctx, s.b, key, []byte("second"), nil)
	switch {
	case errors.Is(err, storage.ErrExist):
		s.add(OK, check, "", "creating an object a second time is refused")
	case err == nil:
		s.add(Failure, check, weakFix, "%s was created twice: two pushes that race would overwrite each other", key)
	default:
		s.add(Unknown, check, weakFix, "%v", err)
	}
}

// race lets several create one object at a time.
func (s *store) race(ctx context.Context) {
	const check = "one winner per name"
	key, err := s.name()
	if err != nil {
		s.add(Unknown, check, "", "%v", err)
		return
	}
	var wg sync.WaitGroup
	errs := make([]error, racers)
	for i := range racers {
		wg.Go(func() {
			errs[i] = storage.CreateBytes(ctx, s.b, key, fmt.Appendf(nil, "racer %d", i), nil)
		})
	}
	wg.Wait()
	winner, won := -1, 0
	for i, err := range errs {
		switch {
		case err == nil:
			winner = i
			won++
		case !errors.Is(err, storage.ErrExist):
			s.made = append(s.made, key)
			s.add(Unknown, check, "", "%v", err)
			return
		}
	}
	s.made = append(s.made, key)
	if won > 1 {
		s.add(Failure, check, weakFix, "%d of %d that created one object at once were told that they had", won, racers)
		return
	}
	data, err := storage.ReadAll(ctx, s.b, key, 64)
	switch {
	case err != nil:
		s.add(Unknown, check, "", "%v", err)
	case won == 1 && string(data) != fmt.Sprintf("racer %d", winner):
		s.add(Failure, check, weakFix, "racer %d of %d won, but %s holds %q", winner, racers, key, data)
	default: // nobody knows that they won when all answers to winners got lost
		s.add(OK, check, "", "of %d that created one object at once, %d won", racers, won)
	}
}

// read reads what was written, wholly and a range of it.
func (s *store) read(ctx context.Context, key string) {
	const check, fix = "reads what was written", "a store that returns other bytes than it was given must not hold an archive"
	begun := s.now()
	data, err := storage.ReadAll(ctx, s.b, key, 2*probeSize)
	took := s.now().Sub(begun)
	switch {
	case errors.Is(err, storage.ErrPermission):
		s.add(Failure, check, "a push reads what other pushes wrote: grant reading", "%v", err)
		return
	case err != nil:
		s.add(Failure, check, fix, "%v", err)
		return
	case !bytes.Equal(data, s.body):
		s.add(Failure, check, fix, "%s holds %d bytes, which aren't the %d that were written", key, len(data), len(s.body))
		return
	}
	const from, length = 4096 + 1, 100
	part, err := readRange(ctx, s.b, key, from, length)
	if err != nil || !bytes.Equal(part, s.body[from:from+length]) {
		s.add(Failure, check, "restores read parts of packs: something between us and the store drops the Range header", "a range of %s: %d bytes, error %v", key, len(part), err)
		return
	}
	s.add(OK, check, "", "%d KiB in %s, and a range of it", len(data)>>10, round(took))
}

func readRange(ctx context.Context, b storage.Bucket, key string, from, length int64) ([]byte, error) {
	r, err := b.Get(ctx, key, from, length)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var buf bytes.Buffer
	_, err = buf.ReadFrom(r)
	return buf.Bytes(), err
}

// listed looks whether a finished object is in a listing that begins afterwards.
func (s *store) listed(ctx context.Context, key string) {
	const check = "lists what was written"
	for o, err := range s.b.List(ctx, probeDir, "") {
		switch {
		case err != nil:
			s.add(Unknown, check, "", "%v", err)
			return
		case o.Key == key:
			s.add(OK, check, "", "an object is listed as soon as it is created")
			return
		}
	}
	s.add(Warning, check, weakFix, "%s was created and isn't listed yet: listings of this store lag", key)
}

func (s *store) clock(ctx context.Context, key string) {
	const check = "clocks agree"
	a, err := s.b.Stat(ctx, key)
	if err != nil {
		s.add(Unknown, check, "", "%v", err)
		return
	}
	slip := a.ModTime.Sub(s.now())
	if slip.Abs() > clockSlip {
		s.add(Warning, check, "set the clock by NTP: signed requests fail when it is minutes off, and times in lists mislead",
			"the store's clock is %s apart from this host's", round(slip.Abs()))
		return
	}
	s.add(OK, check, "", "this host's is within %s of the store's", clockSlip)
}

// remove removes the probes. That it may not is what a database host should be
// able to say.
func (s *store) remove(ctx context.Context) {
	const check = "may delete"
	err := s.b.Delete(ctx, s.made...)
	switch {
	case errors.Is(err, storage.ErrPermission):
		s.add(OK, check, "", "no: these credentials can't remove backups. delete and gc need others, and remove the probes left in %s", probeDir)
	case err != nil:
		s.add(Unknown, check, "remove what is left in "+probeDir+" with wal-e gc", "%v", err)
	default:
		s.add(OK, check, "", "yes: whoever has these credentials can remove the archive; a database host needs no such right (wal-e check --policy database-host)")
	}
}

func round(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }

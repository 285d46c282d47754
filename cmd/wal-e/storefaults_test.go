package main_test

import (
	"net/http"
	"strings"
	"testing"

	"wal-e/internal/enginetest"
	"wal-e/internal/pgtest"
)

// A networkFault is one of toxiproxy's.
type networkFault struct {
	kind, stream string
	toxicity     float64
	attributes   map[string]int
}

// works changes data and moves them to the archive and back, which must succeed.
func (a *archive) works(t *testing.T, c *pgtest.Cluster) {
	t.Helper()
	c.Exec(t, "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid % 50 = 0")
	a.push(t, c)
	segment := c.SwitchWAL(t)
	c.WaitArchived(t, segment)
	a.roundTrip(t, c, segment)
	a.must(t, c, "backup-fetch", target(t), "LATEST")
}

// survives lets a network be bad in several ways at once, and has everything
// verified once it is well again.
func (a *archive) survives(t *testing.T, c *pgtest.Cluster, p *enginetest.Proxy, faults ...networkFault) {
	t.Helper()
	for _, fault := range faults {
		p.Add(t, fault.kind, fault.stream, fault.toxicity, fault.attributes)
	}
	a.works(t, c)
	p.Clear(t)
	a.verified(t, c)
}

// isInTime has the archive fall silent: commands say so within the time they have,
// and PostgreSQL goes on archiving once it answers again.
func (a *archive) isInTime(t *testing.T, c *pgtest.Cluster, p *enginetest.Proxy) {
	t.Helper()
	p.Add(t, "timeout", "downstream", 1, map[string]int{"timeout": 0})
	c.Exec(t, "CREATE TABLE more (i int)")
	segment := c.SwitchWAL(t)
	stuck := a.command(t, c, "wal-push", "pg_wal/"+segment)
	stuck.Dir = c.Dir
	stuck.Env = append(stuck.Env, "WALE_PUSH_TIMEOUT=2s")
	if r := runCommand(t, stuck); r.code != 1 || !strings.Contains(r.stderr, segment) {
		t.Errorf("wal-push to storage that doesn't answer: exit %d, want 1 and a word on %s\n%s", r.code, segment, r.stderr)
	}
	fetch := a.command(t, c, "wal-fetch", segment, target(t))
	fetch.Dir = c.Dir
	fetch.Env = append(fetch.Env, "WALE_FETCH_RETRY=1s")
	if r := runCommand(t, fetch); r.code != 126 {
		t.Errorf("wal-fetch from storage that doesn't answer: exit %d, want 126\n%s", r.code, r.stderr)
	}
	p.Clear(t)
	c.WaitArchived(t, segment)
	a.verified(t, c)
}

// standsAnswers lets a server be busy for a moment again and again, and lose the
// answers to requests that it has carried out.
func (a *archive) standsAnswers(t *testing.T, c *pgtest.Cluster, r *enginetest.Reverse) {
	t.Helper()
	asked, busy, written, lost := 0, 0, 0, 0
	r.Answer(func(w http.ResponseWriter, _ *http.Request) bool {
		if asked++; asked%10 < 8 {
			return false
		}
		busy++
		w.Header().Set("Connection", "close")
		http.Error(w, "", http.StatusServiceUnavailable)
		return true
	})
	r.Lose(func(req *http.Request) bool {
		if req.Method == http.MethodGet || req.Method == http.MethodHead {
			return false
		}
		if written++; written%3 != 2 {
			return false
		}
		lost++
		return true
	})
	a.works(t, c)
	r.Answer(nil)
	r.Lose(nil)
	if a.verified(t, c); busy < 10 || lost < 2 {
		t.Errorf("%d requests met a busy server and %d answers got lost, want at least 10 and 2", busy, lost)
	}
}

// faultyStore is what a store's faults are tested on, and where else it is to be
// reached.
func faultyStore(t *testing.T, vars map[string]string) (*archive, *pgtest.Cluster) {
	t.Helper()
	a := newStorageArchive(t, vars)
	c := a.start(t, pgtest.Options{DataChecksums: true})
	c.Pgbench(t, "-i", "-q", "-s", "1")
	return a, c
}

// usual are the faults that every network has.
func usual() []networkFault {
	return []networkFault{
		{"latency", "downstream", 1, map[string]int{"latency": 30, "jitter": 30}},
		{"reset_peer", "downstream", 0.2, map[string]int{"timeout": 20}},
		{"limit_data", "downstream", 0.3, map[string]int{"bytes": 3000}}, // answers are lost, or cut
	}
}

// Whatever a network does, a command succeeds or says that it failed, and what
// it stored is whole.
func TestS3Faults(t *testing.T) {
	t.Parallel()
	s := enginetest.MinIO(t)
	// Both proxies, one behind the other: S3 signs the name of the first.
	r := enginetest.ReverseProxy(t, s.Addr)
	p := enginetest.Toxiproxy(t, r.Addr)
	env := s3Env(t, s)
	env["WALE_S3_ENDPOINT"] = "http+path://" + p.Addr
	a, c := faultyStore(t, env)
	for _, fault := range append(usual(),
		networkFault{"limit_data", "upstream", 0.3, map[string]int{"bytes": 1_000_000}},
		networkFault{"bandwidth", "upstream", 1, map[string]int{"rate": 20_000}}) {
		t.Run(fault.kind+" "+fault.stream, func(t *testing.T) { a.survives(t, c, p, fault) })
	}
	t.Run("busy and lost", func(t *testing.T) { a.standsAnswers(t, c, r) })
	t.Run("stalled", func(t *testing.T) { a.isInTime(t, c, p) })
}

func TestWABSFaults(t *testing.T) {
	t.Parallel()
	s := enginetest.Azurite(t)
	env := wabsEnv(t, s)
	host, account, _ := strings.Cut(strings.TrimPrefix(s.URL, "http://"), "/")
	r := enginetest.ReverseProxy(t, host)
	p := enginetest.Toxiproxy(t, r.Addr)
	env["WALE_WABS_ENDPOINT"] = "http://" + p.Addr + "/" + account
	a, c := faultyStore(t, env)
	t.Run("network", func(t *testing.T) { a.survives(t, c, p, usual()...) })
	t.Run("busy and lost", func(t *testing.T) { a.standsAnswers(t, c, r) })
	t.Run("stalled", func(t *testing.T) { a.isInTime(t, c, p) })
}

func TestGSFaults(t *testing.T) {
	t.Parallel()
	s := enginetest.GCS(t)
	s.CreateBucket(t, "archives")
	r := enginetest.ReverseProxy(t, strings.TrimPrefix(s.URL, "http://"))
	p := enginetest.Toxiproxy(t, r.Addr)
	a, c := faultyStore(t, map[string]string{"WALE_GS_PREFIX": "gs://archives/some/path", "STORAGE_EMULATOR_HOST": p.Addr})
	t.Run("network", func(t *testing.T) { a.survives(t, c, p, usual()...) })
	t.Run("busy and lost", func(t *testing.T) { a.standsAnswers(t, c, r) })
	t.Run("stalled", func(t *testing.T) { a.isInTime(t, c, p) })
}

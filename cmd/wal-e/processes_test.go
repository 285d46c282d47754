package main_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"wal-e/chunkstore"
	"wal-e/internal/pgtest"
	"wal-e/internal/storage"
	"wal-e/internal/storage/file"
)

// TestManyProcesses lets pushes, deletes, collections, undeletes, restores and
// WAL pushes work on one archive at once, as processes of their own, of which
// many are killed at any moment. In the end each backup of which success was
// reported and that nobody deleted is there and restores, and nothing else is.
func TestManyProcesses(t *testing.T) {
	t.Parallel()
	manyProcesses(t, 10*time.Second)
}

// TestSoakManyProcesses is the same for WALE_SOAK.
func TestSoakManyProcesses(t *testing.T) {
	d, err := time.ParseDuration(os.Getenv("WALE_SOAK"))
	if err != nil {
		t.Skip("set WALE_SOAK to a duration: make soak")
	}
	manyProcesses(t, d)
}

func manyProcesses(t *testing.T, d time.Duration) {
	m := &melee{t: t, a: newArchive(t), reported: make(map[string]string), named: make(map[string]bool), counts: make(map[string]int)}
	m.prepare(3)
	m.a.sh(t, "mkdir -p "+m.a.prefix) // one that isn't there may be one that isn't mounted, and nothing is deleted of that
	begin := time.Now()
	var g errgroup.Group
	for worker := range 4 {
		g.Go(func() error {
			w := &fighter{melee: m, rng: rand.New(rand.NewPCG(uint64(begin.UnixNano()), uint64(worker))), state: pgtest.TempDir(t)}
			for !t.Failed() && (time.Since(begin) < d || !m.enough()) {
				w.version = min(len(m.versions)-1, int(time.Since(begin)*time.Duration(len(m.versions))/d))
				w.act()
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Logf("what was done: %v", m.counts)
	if !t.Failed() {
		m.finish()
	}
}

// A melee is an archive on which processes work, and what they said.
type melee struct {
	t        *testing.T
	a        *archive
	versions []string // data directories of one stopped cluster, the oldest first
	segments []string // WAL files of the cluster, complete

	mu       sync.Mutex
	reported map[string]string // backups whose success was reported, NAME/RUN: the data directory
	named    map[string]bool   // those that a delete said it deletes
	counts   map[string]int    // of what was done
}

// prepare makes a cluster and copies of it as it went on.
func (m *melee) prepare(versions int) {
	m.t.Helper()
	c := pgtest.Start(m.t, pgtest.Options{Major: 15})
	c.Exec(m.t, "CREATE TABLE t AS SELECT i, md5(i::text) AS v FROM generate_series(1, 30000) i")
	for range versions {
		c.Exec(m.t, "UPDATE t SET v = md5(v) WHERE i % 7 = 0")
		c.SwitchWAL(m.t)
		c.Stop(m.t, pgtest.Fast)
		dir := filepath.Join(pgtest.TempDir(m.t), "data")
		if out, err := pgtest.RunAs(m.t, exec.Command("cp", "-a", c.Dir, dir)).CombinedOutput(); err != nil {
			m.t.Fatalf("copy of the cluster: %v\n%s", err, out)
		}
		m.versions = append(m.versions, dir)
		c.StartAgain(m.t)
	}
	c.Stop(m.t, pgtest.Fast)
	segments, err := filepath.Glob(filepath.Join(m.versions[0], "pg_wal", "0*"))
	if err != nil || len(segments) == 0 {
		m.t.Fatalf("WAL of the cluster: %v, %v", segments, err)
	}
	m.segments = segments[:len(segments)-1]
}

func (m *melee) count(what string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.counts[what]++
}

// enough tells whether so much was done that the end says something.
func (m *melee) enough() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.counts["backup-push"] >= 3 && m.counts["delete"] >= 2 && m.counts["killed"] >= 3
}

// A fighter begins one process after the other.
type fighter struct {
	*melee
	rng     *rand.Rand
	state   string // a folder of its own, as if it were a host of its own
	version int    // at which the cluster is
}

func (f *fighter) act() {
	switch n := f.rng.IntN(100); {
	case n < 40:
		f.push()
	case n < 60:
		f.delete("delete", "--confirm", "--json", "retain", fmt.Sprint(1+f.rng.IntN(3)))
	case n < 67:
		f.undelete(f.delete("delete", "--confirm", "--json", "--grace", "1h", "retain", "1"))
	case n < 75:
		f.run("gc")
	case n < 80:
		f.run("gc", "--abort-running")
	case n < 90:
		f.run("wal-push", f.segments[f.rng.IntN(len(f.segments))])
	default:
		f.fetch()
	}
}

// An end is how a process ended.
type end int

const (
	failed end = iota
	succeeded
	killed
)

// run runs wal-e, and kills one process in four. It returns what that wrote
// until then.
func (f *fighter) run(args ...string) (stdout, stderr string, e end) {
	ctx, cancel := context.WithCancel(f.t.Context())
	defer cancel()
	cmd := pgtest.RunAs(f.t, exec.CommandContext(ctx, f.a.bin, args...))
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=/tmp"}, f.a.env...)
	cmd.Env = append(cmd.Env, "WALE_STATE_DIR="+filepath.Join(f.state, "state"), "WALE_LAYOUT=dedup")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if f.rng.IntN(4) == 0 {
		kill := time.AfterFunc(time.Duration(f.rng.IntN(600))*time.Millisecond, cancel) // SIGKILL
		defer kill.Stop()
	}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		e = succeeded
		f.count(args[0])
	case ctx.Err() != nil && (!errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signaled()):
		e = killed
		f.count("killed")
	default:
		f.count(args[0] + " failed")
		if args[0] == "delete" || args[0] == "gc" {
			f.t.Errorf("wal-e %s: %v\n%s", strings.Join(args, " "), err, errs.String())
		}
	}
	if strings.Contains(errs.String(), "internal error") || strings.Contains(errs.String(), "damage") {
		f.t.Errorf("wal-e %s: %v\n%s", strings.Join(args, " "), err, errs.String())
	}
	return out.String(), errs.String(), e
}

// push pushes the cluster as it is, or now and then as it was.
func (f *fighter) push() {
	v := f.version
	if v > 0 && f.rng.IntN(5) == 0 {
		v--
	}
	stdout, _, end := f.run("backup-push", "--while-offline", "--json", f.versions[v])
	if end != succeeded {
		return
	}
	var p pushed
	if err := json.Unmarshal([]byte(stdout), &p); err != nil {
		f.t.Errorf("backup-push --json printed %q: %v", stdout, err)
		return
	}
	f.report(p.Name+"/"+p.Run, f.versions[v])
}

func (m *melee) report(ref, dir string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reported[ref] = dir
}

// deleting is what delete writes before it deletes a backup.
var deleting = regexp.MustCompile(`key being deleted is \S+/basebackups_006/(\S+)\.outcome\.`)

// delete deletes, and returns what. When it was killed that isn't known, only
// what it was about to delete.
func (f *fighter) delete(args ...string) []string {
	_, stderr, _ := f.run(args...)
	f.mu.Lock()
	defer f.mu.Unlock()
	var refs []string
	for _, match := range deleting.FindAllStringSubmatch(stderr, -1) {
		f.named[match[1]] = true
		refs = append(refs, match[1])
	}
	return refs
}

// any returns a backup that was reported and that nobody deleted, or "".
func (f *fighter) any() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var refs []string
	for ref := range f.reported {
		if !f.named[ref] {
			refs = append(refs, ref)
		}
	}
	if len(refs) == 0 {
		return ""
	}
	slices.Sort(refs)
	return refs[f.rng.IntN(len(refs))]
}

var takenBack = regexp.MustCompile(`It is (\S+) now`)

// undelete takes one of several backups back, unless others have collected what
// it needs.
func (f *fighter) undelete(refs []string) {
	if len(refs) == 0 {
		return
	}
	ref := refs[f.rng.IntN(len(refs))]
	_, stderr, end := f.run("undelete", strings.Replace(ref, "/", "@", 1))
	if end != succeeded {
		return
	}
	match := takenBack.FindStringSubmatch(stderr)
	if match == nil {
		f.t.Errorf("undelete doesn't say what it made:\n%s", stderr)
		return
	}
	f.mu.Lock()
	dir, known := f.reported[ref]
	f.mu.Unlock()
	if !known { // its push was killed after it had committed
		return
	}
	f.report(strings.Replace(match[1], "@", "/", 1), dir)
}

// fetch restores a backup, which succeeds unless somebody deletes it.
func (f *fighter) fetch() {
	ref := f.any()
	if ref == "" {
		return
	}
	dir := filepath.Join(f.state, "restored")
	_, stderr, end := f.run("backup-fetch", dir, strings.Replace(ref, "/", "@", 1))
	f.mu.Lock()
	source, deleted := f.reported[ref], f.named[ref]
	f.mu.Unlock()
	switch {
	case end == succeeded:
		f.compare(source, dir)
	case end == failed && !deleted && !f.beingDeleted(ref):
		f.t.Errorf("%s can't be restored though nobody deleted it:\n%s", ref, stderr)
	}
	if err := os.RemoveAll(dir); err != nil {
		f.t.Error(err)
	}
}

// beingDeleted tells whether a backup has a tombstone, or is gone: its delete
// may still be under way.
func (m *melee) beingDeleted(ref string) bool {
	_, standing := os.Stat(filepath.Join(m.a.prefix, "basebackups_006", ref+".outcome"))
	_, deleted := os.Stat(filepath.Join(m.a.prefix, "deleted_006", ref))
	return standing != nil || deleted == nil
}

// compare compares a restored data directory with what was pushed.
func (m *melee) compare(source, restored string) {
	err := filepath.WalkDir(filepath.Join(source, "base"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.HasPrefix(d.Name(), "pg_internal.init") {
			return err
		}
		rel, err := filepath.Rel(source, path)
		if err != nil {
			return err
		}
		want, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		got, err := os.ReadFile(filepath.Join(restored, rel))
		if err == nil && !bytes.Equal(got, want) {
			err = fmt.Errorf("%s differs from what was pushed", rel)
		}
		return err
	})
	if err != nil {
		m.t.Errorf("restored %s: %v", restored, err)
	}
}

// finish looks at what is left.
func (m *melee) finish() {
	t := m.t
	// What killed pushes left serves the next push, and goes after it.
	last := m.versions[len(m.versions)-1]
	m.a.must(t, nil, "gc", "--abort-running")
	stdout := m.a.must(t, nil, "backup-push", "--while-offline", "--json", last).stdout
	var p pushed
	if err := json.Unmarshal([]byte(stdout), &p); err != nil {
		t.Fatal(err)
	}
	m.reported[p.Name+"/"+p.Run] = last
	m.a.must(t, nil, "gc")
	m.a.must(t, nil, "gc") // a run that was deleted during the first goes with the next
	m.a.must(t, nil, "verify", "--all", "--read-data")

	b, err := file.Open(m.a.prefix)
	if err != nil {
		t.Fatal(err)
	}
	valid := m.valid(b)
	for ref, dir := range m.reported {
		if valid[ref] == nil {
			if !m.named[ref] {
				t.Errorf("success was reported of %s, nobody deleted it, and it is gone", ref)
			}
			continue
		}
		restored := target(t)
		m.a.must(t, nil, "backup-fetch", restored, strings.Replace(ref, "/", "@", 1))
		m.compare(dir, restored)
	}
	m.checkGarbage(b, valid)
}

// valid returns the backups that stand.
func (m *melee) valid(b storage.Bucket) map[string]*chunkstore.Outcome {
	runs, err := chunkstore.Runs(m.t.Context(), b)
	if err != nil {
		m.t.Fatal(err)
	}
	valid := make(map[string]*chunkstore.Outcome)
	for _, r := range runs {
		if !r.Ended() {
			continue
		}
		o, err := chunkstore.ReadOutcome(m.t.Context(), b, r.Ref)
		if err != nil {
			m.t.Fatal(err)
		}
		if o.Result == chunkstore.Commit {
			valid[r.Ref.Name+"/"+r.Ref.Run.String()] = o
		}
	}
	return valid
}

// checkGarbage makes sure that all that is stored serves a backup.
func (m *melee) checkGarbage(b storage.Bucket, valid map[string]*chunkstore.Outcome) {
	packs := make(map[string]bool)
	holds := make(map[string]bool) // runs that are backups, or with packs that are needed
	for ref, o := range valid {
		holds[filepath.Base(ref)] = true
		for p := range o.Footprint.All() {
			packs[chunkstore.PackKey(p)], holds[p.Run.String()] = true, true
		}
	}
	for o, err := range b.List(m.t.Context(), "", "") {
		if err != nil {
			m.t.Fatal(err)
		}
		part := strings.Split(o.Key, "/")
		run := strings.Split(filepath.Base(o.Key), ".")[0]
		garbage := false
		switch part[0] {
		case "basebackups_006", "deleted_006":
			garbage = !holds[run]
		case "chunks_006":
			garbage = part[1] == "packs" && !packs[o.Key] || part[1] == "index" && !holds[part[2]]
		case "probe_006":
			// The probe of a collector that was killed goes with a collection an
			// hour later: until then somebody may be using it.
			garbage = time.Since(o.ModTime) > time.Hour
		}
		if garbage {
			m.t.Errorf("%s was left, and no backup needs it", o.Key)
		}
	}
	// Offline backups carry their WAL, so what is left of the archive's lies at or
	// above where the oldest begins.
	first := ""
	for ref := range valid {
		if segment := strings.TrimPrefix(ref, "base_")[:24]; first == "" || segment < first {
			first = segment
		}
	}
	for o, err := range b.List(m.t.Context(), "wal_006/", "") {
		if name := filepath.Base(o.Key); err != nil || name < first {
			m.t.Errorf("%s was left below %s: %v", o.Key, first, err)
		}
	}
}

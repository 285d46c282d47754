package bench

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"wal-e/internal/pgtest"
	"wal-e/internal/postgres"
)

const (
	walSegments = 24 // of 16 MB, in each measurement
	walRounds   = 3  // of all measurements, one after the other
)

// BenchmarkWAL pushes and fetches the segments that pgbench wrote with wal-e and
// with pgbackrest, one process at a time as PostgreSQL does it, with and without
// what each does in the background, in a directory and in S3 that answers 20 ms
// late. It prints a line per measurement: the median of the rounds, which are
// interleaved.
func BenchmarkWAL(b *testing.B) {
	if _, err := exec.LookPath("pgbackrest"); err != nil {
		b.Fatal("no pgbackrest to compare with; run: apt-get install pgbackrest")
	}
	// Children of what we start become ours, so that their time can be counted.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		b.Fatal(err)
	}
	w := newWALBench(b)
	var lines []string
	results := make(map[string][]sample)
	measurements := slices.Concat(w.measurements(w.inFiles(b)), w.measurements(w.inS3(b)))
	for range walRounds {
		for _, m := range measurements {
			if _, ok := results[m.name]; !ok {
				lines = append(lines, m.name)
			}
			results[m.name] = append(results[m.name], w.run(b, m))
		}
	}
	for b.Loop() { // what there is to repeat is above
	}
	b.Logf("%-30s %10s %10s %10s", "", "ms/segment", "cpu ms", "peak MB")
	for _, name := range lines {
		list := results[name]
		median := func(value func(sample) float64) float64 {
			slices.SortFunc(list, func(x, y sample) int { return cmp.Compare(value(x), value(y)) })
			return value(list[len(list)/2])
		}
		b.Logf("%-30s %10.1f %10.1f %10.1f", name,
			median(func(s sample) float64 { return s.wall.Seconds() * 1e3 / walSegments }),
			median(func(s sample) float64 { return s.cpu.Seconds() * 1e3 / walSegments }),
			median(func(s sample) float64 { return float64(s.rss) / 1024 }))
	}
}

// A sample is what one measurement took, with all its processes.
type sample struct {
	wall, cpu time.Duration
	rss       int64 // KiB, of the largest process
}

type walBench struct {
	dir   string // of everything
	data  string // the cluster; pg_wal holds the segments
	names []string
	walE  string
	spool string // of pgbackrest
}

// newWALBench makes a stopped cluster with segments of real WAL.
func newWALBench(b *testing.B) *walBench {
	b.Helper()
	w := &walBench{dir: pgtest.TempDir(b), walE: pgtest.Binary(b)}
	if root := os.Getenv("WALE_BENCH_DIR"); root != "" {
		// Where durable means a disk: the folder for temporary files may be memory.
		w.dir = filepath.Join(root, filepath.Base(w.dir))
		w.must(b, exec.Command("mkdir", "-p", w.dir))
		b.Cleanup(func() { _ = os.RemoveAll(w.dir) })
	}
	kept := filepath.Join(w.dir, "kept")
	w.must(b, exec.Command("mkdir", kept))
	c := pgtest.Start(b, pgtest.Options{ArchiveCommand: "cp %p " + kept + "/%f", Conf: map[string]string{"max_wal_size": "4GB"}})
	c.Pgbench(b, "-i", "-q", "-s", "20")
	c.Pgbench(b, "-n", "-c", "4", "-t", "10000")
	c.WaitArchived(b, c.SwitchWAL(b))
	c.Stop(b, pgtest.Fast)
	w.data = filepath.Join(w.dir, "data")
	pgtest.CopyDir(b, c.Dir, w.data)
	w.fill(b, kept)

	w.spool = filepath.Join(w.dir, "spool")
	return w
}

// fill puts the segments into pg_wal, with pgbench's WAL under as many names as
// are wanted.
func (w *walBench) fill(b *testing.B, kept string) {
	b.Helper()
	const size = postgres.DefaultSegmentSize
	paths, err := filepath.Glob(filepath.Join(kept, "0*"))
	if err != nil || len(paths) < 4 {
		b.Fatalf("pgbench wrote %d segments (%v), want at least 4", len(paths), err)
	}
	paths = paths[1 : len(paths)-1] // the first and the last are half empty
	for i := range walSegments {
		content, err := os.ReadFile(paths[i%len(paths)])
		if err != nil {
			b.Fatal(err)
		}
		no := uint64(100 + i)
		name := postgres.Segment{Timeline: 1, No: no}.Name(size)
		binary.LittleEndian.PutUint64(content[8:], no*uint64(size))
		w.write(b, filepath.Join(w.data, "pg_wal", name), content)
		w.names = append(w.names, name)
	}
}

// write makes a file of the user that servers run as.
func (w *walBench) write(b *testing.B, path string, content []byte) {
	b.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		b.Fatal(err)
	}
	w.own(b, path)
}

func (w *walBench) own(b *testing.B, path string) {
	b.Helper()
	info, err := os.Stat(w.data)
	if err != nil {
		b.Fatal(err)
	}
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		if err := os.Chown(path, int(s.Uid), int(s.Gid)); err != nil {
			b.Fatal(err)
		}
	}
}

func (w *walBench) must(b *testing.B, cmd *exec.Cmd) {
	b.Helper()
	if len(cmd.Env) == 0 {
		cmd.Env = os.Environ()
	}
	if out, err := pgtest.RunAs(b, cmd).CombinedOutput(); err != nil {
		b.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
}

// A measurement handles all segments with one program.
type measurement struct {
	name    string
	at      *place
	walE    bool
	fetch   bool
	options []string
}

func (w *walBench) measurements(at *place) []measurement {
	return []measurement{
		{"push wal-e" + at.name, at, true, false, []string{"-p1"}},
		{"push pgbackrest" + at.name, at, false, false, []string{"--no-archive-async"}},
		{"push wal-e pooled" + at.name, at, true, false, nil},
		{"push pgbackrest async" + at.name, at, false, false, []string{"--archive-async"}},
		{"fetch wal-e" + at.name, at, true, true, []string{"-p0"}},
		{"fetch pgbackrest" + at.name, at, false, true, []string{"--no-archive-async"}},
		{"fetch wal-e prefetch" + at.name, at, true, true, nil},
		{"fetch pgbackrest async" + at.name, at, false, true, []string{"--archive-async"}},
	}
}

// command is that of a measurement for a segment, as PostgreSQL starts it.
func (w *walBench) command(m measurement, name string) *exec.Cmd {
	args := []string{"pgbackrest", "--config=" + m.at.conf, "--stanza=x"}
	sub := map[bool]string{false: "archive-push", true: "archive-get"}
	if m.walE {
		args = []string{w.walE, "--terse"}
		sub = map[bool]string{false: "wal-push", true: "wal-fetch"}
	}
	args = append(append(args, sub[m.fetch]), m.options...)
	if m.fetch {
		args = append(args, name, "pg_wal/RECOVERYXLOG")
	} else {
		args = append(args, filepath.Join("pg_wal", name))
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Env = w.data, m.at.env
	return cmd
}

// run measures, from archives that hold nothing, or all that was pushed.
func (w *walBench) run(b *testing.B, m measurement) sample {
	b.Helper()
	if !m.fetch {
		w.reset(b, m)
	}
	for _, path := range []string{w.spool, filepath.Join(w.data, "pg_wal/.wal-e")} {
		if err := os.RemoveAll(path); err != nil {
			b.Fatal(err)
		}
	}
	syscall.Sync() // what others wrote isn't ours to wait for
	// A process begins with the peak of the one that it was forked from.
	debug.FreeOSMemory()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0o600); err != nil {
		b.Fatal(err)
	}
	var s sample
	before := children(b) // servers
	for _, name := range w.names {
		status := filepath.Join(w.data, "pg_wal/archive_status", name)
		if _, err := os.Stat(status + ".ready"); err != nil && !m.fetch {
			continue // done beside another, as PostgreSQL's archiver sees it
		}
		cmd := w.command(m, name)
		out := new(strings.Builder)
		cmd.Stderr = out
		began := time.Now()
		if err := pgtest.RunAs(b, cmd).Run(); err != nil {
			b.Fatalf("%v: %v\n%s", cmd.Args, err, out)
		}
		s.wall += time.Since(began)
		if u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
			s.add(u)
		}
		if err := w.taken(m, name); err != nil {
			b.Fatalf("%v: %v", cmd.Args, err)
		}
	}
	// What works in the background ends by itself, and counts.
	for {
		var ours []int
		for _, pid := range children(b) {
			if !slices.Contains(before, pid) {
				ours = append(ours, pid)
			}
		}
		if len(ours) == 0 {
			return s
		}
		for _, pid := range ours {
			var u syscall.Rusage
			if _, err := syscall.Wait4(pid, nil, 0, &u); err == nil {
				s.add(&u)
			}
		}
	}
}

// children returns those of this process, orphans of others included.
func children(b *testing.B) []int {
	b.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		b.Fatal(err)
	}
	var pids []int
	for _, path := range stats {
		line, _ := os.ReadFile(path) // it may be gone
		// The name, which may hold anything, is in parentheses; the parent is second behind it.
		fields := strings.Fields(string(line[bytes.LastIndexByte(line, ')')+1:]))
		if len(fields) < 2 || fields[1] != strconv.Itoa(os.Getpid()) {
			continue
		}
		pid, err := strconv.Atoi(strings.Split(path, "/")[2])
		if err != nil {
			b.Fatalf("%s: %v", path, err)
		}
		pids = append(pids, pid)
	}
	return pids
}

// taken does what PostgreSQL does with a segment that was pushed or fetched, as far
// as it matters here: it never finds the last one when it fetches.
func (w *walBench) taken(m measurement, name string) error {
	if !m.fetch {
		status := filepath.Join(w.data, "pg_wal/archive_status", name)
		return os.Rename(status+".ready", status+".done")
	}
	fetched := filepath.Join(w.data, "pg_wal/RECOVERYXLOG")
	if err := sameFile(filepath.Join(w.data, "pg_wal", name), fetched); err != nil {
		return err
	}
	return os.Remove(fetched)
}

func (s *sample) add(u *syscall.Rusage) {
	s.cpu += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	s.rss = max(s.rss, u.Maxrss)
}

// sameFile compares the heads of two segments, which tell them apart. That all of
// it is right other tests show.
func sameFile(want, got string) error {
	var heads [2][40]byte
	for i, path := range []string{want, got} {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		_, err = f.Read(heads[i][:])
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			return err
		}
	}
	if heads[0] != heads[1] {
		return fmt.Errorf("%s is not %s", got, want)
	}
	return nil
}

// reset empties an archive and makes all segments ready. What the first push of all
// does isn't measured.
func (w *walBench) reset(b *testing.B, m measurement) {
	b.Helper()
	m.at.empty(b, m.walE)
	if err := os.RemoveAll(filepath.Join(w.dir, "state")); err != nil {
		b.Fatal(err)
	}
	prepare := exec.Command("pgbackrest", "--config="+m.at.conf, "--stanza=x", "--no-online", "stanza-create")
	if m.walE {
		w.write(b, filepath.Join(w.data, "pg_wal/00000001.history"), []byte("x"))
		prepare = exec.Command(w.walE, "--terse", "wal-push", "-p1", "pg_wal/00000001.history")
		prepare.Dir = w.data
	}
	prepare.Env = m.at.env
	w.must(b, prepare)
	status := filepath.Join(w.data, "pg_wal/archive_status")
	err := filepath.WalkDir(status, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			err = os.Remove(path)
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	for _, name := range w.names {
		w.write(b, filepath.Join(status, name+".ready"), nil)
	}
}

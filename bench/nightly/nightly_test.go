package nightly_test

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"wal-e/bench/nightly"
	"wal-e/internal/pgtest"
)

func TestMain(m *testing.M) {
	nightly.Main()
	os.Exit(m.Run())
}

// BenchmarkNightly backs a cluster up with each program that it finds, night after
// night, and restores it. It writes tables, plots and all samples into a folder.
//
// SCALE is pgbench's (about 20 MB each), RUNS how often each command runs, DAYS how
// many nights there are, STORAGE files or s3, TOOLS the programs that take part, with
// commas between (else all), RESULTS the folder to write into, WALE_BENCH_DIR where
// to work, instead of the folder for temporary files. With RENDER=1 tables and plots are made anew from the samples in RESULTS.
func BenchmarkNightly(b *testing.B) {
	if os.Getenv("RENDER") != "" {
		r, err := nightly.Read(resultsDir())
		if err == nil {
			err = r.Write(resultsDir())
		}
		if err != nil {
			b.Fatal(err)
		}
		return
	}
	n := newBench(b)
	for night := 1; night <= n.nights; night++ {
		n.play(b, night)
		for run := 1; run <= n.runs; run++ {
			for i := range n.tools { // each begins once
				if t := n.tools[(i+run)%len(n.tools)]; !t.live && n.takesPart(t, night) {
					n.measure(b, t, night, run)
				}
			}
		}
		n.c.StartAgain(b)
		for run := 1; run <= n.runs; run++ {
			for _, t := range n.tools {
				if t.live && n.takesPart(t, night) {
					n.measure(b, t, night, run)
				}
			}
		}
		n.write(b)
	}
	for run := 1; run <= n.runs; run++ {
		for _, t := range n.tools {
			n.old(b, t, run)
		}
	}
	n.write(b)
	for b.Loop() { // what there is to repeat is above
	}
}

type bench struct {
	dir, self, data string // to work in; this program; the cluster
	before          string // the cluster as it was the night before
	discarded       int    // folders
	filled          int64  // bytes of holes that memory was filled with
	scale           int
	runs, nights    int
	c               *pgtest.Cluster
	tools           []tool
	store           *s3store // nil: files
	results         string
	result          nightly.Result
	sums            map[string][32]byte // of the cluster tonight
	first           map[string][32]byte // of the first night
	firstNames      map[string]string   // of the backup of that night, by tool and run
}

func number(b *testing.B, name string, standard int) int {
	b.Helper()
	text := os.Getenv(name)
	if text == "" {
		return standard
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		b.Fatalf("%s: %q is not a number from 1 on", name, text)
	}
	return n
}

func newBench(b *testing.B) *bench {
	b.Helper()
	n := &bench{dir: pgtest.TempDir(b), scale: number(b, "SCALE", 20), runs: number(b, "RUNS", 5), nights: number(b, "DAYS", 10), firstNames: make(map[string]string)}
	if root := os.Getenv("WALE_BENCH_DIR"); root != "" {
		// Where durable means a disk: the folder for temporary files may be memory.
		n.dir = filepath.Join(root, filepath.Base(n.dir))
		n.must(b, "mkdir", "-p", n.dir)
		b.Cleanup(func() { _ = os.RemoveAll(n.dir) })
	}
	n.must(b, "mkdir", filepath.Join(n.dir, "bin"))
	n.self = filepath.Join(n.dir, "bin/measure")
	program, err := os.Executable()
	if err == nil {
		err = copyFile(n.self, program)
	}
	if err == nil {
		err = os.Symlink(pgtest.Binary(b), filepath.Join(n.dir, "bin/wal-e"))
	}
	if err != nil {
		b.Fatal(err)
	}
	storage := os.Getenv("STORAGE")
	switch storage {
	case "", "files":
		storage = "files"
	case "s3":
		n.store = newS3store(b, n.dir)
	default:
		b.Fatalf("STORAGE: %q is neither files nor s3", storage)
	}
	wanted := os.Getenv("TOOLS")
	for _, t := range tools(b, n.dir) {
		if wanted != "" && !slices.Contains(strings.Split(wanted, ","), t.Name) {
			continue
		}
		if n.store != nil {
			if t.s3 == nil {
				continue
			}
			t.env = t.s3
		}
		n.tools = append(n.tools, t)
		if t.Version == "" && t.Name == nightly.Ours {
			t.Version = "this tree"
		}
		n.result.Programs = append(n.result.Programs, t.Program)
	}
	n.results = resultsDir()
	n.c = pgtest.Start(b, pgtest.Options{DataChecksums: true, Conf: map[string]string{
		"autovacuum": "off", "max_wal_size": "2GB", "wal_recycle": "off", "max_wal_senders": "4", "checkpoint_timeout": "1h", "shared_buffers": "128MB"}})
	n.data = n.c.Dir
	build(b, n.c, n.scale)
	n.result.Machine = machine() + ", " + n.c.Query(b, "SELECT 'PostgreSQL ' || current_setting('server_version')") + ", with page checksums."
	n.result.Setup = fmt.Sprintf("`make bench SCALE=%d RUNS=%d DAYS=%d STORAGE=%s`. The cluster is stopped for each night; what it last read is in the page cache.", n.scale, n.runs, n.nights, storage)
	n.result.Runs = n.runs
	return n
}

// resultsDir is the folder for tables, plots and samples.
func resultsDir() string {
	return cmp.Or(os.Getenv("RESULTS"), filepath.Join("../results", cmp.Or(os.Getenv("STORAGE"), "files")))
}

// machine says what it is measured on.
func machine() string {
	var u syscall.Utsname
	kernel := "Linux"
	if syscall.Uname(&u) == nil {
		for _, c := range u.Release {
			if c == 0 || c == '-' {
				break
			}
			kernel += map[bool]string{true: " ", false: ""}[kernel == "Linux"] + string(rune(c))
		}
	}
	cpu, memory := "", ""
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
				cpu = " (" + strings.TrimSpace(value) + ")"
				break
			}
		}
	}
	if text, err := os.ReadFile("/proc/meminfo"); err == nil {
		if fields := strings.Fields(string(text)); len(fields) > 1 {
			if kb, err := strconv.Atoi(fields[1]); err == nil {
				memory = fmt.Sprintf(", %.0f GB of memory", float64(kb)/(1<<20))
			}
		}
	}
	return fmt.Sprintf("%d cores%s%s, %s, %s", runtime.NumCPU(), cpu, memory, kernel, runtime.Version())
}

func copyFile(dst, src string) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close() // only read
	out, err := os.OpenFile(dst, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Chmod(dst, 0o755)
	}
	return err
}

// must runs a command as the user that servers run as.
func (n *bench) must(b *testing.B, args ...string) {
	b.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	if out, err := pgtest.RunAs(b, cmd).CombinedOutput(); err != nil {
		b.Fatalf("%v: %v\n%s", args, err, out)
	}
}

// play lets the cluster work for a day, stops it and looks at what changed.
func (n *bench) play(b *testing.B, night int) {
	b.Helper()
	name, wait := "first full", false
	if list := days(); night > 1 {
		d := list[(night-2)%len(list)]
		name = d.name
		d.play(b, n.c, n.scale, night)
		wait = list[(night-1)%len(list)].name == nightly.Nothing && night < n.nights
	}
	n.c.Exec(b, "CHECKPOINT")
	n.c.SwitchWAL(b)
	n.c.Stop(b, pgtest.Fast)
	n.trimWAL(b)
	if wait {
		n.emptyTrash(b)
		time.Sleep(61 * time.Second)
	}
	floor, err := nightly.ComputeFloor(n.before, n.data)
	if err == nil {
		n.sums, err = nightly.Sums(n.data)
	}
	if err != nil {
		b.Fatal(err)
	}
	if night == 1 {
		n.first = n.sums
	}
	n.result.Nights = append(n.result.Nights, nightly.Night{Work: name, Floor: floor})
	b.Logf("night %d: %s: %d pages changed, floor %.2f of %.0f MB", night, name, floor.Pages, float64(floor.Bytes)/1e6, float64(floor.Total)/1e6)
	n.keep(b)
}

// keep makes a copy of tonight's cluster of last night's.
func (n *bench) keep(b *testing.B) {
	b.Helper()
	n.before = filepath.Join(n.dir, "before")
	n.must(b, "mkdir", "-p", n.before)
	n.must(b, "cp", "-a", n.data+"/.", n.before)
	err := filepath.WalkDir(n.before, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(n.before, path)
		if err != nil {
			return err
		}
		if _, err := os.Lstat(filepath.Join(n.data, rel)); os.IsNotExist(err) {
			return os.Remove(path)
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
}

// discard gets a folder out of the way. ext4 gives no inode away again for a minute
// after its file was removed, and then finding a free one takes long where many were:
// what comes next would seem slow. So folders are removed before the bench waits for
// a minute.
func (n *bench) discard(b *testing.B, path string) {
	b.Helper()
	if _, err := os.Lstat(path); os.IsNotExist(err) {
		return
	}
	n.discarded++
	n.must(b, "mkdir", "-p", filepath.Join(n.dir, "trash"))
	n.must(b, "mv", path, filepath.Join(n.dir, "trash", fmt.Sprint(n.discarded)))
}

func (n *bench) emptyTrash(b *testing.B) {
	b.Helper()
	n.must(b, "rm", "-rf", filepath.Join(n.dir, "trash"))
	syscall.Sync()
}

// trimWAL removes those segments that a stopped cluster doesn't need: the work of the
// day is in them, and an archive has it already.
func (n *bench) trimWAL(b *testing.B) {
	b.Helper()
	out, err := exec.Command(pgtest.Tool(b, "pg_controldata"), n.data).Output()
	if err != nil {
		b.Fatalf("pg_controldata: %v", err)
	}
	keep := ""
	for line := range strings.Lines(string(out)) {
		if name, value, _ := strings.Cut(line, ":"); name == "Latest checkpoint's REDO WAL file" {
			keep = strings.TrimSpace(value)
		}
	}
	segments, err := filepath.Glob(filepath.Join(n.data, "pg_wal/0*"))
	if err != nil || !slices.Contains(segments, filepath.Join(n.data, "pg_wal", keep)) {
		b.Fatalf("the checkpoint is in segment %q, there are %q (%v)", keep, segments, err)
	}
	for _, path := range segments {
		if filepath.Base(path) != keep {
			if err := os.Remove(path); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// takesPart: programs that store each night anew cost about the same each night, so
// they are measured in a few.
func (n *bench) takesPart(t tool, night int) bool {
	return t.Kept || night <= 2 || night == n.nights
}

// restores tells whether the night's backup is restored. Each is by the first run.
func (n *bench) restores(night, run int) bool {
	return run == 1 || night <= 2 || night == 10 || night == n.nights
}

// environment is that of the commands of a tool.
func (n *bench) environment(b *testing.B, t tool, run int) (list []string, vars map[string]string) {
	b.Helper()
	home := filepath.Join(n.dir, strings.NewReplacer(" ", "-", ",", "").Replace(t.Name), fmt.Sprint(run))
	vars = map[string]string{"DATA": n.data, "REPO": filepath.Join(home, "repo"), "STATE": filepath.Join(home, "state"), "OUT": filepath.Join(n.dir, "out")}
	shown := maps.Clone(vars)
	if n.store != nil {
		shown["FOLDER"] = "/" + strings.ReplaceAll(t.Name, " ", "-") + fmt.Sprint(run)
		maps.Copy(shown, n.store.vars)
		vars["FOLDER"] = shown["FOLDER"]
	}
	path := filepath.Join(n.dir, "bin") + ":" + os.Getenv("PATH") + ":" + filepath.Dir(pgtest.Tool(b, "psql"))
	list = []string{"PATH=" + path, "HOME=" + n.dir, "LC_ALL=C"}
	for name, value := range vars {
		list = append(list, name+"="+value)
	}
	if t.live {
		list = append(list, n.c.Env()...)
	}
	for _, setting := range t.env {
		list = append(list, os.Expand(setting, func(name string) string { return shown[name] }))
	}
	return list, vars
}

// run measures a script of a tool.
func (n *bench) run(b *testing.B, t tool, env []string, script string) ([]byte, nightly.Cost, int64) {
	b.Helper()
	syscall.Sync() // what others wrote isn't its to wait for
	n.fillMemory(b)
	var asked int64
	if n.store != nil {
		asked = n.store.requests.Load()
	}
	prepare := func(cmd *exec.Cmd) *exec.Cmd {
		cmd.Dir = n.dir
		return pgtest.RunAs(b, cmd)
	}
	out, cost, err := nightly.Measure(n.self, env, prepare, "sh", "-c", script)
	if err != nil {
		b.Fatalf("%s: %v", t.Name, err)
	}
	if n.store != nil {
		asked = n.store.requests.Load() - asked
	}
	return out, cost, asked
}

// fillMemory reads holes until free memory is page cache that may be taken, but for
// what the kernel keeps free whatever is read. A
// virtual machine's free memory may have gone back to its host: who writes there
// first waits for it, at up to 5 s for a GB, and which program that is would be a
// matter of what was removed before.
func (n *bench) fillMemory(b *testing.B) {
	b.Helper()
	const step = 256 << 20
	f, err := os.OpenFile(filepath.Join(n.dir, "holes"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close() // nothing is written to it
	for before := int64(math.MaxInt64); before-freeMemory(b) > step/2; {
		before = freeMemory(b)
		if err := f.Truncate(n.filled + step); err != nil {
			b.Fatal(err)
		}
		read, err := io.Copy(io.Discard, struct{ io.Reader }{io.NewSectionReader(f, n.filled, step)})
		if err != nil || read != step {
			b.Fatalf("read %d bytes of holes, %v", read, err)
		}
		n.filled += read
	}
}

// freeMemory returns the bytes of memory that nothing is in.
func freeMemory(b *testing.B) int64 {
	b.Helper()
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "MemFree:" {
			kb, err := strconv.ParseInt(fields[1], 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			return kb << 10
		}
	}
	b.Fatal("/proc/meminfo has no MemFree")
	return 0
}

// measure backs the cluster up, and restores it.
func (n *bench) measure(b *testing.B, t tool, night, run int) {
	b.Helper()
	env, vars := n.environment(b, t, run)
	if night == 1 || t.fresh() {
		n.discard(b, vars["REPO"])
		n.discard(b, vars["STATE"])
		n.must(b, "mkdir", "-p", vars["REPO"], vars["STATE"])
		if t.prepare != "" {
			n.run(b, t, env, t.prepare)
		}
	}
	before := n.stored(b, vars)
	out, cost, asked := n.run(b, t, env, t.Backup)
	retired := 0
	if t.Name == nightly.Ours {
		var report struct {
			Name     string `json:"name"`
			Requests int64  `json:"requests"`
			Retired  int    `json:"packs_retired"`
		}
		if err := json.Unmarshal(out, &report); err != nil || report.Name == "" {
			b.Fatalf("backup-push printed %q (%v)", out, err)
		}
		if n.store == nil {
			asked = report.Requests
		}
		retired = report.Retired
		if night == 1 {
			n.firstNames[fmt.Sprint(t.Name, run)] = report.Name
		}
	}
	n.result.Samples = append(n.result.Samples, nightly.Sample{Night: night, Tool: t.Name, Op: nightly.Backup, Run: run,
		Stored: n.stored(b, vars) - before, Requests: asked, Retired: retired, Cost: cost})
	if n.restores(night, run) {
		n.restore(b, t, night, run, nightly.Restore, t.Restore, n.sums)
	}
	if t.fresh() {
		n.discard(b, vars["REPO"])
	}
}

func (n *bench) stored(b *testing.B, vars map[string]string) int64 {
	b.Helper()
	if n.store != nil {
		return n.store.stored(b, vars["FOLDER"])
	}
	bytes, _, err := nightly.Size(vars["REPO"])
	if err != nil {
		b.Fatal(err)
	}
	return bytes
}

// restore measures a restore and compares what it gave with what was backed up.
func (n *bench) restore(b *testing.B, t tool, night, run int, op, script string, want map[string][32]byte) {
	b.Helper()
	env, vars := n.environment(b, t, run)
	n.must(b, "mkdir", "-m", "700", vars["OUT"])
	_, cost, asked := n.run(b, t, env, script)
	out := vars["OUT"] + os.Expand(t.latest, func(name string) string { return vars[name] })
	got, err := nightly.Sums(out)
	if err != nil {
		b.Fatal(err)
	}
	if t.live {
		want, got = relations(want), relations(got) // the server went on writing WAL and what tells of it
	}
	if err := nightly.Compare(want, got); err != nil {
		b.Fatalf("%s, night %d, run %d: %s: %v", t.Name, night, run, op, err)
	}
	n.result.Samples = append(n.result.Samples, nightly.Sample{Night: night, Tool: t.Name, Op: op, Run: run, Requests: asked, Cost: cost})
	n.discard(b, vars["OUT"])
}

func relations(sums map[string][32]byte) map[string][32]byte {
	only := make(map[string][32]byte)
	for path, sum := range sums {
		if strings.HasPrefix(path, "base/") {
			only[path] = sum
		}
	}
	return only
}

// old restores the first night from what holds all.
func (n *bench) old(b *testing.B, t tool, run int) {
	b.Helper()
	script := ""
	switch t.Name {
	case nightly.Ours:
		script = strings.Replace(t.Restore, "LATEST", n.firstNames[fmt.Sprint(t.Name, run)], 1)
	case "pgbackrest", "restic":
		env, _ := n.environment(b, t, run)
		ask, replace := `pgbackrest --output=json info`, "pgbackrest --set="
		if t.Name == "restic" {
			ask = "restic --json snapshots"
		}
		out, _, _ := n.run(b, t, env, ask)
		name := firstName(b, t.Name, out)
		if t.Name == "restic" {
			script = strings.Replace(t.Restore, "latest", name, 1)
		} else {
			script = strings.Replace(t.Restore, "pgbackrest ", replace+name+" ", 1)
		}
	default:
		return
	}
	n.restore(b, t, 1, run, nightly.Old, script, n.first)
}

// firstName finds the oldest backup in what pgbackrest or restic lists.
func firstName(b *testing.B, name string, out []byte) string {
	b.Helper()
	var found string
	if name == "restic" {
		var list []struct {
			ID string `json:"id"`
		}
		if err := json.Unmarshal(out, &list); err == nil && len(list) > 0 {
			found = list[0].ID
		}
	} else {
		var list []struct {
			Backup []struct {
				Label string `json:"label"`
			} `json:"backup"`
		}
		if err := json.Unmarshal(bytes.TrimSpace(out), &list); err == nil && len(list) > 0 && len(list[0].Backup) > 0 {
			found = list[0].Backup[0].Label
		}
	}
	if found == "" {
		b.Fatalf("%s lists no backup: %s", name, out)
	}
	return found
}

// write writes what is known so far.
func (n *bench) write(b *testing.B) {
	b.Helper()
	n.result.Sort()
	if err := n.result.Write(n.results); err != nil {
		b.Fatal(err)
	}
}

// scriptFile makes a file that pgbench can read.
func scriptFile(b *testing.B, text string) string {
	b.Helper()
	path := filepath.Join(pgtest.TempDir(b), "script")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		b.Fatal(err)
	}
	return path
}

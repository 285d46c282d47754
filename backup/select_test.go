package backup_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"wal-e/backup"
	"wal-e/internal/pgtest"
	"wal-e/internal/postgres"
)

// A piece is one thing in a data directory and what becomes of it.
type piece struct {
	path string
	kind string // "file", "dir", "fifo", "socket", or "-> " and a link's target
	want string
}

// What becomes of a piece.
const (
	kept    = "kept"     // as what it is; a followed link as what it points to
	link    = "link"     // kept as a link
	out     = "left out" // of every backup
	offline = "offline"  // kept when the cluster is stopped
	logs    = "logs"     // kept with IncludeLogs
)

// pieces is a data directory of PostgreSQL 18 with everything in it that has a
// rule. Links go to folders beside it, see makeTree.
func pieces() []piece {
	return []piece{
		{"PG_VERSION", "file", kept},
		{"postgresql.conf", "-> ../etc/postgresql.conf", kept},
		{"pg_hba.conf", "file", kept},
		{"pg_ident.conf", "file", kept},
		{"postgresql.auto.conf", "file", kept},
		{"postgresql.auto.conf.tmp", "file", out},
		{"current_logfiles", "file", out},
		{"current_logfiles.tmp", "file", out},
		{"postmaster.pid", "file", out},
		{"postmaster.opts", "file", out},
		{"backup_label", "file", out},
		{"backup_label.old", "file", out},
		{"tablespace_map", "file", out},
		{"tablespace_map.old", "file", out},
		{"backup_manifest", "file", out},
		{"recovery.signal", "file", out},
		{"standby.signal", "file", out},
		{"recovery.conf", "file", out},
		{"recovery.done", "file", out},
		{"promote", "file", out},
		{"core", "file", out},
		{"core.4711", "file", out},
		{"core.postgres.4711", "file", out},
		{"core.conf", "file", kept},
		{"corset", "file", kept},
		{"lost+found", "dir", out},
		{"lost+found/#1", "file", out},
		{".wal-e-fetch", "file", out},
		{".wal-e", "dir", out},
		{".wal-e/state", "file", out},
		{".s.PGSQL.5432", "socket", out},
		{".s.PGSQL.5432.lock", "file", out},
		{"pipe", "fifo", out},
		{".psql_history", "-> /dev/null", out},
		{"notes", "dir", kept},
		{"notes.txt", "file", kept}, // after what is in notes, although '.' < '/'
		{"notes/standby.signal", "file", kept},
		{"notes/core", "file", kept},

		{"global", "dir", kept},
		{"global/pg_control", "file", kept},
		{"global/pg_filenode.map", "file", kept},
		{"global/1262", "file", kept},
		{"global/1262_fsm", "file", kept},
		{"global/pg_internal.init", "file", out},

		{"base", "dir", kept},
		{"base/5", "dir", kept},
		{"base/5/PG_VERSION", "file", kept},
		{"base/5/pg_internal.init", "file", out},
		{"base/5/pg_internal.init.4711", "file", out},
		{"base/5/16384", "file", kept},
		{"base/5/16384.1", "file", kept},
		{"base/5/16384_fsm", "file", kept},
		{"base/5/16384_vm", "file", kept},
		{"base/5/16385", "file", offline},
		{"base/5/16385.1", "file", offline},
		{"base/5/16385_fsm", "file", offline},
		{"base/5/16385_init", "file", kept},
		{"base/5/16385_vm", "file", offline},
		{"base/5/163850", "file", kept},
		{"base/5/t3_16386", "file", out},
		{"base/5/t3_16386_fsm", "file", out},
		{"base/5/t3_16386_init", "file", out},
		{"base/5/t3_16386_init.1", "file", out},
		{"base/5/16386", "file", kept}, // not by a temporary relation's init fork
		{"base/5/16387", "-> ../../../elsewhere/file", kept},
		{"base/6", "dir", kept},
		{"base/6/16385", "file", kept}, // another database's
		{"base/pgsql_tmp", "dir", kept},
		{"base/pgsql_tmp/pgsql_tmp4711.0", "file", out},
		{"base/pgsql_tmp/pgsql_tmp4711.0.fileset", "dir", out},
		{"base/6/pgsql_tmp4711.3", "file", out},

		{"pg_wal", "-> ../wal", kept},
		{"pg_wal/000000010000000000000001", "file", out},
		{"pg_wal/00000002.history", "file", out},
		{"pg_wal/archive_status", "dir", kept},
		{"pg_wal/archive_status/000000010000000000000001.ready", "file", out},
		{"pg_wal/summaries", "dir", kept},
		{"pg_wal/summaries/0000.summary", "file", out},
		{"pg_wal/others", "dir", out},
		{"pg_xlog", "dir", kept}, // nothing to this release
		{"pg_xlog/file", "file", kept},

		{"pg_dynshmem", "dir", kept},
		{"pg_dynshmem/mmap.1", "file", out},
		{"pg_notify", "dir", kept},
		{"pg_notify/0000", "file", out},
		{"pg_replslot", "dir", kept},
		{"pg_replslot/standby1", "dir", out},
		{"pg_replslot/standby1/state", "file", out},
		{"pg_serial", "dir", kept},
		{"pg_serial/0000", "file", out},
		{"pg_snapshots", "dir", kept},
		{"pg_snapshots/1", "file", out},
		{"pg_stat_tmp", "-> ../memory", kept},
		{"pg_stat_tmp/global.stat", "file", out},
		{"pg_subtrans", "-> ../gone", kept},
		{"pg_stat", "dir", kept},
		{"pg_stat/pgstat.stat", "file", kept},
		{"pg_logical", "dir", kept},
		{"pg_logical/replorigin_checkpoint", "file", kept},
		{"pg_twophase", "dir", kept},
		{"pg_twophase/00000001", "file", kept},
		{"pg_commit_ts", "dir", kept},

		{"log", "-> ../log", logs},
		{"log/today.log", "file", logs},
		{"pg_log", "dir", logs},
		{"pg_log/today.log", "file", logs},

		{"pg_tblspc", "dir", kept},
		{"pg_tblspc/16390", "-> ../../space", link},
		{"pg_tblspc/16390/PG_VERSION", "file", out},
		{"pg_tblspc/16390/lost+found", "dir", out},
		{"pg_tblspc/16390/PG_17_202406281", "dir", out},
		{"pg_tblspc/16390/PG_17_202406281/5", "dir", out},
		{"pg_tblspc/16390/PG_18_202506291", "dir", kept},
		{"pg_tblspc/16390/PG_18_202506291/5", "dir", kept},
		{"pg_tblspc/16390/PG_18_202506291/5/16391", "file", offline},
		{"pg_tblspc/16390/PG_18_202506291/5/16391_init", "file", kept},
		{"pg_tblspc/16390/PG_18_202506291/5/t1_16392", "file", out},
		{"pg_tblspc/16390/PG_18_202506291/pgsql_tmp", "dir", kept},
		{"pg_tblspc/16390/PG_18_202506291/pgsql_tmp/pgsql_tmp1.0", "file", out},
		{"pg_tblspc/16400", "dir", kept}, // in place
		{"pg_tblspc/16400/PG_18_202506291", "dir", kept},
		{"pg_tblspc/16400/PG_18_202506291/5", "dir", kept},
		{"pg_tblspc/16400/PG_18_202506291/5/16401", "file", kept},
		{"spaces", "dir", kept}, // a tablespace within the data directory
		{"spaces/one", "dir", kept},
		{"pg_tblspc/16410", "-> ../spaces/one", link},
		{"pg_tblspc/16410/PG_18_202506291", "dir", kept},
		{"pg_tblspc/16410/PG_18_202506291/5", "dir", kept},
		{"pg_tblspc/16410/PG_18_202506291/5/16411", "file", kept},
	}
}

// config18 is how the tree of pieces is walked.
func config18(dir string) backup.SelectConfig {
	return backup.SelectConfig{Dir: dir, Version: postgres.V18, CatalogVersion: 202506291}
}

// makeTree makes a data directory of pieces, and beside it what its links need.
func makeTree(t *testing.T, pieces []piece) string {
	t.Helper()
	top := pgtest.TempDir(t)
	dir := filepath.Join(top, "data")
	for _, name := range []string{"etc", "wal", "memory", "log", "space", "elsewhere", "data"} {
		check(t, os.Mkdir(filepath.Join(top, name), 0o755))
	}
	write(t, filepath.Join(top, "etc/postgresql.conf"), "port = 5432\n")
	write(t, filepath.Join(top, "elsewhere/file"), "elsewhere")
	for _, p := range pieces {
		name := filepath.Join(dir, p.path)
		target, isLink := strings.CutPrefix(p.kind, "-> ")
		switch {
		case isLink:
			check(t, os.Symlink(target, name))
		case p.kind == "dir":
			check(t, os.Mkdir(name, 0o700))
		case p.kind == "fifo":
			check(t, syscall.Mkfifo(name, 0o600))
		case p.kind == "socket":
			l, err := net.Listen("unix", name)
			check(t, err)
			t.Cleanup(func() { _ = l.Close() })
		default:
			write(t, name, p.path)
		}
	}
	return dir
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t testing.TB, name, content string) {
	t.Helper()
	check(t, os.WriteFile(name, []byte(content), 0o600))
}

// walk returns what Walk yields, as lines of type and path.
func walk(t testing.TB, c backup.SelectConfig) []string {
	t.Helper()
	lines, err := tryWalk(t.Context(), c)
	if err != nil {
		t.Fatalf("Walk: %v", err)
	}
	return lines
}

func tryWalk(ctx context.Context, c backup.SelectConfig) (lines []string, err error) {
	for f, err := range backup.Walk(ctx, c) {
		if err != nil {
			return lines, err
		}
		lines = append(lines, line(f.Entry.Type, f.Entry.Path))
	}
	return lines, nil
}

func line(typ backup.EntryType, p string) string {
	switch typ {
	case backup.Directory:
		return "dir " + p
	case backup.Symlink:
		return "link " + p
	}
	return "file " + p
}

// comparePaths compares element by element.
func comparePaths(a, b string) int {
	return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/"))
}

func TestWalkRules(t *testing.T) {
	t.Parallel()
	all := pieces()
	dir := makeTree(t, all)
	slices.SortFunc(all, func(a, b piece) int { return comparePaths(a.path, b.path) })
	for _, tt := range []struct {
		name          string
		offline, logs bool
	}{{"live", false, false}, {"offline", true, false}, {"with logs", false, true}} {
		c := config18(dir)
		c.Offline, c.IncludeLogs = tt.offline, tt.logs
		var want []string
		for _, p := range all {
			if p.want == out || p.want == offline && !tt.offline || p.want == logs && !tt.logs {
				continue
			}
			typ := backup.File
			info, err := os.Stat(filepath.Join(dir, p.path))
			if p.want == link {
				typ = backup.Symlink
			} else if errors.Is(err, fs.ErrNotExist) || info.IsDir() {
				typ = backup.Directory
			}
			want = append(want, line(typ, p.path))
		}
		got := walk(t, c)
		for _, l := range got {
			if !slices.Contains(want, l) {
				t.Errorf("%s: Walk yields %s", tt.name, l)
			}
		}
		for _, l := range want {
			if !slices.Contains(got, l) {
				t.Errorf("%s: Walk doesn't yield %s", tt.name, l)
			}
		}
		if !t.Failed() && !slices.Equal(got, want) {
			t.Errorf("%s: Walk yields another order:\n%s", tt.name, strings.Join(got, "\n"))
		}
		check(t, backup.CheckReadable(t.Context(), c))
	}
}

// Modes are those of what is stored; owners have names.
func TestWalkEntries(t *testing.T) {
	t.Parallel()
	dir := makeTree(t, pieces())
	top := filepath.Dir(dir)
	check(t, os.Chmod(filepath.Join(top, "etc/postgresql.conf"), 0o640))
	check(t, os.Chmod(filepath.Join(top, "wal"), 0o750))
	check(t, os.Chmod(filepath.Join(top, "space"), 0o711))
	check(t, os.Chmod(filepath.Join(dir, "base/5/16384"), 0o604))
	me, err := user.Current()
	check(t, err)
	group, err := user.LookupGroupId(me.Gid)
	check(t, err)
	want := map[string]struct {
		mode fs.FileMode
		link string
		size int64
	}{
		"postgresql.conf": {0o640, "", 12},
		"pg_wal":          {0o750, "", 0},
		"pg_subtrans":     {0o700, "", 0},
		"pg_tblspc/16390": {0o711, "../../space", 0},
		"base/5/16384":    {0o604, "", 12},
		"base/5":          {0o700, "", 0},
	}
	for f, err := range backup.Walk(t.Context(), config18(dir)) {
		check(t, err)
		if f.Abs != filepath.Join(dir, f.Entry.Path) {
			t.Errorf("%s is said to be at %s", f.Entry.Path, f.Abs)
		}
		if f.Entry.Owner != me.Username || f.Entry.Group != group.Name {
			t.Errorf("%s is of %s:%s, want %s:%s", f.Entry.Path, f.Entry.Owner, f.Entry.Group, me.Username, group.Name)
		}
		w, ok := want[f.Entry.Path]
		if !ok {
			continue
		}
		delete(want, f.Entry.Path)
		if f.Entry.Mode != w.mode || f.Entry.Link != w.link || f.Size != w.size {
			t.Errorf("%s: mode %o, link %q, size %d, want %o, %q, %d", f.Entry.Path, f.Entry.Mode, f.Entry.Link, f.Size, w.mode, w.link, w.size)
		}
	}
	if len(want) != 0 {
		t.Errorf("Walk doesn't yield %v", want)
	}
}

// A release before 10 has its WAL in pg_xlog, one before 17 no summaries.
func TestWalkVersions(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		version postgres.Version
		wal     string
		catalog uint32
		space   string
		want    []string
	}{
		{postgres.V9_6, "pg_xlog", 201608131, "PG_9.6_201608131", []string{"archive_status"}},
		{postgres.V10, "pg_wal", 201707211, "PG_10_201707211", []string{"archive_status"}},
		{150004, "pg_wal", 202209061, "PG_15_202209061", []string{"archive_status"}},
		{postgres.V17, "pg_wal", 202406281, "PG_17_202406281", []string{"archive_status", "summaries"}},
	} {
		dir := makeTree(t, []piece{
			{tt.wal, "dir", kept},
			{tt.wal + "/1", "file", out},
			{tt.wal + "/archive_status", "dir", kept},
			{tt.wal + "/summaries", "dir", kept},
			{"pg_tblspc", "dir", kept},
			{"pg_tblspc/16390", "-> ../../space", link},
			{"pg_tblspc/16390/" + tt.space, "dir", kept},
			{"pg_tblspc/16390/PG_14_202107181", "dir", out},
		})
		want := []string{"dir pg_tblspc", "link pg_tblspc/16390", "dir pg_tblspc/16390/" + tt.space, "dir " + tt.wal}
		for _, w := range tt.want {
			want = append(want, "dir "+tt.wal+"/"+w)
		}
		got := walk(t, backup.SelectConfig{Dir: dir, Version: tt.version, CatalogVersion: tt.catalog})
		if !slices.Equal(got, want) {
			t.Errorf("%s: Walk yields %q, want %q", tt.version, got, want)
		}
	}
}

func TestWalkLinks(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		path, target string
		want         string // in the error; "" is none
		skip         bool   // --skip-link helps
	}{
		{"base/5", "../../elsewhere", "is a link to a folder elsewhere (../../elsewhere)", true},
		{"pg_xact", "../elsewhere", "--skip-link pg_xact leaves it out", true},
		{"global", "../nowhere", "is a link to something that isn't there (../nowhere)", true},
		{"postgresql.conf", "/nowhere/x.conf", "isn't there", true},
		{"loop", "loop", "too many", false},
		{"log", "../elsewhere", "", false},
		{"log", "../nowhere", "", false},
		{"pg_stat_tmp", "../nowhere", "", false},
		{"base/pgsql_tmp", "../../elsewhere", "", false},
		{"pg_wal", "../nowhere", "isn't there", false},
		{"pg_tblspc/16390", "../../nowhere", "isn't there", false},
		{"pg_tblspc/16390", "../../elsewhere/file", "not to a folder", false},
		{"pg_tblspc/spare", "../../elsewhere", "a folder elsewhere", true},
	} {
		dir := makeTree(t, []piece{{"base", "dir", kept}, {"pg_tblspc", "dir", kept}, {tt.path, "-> " + tt.target, ""}})
		c := config18(dir)
		_, err := tryWalk(t.Context(), c)
		ready := backup.CheckReadable(t.Context(), c)
		if tt.want == "" {
			if err != nil || ready != nil {
				t.Errorf("%s -> %s: Walk = %v, CheckReadable = %v", tt.path, tt.target, err, ready)
			}
			continue
		}
		if err == nil || ready == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), filepath.Join(dir, tt.path)) {
			t.Errorf("%s -> %s: Walk = %v, CheckReadable = %v, want an error with the path and %q", tt.path, tt.target, err, ready, tt.want)
		}
		for _, skip := range []string{tt.path, "./" + tt.path, filepath.Join(dir, tt.path)} {
			c.SkipLinks = []string{"other", skip}
			if lines, err := tryWalk(t.Context(), c); (err == nil) != tt.skip || slices.Contains(lines, "dir "+tt.path) {
				t.Errorf("%s -> %s skipped as %s: Walk = %q, %v", tt.path, tt.target, skip, lines, err)
			}
		}
	}
}

// What a link to skip hides is the only thing that is left out.
func TestWalkSkipsLinksOnly(t *testing.T) {
	t.Parallel()
	c := config18(makeTree(t, []piece{{"base", "dir", kept}, {"base/5", "dir", kept}}))
	c.SkipLinks = []string{"base", "base/5"}
	if got, want := walk(t, c), []string{"dir base", "dir base/5"}; !slices.Equal(got, want) {
		t.Errorf("Walk yields %q, want %q", got, want)
	}
}

// A running server drops files and databases while they are walked.
func TestWalkVanishing(t *testing.T) {
	t.Parallel()
	tree := []piece{{"base", "dir", kept}, {"pg_tblspc", "dir", kept}}
	for i := range 5 {
		d := fmt.Sprintf("base/%d", i+1)
		tree = append(tree, piece{d, "dir", kept}, piece{d + "/1", "file", kept}, piece{d + "/2", "file", kept}, piece{d + "/3", "file", kept})
	}
	tree = append(tree, piece{"pg_tblspc/16390", "-> ../../space", link})
	dir := makeTree(t, tree)
	remove := map[string][]string{ // when the first is yielded, the others go
		"base/1/1":  {"base/1/2", "base/2"},
		"base/3":    {"base/3"},
		"base/4/1":  {"base/4/1"},
		"pg_tblspc": {"pg_tblspc/16390"},
	}
	var got []string
	for f, err := range backup.Walk(t.Context(), config18(dir)) {
		check(t, err)
		got = append(got, f.Entry.Path)
		for _, name := range remove[f.Entry.Path] {
			check(t, os.RemoveAll(filepath.Join(dir, name)))
		}
	}
	want := []string{"base", "base/1", "base/1/1", "base/1/3", "base/3", "base/4", "base/4/1", "base/4/2", "base/4/3", "base/5", "base/5/1", "base/5/2", "base/5/3", "pg_tblspc"}
	if !slices.Equal(got, want) {
		t.Errorf("Walk yields %q, want %q", got, want)
	}
}

// A tablespace whose file system isn't mounted is not one without data; one that is
// being dropped may go.
func TestWalkUnmounted(t *testing.T) {
	t.Parallel()
	tree := []piece{{"base", "dir", kept}, {"pg_tblspc", "dir", kept}, {"pg_tblspc/16390", "-> ../../elsewhere", link}}
	for name, test := range map[string]struct{ offline, dropped bool }{
		"of a stopped cluster": {offline: true},
		"of a running server":  {},
		"dropped":              {dropped: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := config18(makeTree(t, tree))
			c.Offline = test.offline
			space := filepath.Join(c.Dir, "pg_tblspc/16390")
			if test.dropped {
				time.AfterFunc(300*time.Millisecond, func() { _ = os.Remove(space) }) // Walk says when not
			}
			got, err := tryWalk(t.Context(), c)
			switch {
			case test.dropped && (err != nil || !slices.Equal(got, []string{"dir base", "dir pg_tblspc"})):
				t.Errorf("Walk yields %q, %v", got, err)
			case !test.dropped && (err == nil || !strings.Contains(err.Error(), space) || !strings.Contains(err.Error(), "mounted")):
				t.Errorf("Walk yields %q, %v, want an error with %s", got, err, space)
			}
		})
	}
}

func TestWalkEnds(t *testing.T) {
	t.Parallel()
	c := config18(makeTree(t, pieces()))
	for f, err := range backup.Walk(t.Context(), c) {
		check(t, err)
		if f.Entry.Path == "base/5" {
			break // must not panic
		}
	}
	cause := errors.New("the session is lost")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	count := 0
	for _, err := range backup.Walk(ctx, c) {
		count++
		if count == 3 {
			cancel(cause)
		}
		if (count == 4) != errors.Is(err, cause) || count > 4 {
			t.Fatalf("thing %d: err = %v", count, err)
		}
	}
	if _, err := tryWalk(t.Context(), config18("/nowhere/at/all")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Walk of no directory: %v, want %v", err, fs.ErrNotExist)
	}
}

func TestCheckReadable(t *testing.T) {
	for _, name := range []string{"base/5/16384", "base/5", "pg_tblspc/16390/PG_18_202506291/5/16391_init", "pg_wal"} {
		dir := makeTree(t, pieces())
		open(t, filepath.Dir(dir))
		c := config18(dir)
		asStranger(t, func() {
			check(t, backup.CheckReadable(t.Context(), c))
		})
		check(t, os.Chmod(filepath.Join(dir, name), 0))
		t.Cleanup(func() { _ = os.Chmod(filepath.Join(dir, name), 0o700) })
		asStranger(t, func() {
			err := backup.CheckReadable(t.Context(), c)
			if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), filepath.Join(dir, name)) || !strings.Contains(err.Error(), "run wal-e as") {
				t.Errorf("CheckReadable without rights on %s = %v", name, err)
			}
		})
	}
}

// open lets everybody read a tree.
func open(t *testing.T, top string) {
	t.Helper()
	check(t, filepath.WalkDir(top, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.Type() == fs.ModeSymlink {
			return err
		}
		return os.Chmod(name, 0o755)
	}))
}

// asStranger runs f as a user who is not root. Only this thread changes, and
// it ends with its goroutine.
func asStranger(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		if os.Getuid() == 0 {
			u, err := user.Lookup("nobody")
			uid, err2 := strconv.Atoi(cmp.Or(u, &user.User{}).Uid)
			if err := errors.Join(err, err2); err != nil {
				t.Error(err)
				return
			}
			runtime.LockOSThread()
			if err := syscall.Setfsuid(uid); err != nil {
				t.Error(err)
				return
			}
		}
		f()
	}()
	<-done
}

func BenchmarkWalk(b *testing.B) {
	dir := b.TempDir()
	check(b, os.MkdirAll(filepath.Join(dir, "base/5"), 0o700))
	const files = 10000
	for i := range files {
		write(b, filepath.Join(dir, "base/5", strconv.Itoa(16384+i)), "")
	}
	for b.Loop() {
		n := 0
		for _, err := range backup.Walk(b.Context(), config18(dir)) {
			check(b, err)
			n++
		}
		if n != files+2 {
			b.Fatalf("Walk yields %d things, want %d", n, files+2)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/files, "ns/file")
}

package backup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	bolt "go.etcd.io/bbolt"

	"wal-e/chunkstore"
	"wal-e/internal/storage"
	"wal-e/internal/storage/storagetest"
)

// through returns the config with all requests going through another bucket.
func (cfg FetchConfig) through(t *testing.T, b storage.Bucket) FetchConfig {
	t.Helper()
	var err error
	if cfg.Store, err = chunkstore.Open(t.Context(), b, nil); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// Whatever request fails, and however, the fetch fails, no server could start
// on what it left, and the same command completes it.
func TestFetchFailingStore(t *testing.T) {
	t.Parallel()
	a, c := newArchive(t), newCluster()
	for i := range 8 {
		c.files[fmt.Sprintf("base/5/%d", 5000+i)] = random(uint64(5000+i), fetchExtent)
	}
	b := a.push(t, c)
	probe := newTarget(t)
	counted := storagetest.NewFaulty(a.bucket, storagetest.Fault{})
	cfg := a.config(b, probe).through(t, counted)
	cfg.Workers = 1
	before := counted.Calls()
	mustFetch(t, cfg)
	calls := counted.Calls() - before
	if calls < 10 {
		t.Fatalf("a fetch makes %d calls, too few for this test", calls)
	}
	for n := 1; n <= calls; n++ {
		for _, mode := range []storagetest.Mode{storagetest.FailBefore, storagetest.FailFrom, storagetest.BreakBody} {
			to := newTarget(t)
			faulty := storagetest.NewFaulty(a.bucket, storagetest.Fault{Call: before + n, Mode: mode})
			cfg := a.config(b, to).through(t, faulty)
			cfg.Workers = 1
			_, err := Fetch(t.Context(), cfg)
			if err == nil && mode != storagetest.BreakBody {
				t.Errorf("call %d, %s: Fetch = nil", n, mode)
			}
			if err != nil && exists(filepath.Join(to.dir, controlPath)) {
				t.Errorf("call %d, %s: an unfinished directory has pg_control", n, mode)
			}
			if err != nil {
				mustFetch(t, a.config(b, to))
			}
			c.check(t, to)
			if t.Failed() {
				t.Fatalf("after call %d, %s", n, mode)
			}
		}
	}
}

func TestFetchCancelled(t *testing.T) {
	t.Parallel()
	a, c := newArchive(t), newCluster()
	b := a.push(t, c)
	for n := 2; n < 24; n++ {
		to := newTarget(t)
		ctx, cancel := context.WithCancel(t.Context())
		faulty := storagetest.NewFaulty(a.bucket, storagetest.Fault{Before: func(i int, _, _ string) {
			if i == n {
				cancel()
			}
		}})
		cfg := a.config(b, to).through(t, faulty)
		if _, err := Fetch(ctx, cfg); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("Fetch cancelled at call %d = %v, want %v", n, err, context.Canceled)
		} else if err != nil {
			mustFetch(t, a.config(b, to))
		}
		cancel()
		c.check(t, to)
	}
}

// What was written whole before stays; what is another file's, cut or changed
// is written anew.
func TestFetchResumes(t *testing.T) {
	t.Parallel()
	a, c, to := newArchive(t), newCluster(), newTarget(t)
	cfg := a.config(a.push(t, c), to)
	stop := errors.New("stop")
	cfg.FetchWAL = func(context.Context, string, string, string) error { return stop }
	if _, err := Fetch(t.Context(), cfg); !errors.Is(err, stop) || !strings.Contains(err.Error(), "the same command goes on") {
		t.Fatalf("Fetch = %v, want %v and a hint", err, stop)
	}
	write(t, filepath.Join(to.dir, "base/5/112"), "short")
	write(t, filepath.Join(to.dir, "base/5/2619"), string(random(1, 3*fetchExtent+8192+5)))
	if err := os.Remove(filepath.Join(to.dir, "base/5/2620")); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(to.dir, "base/5/2621")); err != nil {
		t.Fatal(err)
	}
	link(t, "/etc/passwd", to.dir, "base/5/2621")
	cfg.FetchWAL = nil
	r := mustFetch(t, cfg)
	c.check(t, to)
	if want := int64(len(c.files) - 4); r.Resumed != want {
		t.Errorf("%d files were whole, want %d", r.Resumed, want)
	}
}

func TestFetchResumeRefuses(t *testing.T) {
	t.Parallel()
	a, c := newArchive(t), newCluster()
	b := a.push(t, c)
	other := a.push(t, c)
	for name, tc := range map[string]struct {
		change func(to target, cfg *FetchConfig)
		want   string
	}{
		"another backup": {func(_ target, cfg *FetchConfig) { cfg.Backup = other }, b.Ref.String()},
		"another space":  {func(to target, cfg *FetchConfig) { cfg.TablespaceMap = map[string]string{"fast": to.base + "/slow"} }, "can't go on"},
		"another WAL":    {func(to target, cfg *FetchConfig) { cfg.WALDir = to.base + "/wal" }, "can't go on"},
		"live server":    {func(to target, _ *FetchConfig) { _ = os.WriteFile(to.dir+"/postmaster.pid", nil, 0o600) }, "live data directory"},
		"broken marker":  {func(to target, _ *FetchConfig) { _ = os.WriteFile(to.dir+"/.wal-e-fetch/fetch.json", nil, 0o600) }, "can't be read"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			to := newTarget(t)
			cfg := a.config(b, to)
			cfg.FetchWAL = func(context.Context, string, string, string) error { return errors.New("stop") }
			if _, err := Fetch(t.Context(), cfg); err == nil {
				t.Fatal("Fetch = nil")
			}
			tc.change(to, &cfg)
			if _, err := Fetch(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Fetch = %v, want an error with %q", err, tc.want)
			}
		})
	}
}

// A try that ended between its last two steps is gone on with, unless a server
// has run since.
func TestFetchCompleteButMarked(t *testing.T) {
	t.Parallel()
	a, c, to := newArchive(t), newCluster(), newTarget(t)
	cfg := a.config(a.push(t, c), to)
	var marker []byte
	var mu sync.Mutex
	cfg.FetchWAL = func(context.Context, string, string, string) (err error) {
		mu.Lock()
		defer mu.Unlock()
		marker, err = os.ReadFile(filepath.Join(to.dir, markerDir, "fetch.json"))
		return errors.Join(err, errors.New("stop"))
	}
	if _, err := Fetch(t.Context(), cfg); err == nil {
		t.Fatal("Fetch = nil")
	}
	cfg.FetchWAL = nil
	for range 2 {
		mustFetch(t, cfg)
		c.check(t, to)
		write(t, filepath.Join(to.dir, markerDir, "fetch.json"), string(marker))
	}
	write(t, filepath.Join(to.dir, controlPath), string(random(2, 8192)))
	if _, err := Fetch(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "a server has been started") {
		t.Errorf("Fetch after a start = %v", err)
	}
}

func TestFetchTwiceAtOnce(t *testing.T) {
	t.Parallel()
	a, c, to := newArchive(t), newCluster(), newTarget(t)
	cfg := a.config(a.push(t, c), to)
	second := cfg
	cfg.Workers = 1
	cfg.FetchWAL = func(ctx context.Context, _, _, dest string) error {
		if _, err := Fetch(ctx, second); err == nil || !strings.Contains(err.Error(), "another backup-fetch is at work") {
			return fmt.Errorf("a second Fetch = %w", err)
		}
		return os.WriteFile(dest, nil, 0o600)
	}
	mustFetch(t, cfg)
	c.check(t, to)
}

func (a *archive) keys(t *testing.T, prefix string) []string {
	t.Helper()
	var keys []string
	for o, err := range a.bucket.List(t.Context(), prefix, "") {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, o.Key)
	}
	return keys
}

func (a *archive) replace(t *testing.T, key string, change func([]byte) []byte) {
	t.Helper()
	data, err := storage.ReadAll(t.Context(), a.bucket, key, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.bucket.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if data = change(slices.Clone(data)); data == nil {
		return
	}
	if err := storage.CreateBytes(t.Context(), a.bucket, key, data, nil); err != nil {
		t.Fatal(err)
	}
}

// A pack that is gone or damaged is named with a file and all the backups that
// need it, and no cluster is left.
func TestFetchDamagedPack(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func([]byte) []byte{
		"missing": func([]byte) []byte { return nil },
		"flipped": func(b []byte) []byte { b[len(b)/3] ^= 1; return b },
		"cut":     func(b []byte) []byte { return b[:len(b)/3] },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for i := range 4 {
				a, c, to := newArchive(t), newCluster(), newTarget(t)
				b := a.push(t, c)
				c.start += 16 << 20
				also := a.push(t, c)
				packs := a.keys(t, "chunks_006/packs/"+b.Ref.Run.String())
				key := packs[min(i, len(packs)-1)]
				a.replace(t, key, change)
				_, err := Fetch(t.Context(), a.config(b, to))
				if err == nil {
					t.Fatalf("Fetch without %s = nil", key)
				}
				for _, want := range []string{key, b.Ref.String(), also.Ref.String()} {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("Fetch = %v, want it to name %s", err, want)
					}
				}
				if !strings.Contains(err.Error(), "restore ") && !strings.Contains(err.Error(), "file table") {
					t.Errorf("Fetch = %v, want it to name a file", err)
				}
				if exists(filepath.Join(to.dir, controlPath)) {
					t.Error("pg_control was written")
				}
			}
		})
	}
}

func TestFetchDeletedMeanwhile(t *testing.T) {
	t.Parallel()
	a, c, to := newArchive(t), newCluster(), newTarget(t)
	b := a.push(t, c)
	tombstone := "deleted_006/" + b.Ref.Name + "/" + b.Ref.Run.String()
	if err := storage.CreateBytes(t.Context(), a.bucket, tombstone, []byte("x"), nil); err != nil {
		t.Fatal(err)
	}
	for _, key := range a.keys(t, "chunks_006/packs/") {
		a.replace(t, key, func([]byte) []byte { return nil })
	}
	if _, err := Fetch(t.Context(), a.config(b, to)); !errors.Is(err, ErrDeleted) {
		t.Errorf("Fetch = %v, want %v", err, ErrDeleted)
	}
	if names := tree(t, to.base); len(names) != 1 {
		t.Errorf("Fetch left %q", names)
	}
}

// A local index that was altered costs time, never a fetch.
func TestFetchDamagedState(t *testing.T) {
	t.Parallel()
	a, c := newArchive(t), newCluster()
	b := a.push(t, c)
	state := t.TempDir()
	name := filepath.Join(state, "index.db")
	cfg := a.config(b, newTarget(t))
	cfg.StateDir = func(string, string) (string, error) { return state, nil }
	mustFetch(t, cfg)
	for _, bucket := range []string{"meta", "packs", "objects", "entries"} {
		mustFetch(t, cfg.to(newTarget(t))) // makes the table anew if it was removed
		alter(t, name, bucket)
		to := newTarget(t)
		cfg := a.config(b, to)
		cfg.StateDir = func(string, string) (string, error) { return state, nil }
		mustFetch(t, cfg)
		c.check(t, to)
	}
	mustFetch(t, cfg.to(newTarget(t)))
	sound := read(t, name)
	for i := 0; i < len(sound); i += max(1, len(sound)/20) {
		data := []byte(sound)
		for j := i; j < min(i+600, len(data)); j++ {
			data[j] ^= 0x55
		}
		write(t, name, string(data))
		to := newTarget(t)
		mustFetch(t, cfg.to(to))
		c.check(t, to)
	}
	write(t, name, "no table")
	mustFetch(t, cfg.to(newTarget(t)))
	for _, stateDir := range []func(string, string) (string, error){
		func(string, string) (string, error) { return "", errors.New("none") },
		func(string, string) (string, error) { return "/proc/nothing", nil },
	} {
		to := newTarget(t)
		cfg := a.config(b, to)
		cfg.StateDir = stateDir
		mustFetch(t, cfg)
		c.check(t, to)
	}
}

// to returns the config for another target.
func (cfg FetchConfig) to(to target) FetchConfig {
	cfg.Dir, cfg.TablespaceMap = to.dir, map[string]string{"fast": to.fast}
	return cfg
}

// alter changes the values of a bucket of a table.
func alter(t *testing.T, name, bucket string) {
	t.Helper()
	db, err := bolt.Open(name, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte(bucket))
		var keys [][]byte
		err := b.ForEach(func(k, _ []byte) error { keys = append(keys, slices.Clone(k)); return nil })
		for _, k := range keys {
			v := slices.Clone(b.Get(k))
			v[len(v)/2] ^= 4
			err = errors.Join(err, b.Put(k, v))
		}
		return err
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

// A disk that fills is named, and once there is room the same command goes on.
func TestFetchFullDisk(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can mount a small file system")
	}
	a, c, to := newArchive(t), newCluster().withoutSpaces(), newTarget(t)
	for i := range 20 {
		c.files[fmt.Sprintf("base/5/%d", 5000+i)] = random(uint64(5000+i), fetchExtent)
	}
	if err := syscall.Mount("tmpfs", to.base, "tmpfs", 0, "size=3m"); err != nil {
		t.Skipf("mount: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(to.base, syscall.MNT_DETACH) })
	cfg := a.config(a.push(t, c), to)
	_, err := Fetch(t.Context(), cfg)
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("Fetch = %v, want %v", err, syscall.ENOSPC)
	}
	for _, want := range []string{"make room", "the same command goes on", to.dir, "base/5/"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("Fetch = %v, want it to say %q", err, want)
		}
	}
	if exists(filepath.Join(to.dir, controlPath)) {
		t.Error("pg_control was written")
	}
	if err := syscall.Mount("tmpfs", to.base, "tmpfs", syscall.MS_REMOUNT, "size=64m"); err != nil {
		t.Fatal(err)
	}
	if r := mustFetch(t, cfg); r.Resumed <= 0 {
		t.Errorf("%d files were whole, want some", r.Resumed)
	}
	c.check(t, to)
}

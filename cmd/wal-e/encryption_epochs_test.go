package main_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"wal-e/internal/pgtest"
)

// under returns the objects in a folder.
func (a *archive) under(t *testing.T, dir string) []string {
	t.Helper()
	list := slices.DeleteFunc(a.objects(t), func(key string) bool { return !strings.HasPrefix(key, dir) })
	slices.Sort(list)
	return list
}

// importKeys gives another host what this one exports.
func (a *archive) importKeys(t *testing.T, from *archive) {
	t.Helper()
	cmd := a.command(t, nil, "key", "import-host")
	cmd.Stdin = strings.NewReader(from.must(t, nil, "key", "export-host").stdout)
	if r := runCommand(t, cmd); r.code != 0 {
		t.Fatalf("key import-host: exit %d\n%s%s", r.code, r.stdout, r.stderr)
	}
}

func ownState(t *testing.T) string {
	t.Helper()
	return "WALE_STATE_DIR=" + filepath.Join(pgtest.TempDir(t), "state")
}

// pushFrom pushes a cluster with settings that aren't those of its own.
func (a *archive) pushFrom(t *testing.T, c *pgtest.Cluster) pushed {
	t.Helper()
	r := a.with(c.Env()...).must(t, nil, "backup-push", "--checkpoint", "fast", "--json", c.Dir)
	var p pushed
	if err := json.Unmarshal([]byte(r.stdout), &p); err != nil {
		t.Fatalf("backup-push --json printed %q: %v", r.stdout, err)
	}
	return p
}

// WAL goes in the clear to a prefix that others encrypt for a day at most, from a
// host that knows nothing of keys.
func TestPlainWALNoticesKeys(t *testing.T) {
	t.Parallel()
	a := newArchive(t)
	c := a.start(t, pgtest.Options{SegmentSizeMB: 1})
	seg := c.SwitchWAL(t)
	c.WaitArchived(t, seg)
	push := []string{"wal-push", filepath.Join(c.Dir, "pg_wal", seg)}
	marks, err := filepath.Glob(filepath.Join(filepath.Dir(a.prefix), "state", "*", "admitted-*"))
	if err != nil || len(marks) != 1 {
		t.Fatalf("the host noted %q, %v", marks, err)
	}
	age := func(d time.Duration) {
		t.Helper()
		if err := os.Chtimes(marks[0], time.Now().Add(-d), time.Now().Add(-d)); err != nil {
			t.Fatal(err)
		}
	}
	age(25 * time.Hour)
	a.must(t, c, push...)
	if info, err := os.Stat(marks[0]); err != nil || time.Since(info.ModTime()) > time.Hour {
		t.Errorf("the host didn't note that it asked: %v, %v", info.ModTime(), err)
	}

	newKeyPair(t, "dba@example.com").host(a).with(ownState(t)).must(t, c, "key", "init")
	a.must(t, c, push...) // it asked a moment ago
	refused := []string{"is encrypted, and no key is named", "WALE_ENCRYPTION=off"}
	a.with(ownState(t)).fails(t, c, 1, refused, push...)
	age(25 * time.Hour)
	for range 2 {
		a.fails(t, c, 1, refused, push...)
	}
	a.with("WALE_ENCRYPTION=off").must(t, c, push...)

	// What is in the clear already restores, and is a problem where nothing may be.
	p := a.with("WALE_ENCRYPTION=off").push(t, c)
	plain := "PROBLEM basebackups_006/" + p.Name + "/" + p.Run + ".outcome: the backup isn't encrypted"
	if r := a.must(t, c, "verify", "--all"); strings.Contains(r.stdout, "PROBLEM") {
		t.Errorf("a plain backup is a problem: %s", r.stdout)
	}
	a.with("WALE_ENCRYPTION=required").fails(t, c, 1, []string{plain, "1 problem"}, "verify", "--all")
	a.with("WALE_ENCRYPTION=required").fails(t, c, 1, []string{plain, "delete it once encrypted backups"}, "verify", "--all", "--repair")
}

// A prefix has backups in the clear and of two epochs, from a primary and from
// its standby. Each night of an epoch stores what is new, whoever pushes; each
// backup restores; and somebody without any key deletes and collects.
func TestEncryptedEpochs(t *testing.T) {
	t.Parallel()
	k := newKeyPair(t, "dba@example.com")
	plain := newArchive(t)
	host, owner := k.host(plain), k.owner(t, plain)
	c := host.start(t, pgtest.Options{SegmentSizeMB: 1})
	c.Exec(t, "CREATE TABLE t AS SELECT i, md5(i::text) AS v FROM generate_series(1, 30000) i")
	c.Exec(t, "VACUUM FREEZE t")      // so that an update changes its pages only
	c.WaitArchived(t, c.SwitchWAL(t)) // with which the first epoch began
	first := host.epoch(t)

	// A host that lost its settings stores nothing in the clear unless it is told to.
	lost := plain.with(ownState(t)).with(c.Env()...)
	lost.fails(t, nil, 1, []string{"is encrypted, and no key is named", "WALE_ENCRYPTION=off"}, "backup-push", c.Dir)
	clear := lost.with("WALE_ENCRYPTION=off").pushFrom(t, c)

	night1 := host.pushFrom(t, c)
	c.Exec(t, "UPDATE t SET v = 'x' WHERE i <= 30")
	night2 := host.pushFrom(t, c)

	// A standby has nothing of the keys, until it is given them.
	s := c.Standby(t, pgtest.Options{})
	other := host.with(ownState(t))
	other.fails(t, nil, 1, []string{"this host doesn't have its keys", "key export-host", "--new-epoch"}, "backup-push", s.Dir)
	other.importKeys(t, host)
	ctx, cancel := context.WithCancel(t.Context())
	var busy sync.WaitGroup
	busy.Go(func() { // a standby's backup ends where replay is; the primary must archive it
		for ctx.Err() == nil {
			if _, err := c.TryQuery(ctx, "SELECT pg_logical_emit_message(true, 'a', 'b'), pg_switch_wal()"); err != nil {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
	})
	standby := other.pushFrom(t, s)
	cancel()
	busy.Wait()
	s.Stop(t, pgtest.Fast)

	host.must(t, nil, "key", "rotate")
	second := host.epoch(t)
	rotated := host.pushFrom(t, c)
	again := host.pushFrom(t, c)
	t.Logf("new bytes: plain %d, encrypted %d, the night after %d, of the standby %d, after a rotation %d, the night after %d",
		clear.New, night1.New, night2.New, standby.New, rotated.New, again.New)
	for about, p := range map[string]pushed{"the second night": night2, "the standby": standby, "the night after a rotation": again} {
		if p.New > night1.New/10 {
			t.Errorf("%s stored %d new bytes after %d: it isn't deduplicated", about, p.New, night1.New)
		}
	}
	for about, p := range map[string]pushed{"the first encrypted push": night1, "the first of an epoch": rotated} {
		if p.New < clear.New*9/10 {
			t.Errorf("%s stored %d new bytes, the plain one %d: it refers to what others sealed", about, p.New, clear.New)
		}
	}

	// Which is which.
	list := host.must(t, nil, "backup-list", "--detail").stdout
	for _, p := range []struct {
		pushed
		epoch string
	}{{clear, "plain"}, {night1, first}, {night2, first}, {standby, first}, {rotated, second}, {again, second}} {
		if !strings.Contains(list, p.epoch+"\r\n") || !slices.ContainsFunc(strings.Split(list, "\r\n"), func(line string) bool {
			return strings.HasPrefix(line, p.Name+"\t") && strings.HasSuffix(line, "\t"+p.epoch)
		}) {
			t.Errorf("backup-list --detail doesn't say that %s is of epoch %s:\n%s", p.Name, p.epoch, list)
		}
	}
	if r := owner.must(t, nil, "check"); !strings.Contains(r.stdout, "1 in the clear") || strings.Count(r.stdout, "a trial decryption succeeded") != 2 {
		t.Errorf("check where the private key is printed:\n%s", r.stdout)
	}
	if r := other.must(t, nil, "check"); !strings.Contains(r.stdout, "epoch "+second) || !strings.Contains(r.stdout, "isn't known on this host") {
		t.Errorf("check on the standby, which doesn't know the new epoch, printed:\n%s", r.stdout)
	}

	owner.must(t, nil, "verify", "--all", "--read-data", "--wal")
	for _, p := range []pushed{clear, night2, standby, rotated} {
		dir := target(t)
		r := owner.must(t, nil, "backup-fetch", dir, p.Name+"@"+p.Run)
		if warned := strings.Contains(r.stderr, "isn't encrypted"); warned != (p == clear) {
			t.Errorf("backup-fetch %s: warned that it isn't encrypted: %v\n%s", p.Name, warned, r.stderr)
		}
	}

	// Nothing that isn't proven where that is required.
	strict := owner.with("WALE_ENCRYPTION=required")
	strict.fails(t, nil, 1, []string{"isn't encrypted, and WALE_ENCRYPTION=required refuses it"}, "backup-fetch", target(t), clear.Name+"@"+clear.Run)
	strict.fails(t, nil, 1, []string{"isn't known on this host"}, "backup-fetch", target(t), again.Name)
	strict.importKeys(t, host)
	strict.must(t, nil, "backup-fetch", target(t), night1.Name+"@"+night1.Run)
	dir := target(t)
	strict.must(t, nil, "backup-fetch", "--recover", dir, again.Name)
	restored := plain.adopt(t, dir) // by what restore_command says
	if got, want := restored.Query(t, "SELECT count(*) FROM t WHERE v = 'x'"), "30"; got != want {
		t.Errorf("the restored server has %s changed rows, want %s", got, want)
	}

	// A collector has no key of any kind, and no gpg.
	keys := plain.under(t, "chunks_006/keys/")
	index := plain.under(t, "chunks_006/index/")
	collector := plain.with(ownState(t), "PATH=/nonexistent", "GNUPGHOME=/nonexistent")
	collector.must(t, nil, "delete", "--confirm", "retain", "1")
	if got := plain.under(t, "chunks_006/keys/"); !slices.Equal(got, keys) || len(keys) != 2 {
		t.Errorf("after a collection the keys are %v, before %v", got, keys)
	}
	if left := plain.under(t, "chunks_006/index/"); len(left) >= len(index) || len(left) == 0 {
		t.Errorf("%d index objects are left of %d", len(left), len(index))
	}
	owner.must(t, nil, "verify", "--all", "--read-data", "--wal")
	collector.must(t, nil, "delete", "--confirm", "everything")
	if got := plain.under(t, "chunks_006/"); slices.ContainsFunc(got, func(key string) bool {
		return strings.HasPrefix(key, "chunks_006/packs/") || strings.HasPrefix(key, "chunks_006/index/")
	}) || !slices.Equal(plain.under(t, "chunks_006/keys/"), keys) {
		t.Errorf("after everything was deleted there is %v", got)
	}
}

// epoch returns the epoch that a host writes.
func (a *archive) epoch(t *testing.T) string {
	t.Helper()
	var host struct{ Epochs []struct{ Epoch string } }
	if err := json.Unmarshal([]byte(a.must(t, nil, "key", "export-host").stdout), &host); err != nil || len(host.Epochs) == 0 {
		t.Fatalf("key export-host: %v", err)
	}
	return host.Epochs[len(host.Epochs)-1].Epoch
}

// Who knows the public keys and can write to the archive makes an epoch of his
// own, or puts his secrets in the place of others. The recovery file brings back
// what he removed.
func TestForgedEpochs(t *testing.T) {
	t.Parallel()
	k := newKeyPair(t, "dba@example.com")
	plain, forger := newArchive(t), newArchive(t)
	host, owner := k.host(plain), k.owner(t, plain)
	c := host.start(t, pgtest.Options{SegmentSizeMB: 1})
	c.Stop(t, pgtest.Fast)
	host.must(t, nil, "backup-push", "--while-offline", c.Dir)
	real := host.epoch(t)
	k.host(forger).must(t, nil, "key", "init")
	forged := k.host(forger).epoch(t)
	message := func(a *archive, epoch string) string {
		return filepath.Join(a.prefix, "chunks_006/keys", epoch, "00000000.pgp")
	}
	put := func(epoch, name, data string) {
		t.Helper()
		file := filepath.Join(plain.prefix, "chunks_006/keys", epoch, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Dir(file), 0o777); err != nil { // others write there, too
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	recovery := filepath.Join(pgtest.TempDir(t), "recovery")
	secrets := owner.must(t, nil, "key", "export-recovery").stdout
	if err := os.WriteFile(recovery, []byte(secrets), 0o644); err != nil {
		t.Fatal(err)
	}

	// An epoch of his own: nobody writes it unasked.
	put(forged, "00000000.pgp", read(t, message(forger, forged)))
	if r := host.must(t, nil, "check"); !strings.Contains(r.stdout, "epoch "+forged) || !strings.Contains(r.stdout, "isn't known on this host") {
		t.Errorf("check doesn't tell of the forged epoch:\n%s", r.stdout)
	}
	host.must(t, nil, "backup-push", "--while-offline", c.Dir)
	if got := host.epoch(t); got != real {
		t.Errorf("the host writes epoch %s, want %s", got, real)
	}
	owner.fails(t, nil, 1, []string{"name the one that this host is to write", real, forged}, "key", "recover")
	owner.must(t, nil, "key", "recover", "--epoch", real)
	if got := owner.epoch(t); got != real {
		t.Errorf("after recover the host writes epoch %s, want %s", got, real)
	}

	// His secrets under a name that is known: no command takes them.
	put(real, "00000001.pgp", read(t, message(forger, forged)))
	fresh := owner.with(ownState(t))
	for _, args := range [][]string{
		{"backup-fetch", target(t), "LATEST"}, {"key", "recover", "--epoch", real}, {"key", "show", "--try"}, {"verify", "--all", "--read-data"},
		{"check"}, {"key", "add-recipient"}, {"key", "export-recovery"},
	} {
		fresh.with("WALE_GPG_PUBLIC_KEY_FILE="+k.public).fails(t, nil, 1, []string{real}, args...)
	}

	// All secrets are gone. Those in the safe come back.
	if err := os.RemoveAll(filepath.Join(plain.prefix, "chunks_006/keys")); err != nil {
		t.Fatal(err)
	}
	host.fails(t, nil, 1, []string{"secrets of epoch " + real + " are gone"}, "backup-push", "--while-offline", c.Dir)
	host.fails(t, nil, 1, []string{"are gone from the archive"}, "check")
	lost := host.with(ownState(t))
	lost.must(t, nil, "key", "recover", "--from", recovery)
	lost.must(t, nil, "backup-push", "--while-offline", c.Dir)
	cmd := lost.command(t, nil, "key", "recover", "--from", "-")
	cmd.Stdin = strings.NewReader(secrets)
	if r := runCommand(t, cmd); r.code != 0 || !strings.Contains(r.stdout, real) {
		t.Errorf("key recover --from -: exit %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	lost.fails(t, nil, 1, []string{"want what"}, "key", "recover", "--from", k.public)
	owner.must(t, nil, "backup-fetch", target(t), "LATEST")
	owner.must(t, nil, "verify", "--all", "--read-data")
}

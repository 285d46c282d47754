package main_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"wal-e/internal/pgtest"
)

// An encrypted classic archive is written with public keys alone, and holds what the
// original's order of gpg, lzop and tar opens. A segment whose push is repeated is
// known by the host that stored it; another one can't tell.
func TestClassicSealed(t *testing.T) {
	t.Parallel()
	keys := pgtest.TempDir(t)
	for _, name := range []string{"public.asc", "secret.asc"} {
		b, err := os.ReadFile(filepath.Join(fixtures, "gpg", name))
		if err == nil {
			err = os.WriteFile(filepath.Join(keys, name), b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	a := newArchive(t)
	a.env = append(a.env, "WALE_LAYOUT=classic", "WALE_GPG_PUBLIC_KEY_FILE="+filepath.Join(keys, "public.asc"), "GNUPGHOME="+filepath.Join(keys, "none"))
	c := a.start(t, pgtest.Options{Major: 15})
	c.Exec(t, "CREATE TABLE plaintext_marker AS SELECT i, 'plaintext_marker' AS v FROM generate_series(1, 5000) i")
	name := a.classicPush(t, c)
	c.Exec(t, "INSERT INTO plaintext_marker VALUES (0, 'later')")
	segment := c.SwitchWAL(t)
	c.WaitArchived(t, segment)
	local := filepath.Join(c.Dir, "pg_wal", segment)
	a.fails(t, c, 0, []string{"was archived before, with the same content"}, "wal-push", "-p", "1", local)

	other := &archive{bin: a.bin, prefix: a.prefix, env: append([]string(nil), a.env...)}
	other.env = append(other.env, "WALE_STATE_DIR="+filepath.Join(pgtest.TempDir(t), "state"))
	other.fails(t, c, 1, []string{"can't be told without the private key", "Nothing was replaced", segment + ".lzo"}, "wal-push", "-p", "1", local)
	other.env = append(other.env, "WALE_GPG_PRIVATE_KEY_FILE="+filepath.Join(keys, "secret.asc"))
	other.fails(t, c, 0, []string{"was archived before, with the same content"}, "wal-push", "-p", "1", local)
	other.sh(t, "cp "+local+" /tmp/"+filepath.Base(keys)+"; mkdir "+keys+"/w; mv /tmp/"+filepath.Base(keys)+" "+keys+"/w/"+segment+"; printf x | dd of="+keys+"/w/"+segment+" bs=1 seek=9000 conv=notrunc 2>/dev/null")
	other.fails(t, c, 1, []string{"the archive holds another file of that name"}, "wal-push", "-p", "1", filepath.Join(keys, "w", segment))

	for _, key := range a.keys(t) {
		b, err := os.ReadFile(filepath.Join(a.prefix, key))
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(key, ".lzo") && (bytes.HasPrefix(b, []byte("\x89LZO")) || bytes.Contains(b, []byte("plaintext_marker"))) {
			t.Errorf("%s is not encrypted", key)
		}
	}
	want := c.Query(t, "SELECT count(*), min(v), max(v) FROM plaintext_marker")
	c.Stop(t, pgtest.Fast)
	check := func(how string, r *archive, dir string) {
		t.Helper()
		r.configure(t, dir)
		s := r.recovered(t, dir, classicRestore{Timeline: "latest"})
		if got := s.Query(t, "SELECT count(*), min(v), max(v) FROM plaintext_marker"); got != want {
			t.Errorf("%s: %s, want %s", how, got, want)
		}
		s.Stop(t, pgtest.Fast)
	}
	dir := target(t)
	other.must(t, nil, "backup-fetch", dir, name)
	check("key file", other, dir)
	other.must(t, nil, "verify", "--all", "--read-data", "--wal")

	ring := &archive{bin: a.bin, prefix: a.prefix, env: a.env[:3:3]}
	ring.importKey(t, "gpg/secret.asc")
	home := ring.env[len(ring.env)-1]
	dir = target(t)
	if _, err := exec.LookPath("lzop"); err != nil {
		t.Fatalf("%v; run: .ci/install-engines classic", err)
	}
	ring.sh(t, "export "+home+"; mkdir -m 700 "+dir+"; for p in "+a.prefix+"/basebackups_005/"+name+"/tar_partitions/*; do gpg --batch -q -d $p | lzop -dc | tar -xf - -C "+dir+"; done")
	check("gpg, lzop and tar", ring, dir)
	a.fails(t, nil, 1, []string{name}, "verify", "--all", "--read-data")
}

package backup

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// Root gives everything that it makes to the owner, by name.
func TestFetchOwner(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	other, err := user.Lookup("nobody")
	if err != nil {
		t.Skipf("no user to give files to: %v", err)
	}
	a, c, to := newArchive(t), newCluster(), newTarget(t)
	b := a.push(t, c)
	cfg := a.config(b, to)
	cfg.Owner, cfg.WALDir = "nobody", filepath.Join(to.base, "new/wal")
	cfg.Recover = &RecoverConfig{RestoreCommand: "cp %f %p"}
	r := mustFetch(t, cfg)
	if r.Owner != "nobody" {
		t.Errorf("owner = %q", r.Owner)
	}
	for _, dir := range []string{to.dir, to.fast, cfg.WALDir} {
		for _, name := range tree(t, dir) {
			info, err := os.Lstat(name)
			if err != nil {
				t.Fatal(err)
			}
			if st := info.Sys().(*syscall.Stat_t); fmt.Sprint(st.Uid) != other.Uid || fmt.Sprint(st.Gid) != other.Gid {
				t.Errorf("%s belongs to %d:%d, want %s:%s", name, st.Uid, st.Gid, other.Uid, other.Gid)
			}
		}
	}
	// What was made on the way to a directory is not the cluster's.
	checkMode(t, filepath.Join(to.base, "new"), 0o755)
}

func TestFetchOwnerRefused(t *testing.T) {
	t.Parallel()
	a, c := newArchive(t), newCluster()
	c.change = func(m *Manifest) { m.Owner, m.Group = "somebody-elsewhere", "staff-elsewhere" }
	b := a.push(t, c)
	c.change = func(m *Manifest) { m.Owner, m.Group = "", "" }
	unknown := a.push(t, c)
	if os.Geteuid() != 0 {
		cfg := a.config(b, newTarget(t))
		cfg.Owner = "root"
		if _, err := Fetch(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "only root") {
			t.Errorf("Fetch for root = %v", err)
		}
		cfg.Owner = ""
		if r := mustFetch(t, cfg); !strings.Contains(strings.Join(r.Warnings, ""), "somebody-elsewhere") {
			t.Errorf("warnings = %q, want one of the owner", r.Warnings)
		}
		return
	}
	for _, b := range []*Backup{b, unknown} {
		to := newTarget(t)
		if _, err := Fetch(t.Context(), a.config(b, to)); err == nil || !strings.Contains(err.Error(), "--owner USER") {
			t.Errorf("Fetch = %v, want a way out", err)
		}
		if len(tree(t, to.base)) != 1 {
			t.Errorf("a refused fetch left %q", tree(t, to.base))
		}
		cfg := a.config(b, to)
		cfg.Owner = "root:root"
		mustFetch(t, cfg)
	}
}

func TestLookupOwner(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]ids{"root": {}, "root:root": {}, "0": {}, "0:0": {}} {
		if got, err := lookupOwner(s, false); err != nil || got != want {
			t.Errorf("lookupOwner(%s) = %v, %v, want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "nobody-of-that-name", "root:nobody-of-that-name"} {
		if got, err := lookupOwner(s, false); err == nil {
			t.Errorf("lookupOwner(%q) = %v, want an error", s, got)
		}
	}
	if got, err := lookupOwner("root:nobody-of-that-name", true); err != nil || got != (ids{}) {
		t.Errorf("lookupOwner with a group of another host = %v, %v, want root's", got, err)
	}
}

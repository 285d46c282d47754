package backup

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"wal-e/internal/fault"
)

// ids are a user and a group by number.
type ids struct{ uid, gid int }

// An ownership says whom restored files belong to. Nil leaves them with the
// user who restores.
type ownership struct {
	base   ids  // of the data directory
	forced bool // all files are base's

	mu    sync.Mutex
	known map[[2]string]ids
}

// planOwner decides whom the files will belong to. Root gives them to their
// owner, by name; other users keep them, which is said before a byte is written.
func (f *fetcher) planOwner(ctx context.Context) error {
	m := f.b.Manifest
	if os.Geteuid() != 0 {
		return f.planOwnFiles(ctx, m)
	}
	want := f.cfg.Owner
	forced := want != ""
	if !forced {
		want = m.Owner
		if m.Group != "" {
			want += ":" + m.Group
		}
	}
	if want == "" || strings.HasPrefix(want, ":") {
		return fault.Owner.Errorf("the backup doesn't say whom its files belong to: say so with --owner USER")
	}
	id, err := lookupOwner(want, !forced)
	if err != nil {
		return fmt.Errorf("files would belong to %s: %w: name a user of this host with --owner USER", want, err)
	}
	f.owner = &ownership{base: id, forced: forced, known: make(map[[2]string]ids)}
	f.report.Owner = want
	return nil
}

func (f *fetcher) planOwnFiles(ctx context.Context, m *Manifest) error {
	name := strconv.Itoa(os.Geteuid())
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	f.report.Owner = name
	if want, _, _ := strings.Cut(f.cfg.Owner, ":"); want != "" && want != name {
		return fault.Owner.Errorf("only root can give files to %s, and this is %s: run as root, or as %s", want, name, want)
	}
	for _, dir := range f.directories() {
		info, err := os.Stat(dir)
		if err != nil {
			continue // it will be made, or isn't ours to complain about
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
			return fault.Owner.Errorf("%s belongs to another user than %s: PostgreSQL wouldn't start on it; run as its owner, or as root", dir, name)
		}
	}
	if m.Owner != "" && m.Owner != name {
		f.warn(ctx, "files will belong to "+name, fmt.Sprintf("In the backup they belonged to %s.", m.Owner),
			"Only root can give them away; PostgreSQL must run as "+name+".")
	}
	return nil
}

// lookupOwner finds USER or USER:GROUP, both by name or number. A group that
// this host doesn't have can stand for the user's own.
func lookupOwner(s string, lenient bool) (ids, error) {
	name, group, hasGroup := strings.Cut(s, ":")
	u, err := user.Lookup(name)
	if err != nil {
		if u, err = user.LookupId(name); err != nil {
			return ids{}, fault.Owner.Errorf("there is no user %q on this host", name)
		}
	}
	gid := u.Gid
	if hasGroup {
		g, err := user.LookupGroup(group)
		if err != nil {
			g, err = user.LookupGroupId(group)
		}
		switch {
		case err == nil:
			gid = g.Gid
		case !lenient:
			return ids{}, fault.Owner.Errorf("there is no group %q on this host", group)
		}
	}
	var id ids
	id.uid, err = strconv.Atoi(u.Uid)
	if err == nil {
		id.gid, err = strconv.Atoi(gid)
	}
	return id, err
}

// of returns whom an entry's file belongs to. A user that this host doesn't have
// is the data directory's.
func (o *ownership) of(e Entry) ids {
	if o.forced || e.Owner == "" {
		return o.base
	}
	key := [2]string{e.Owner, e.Group}
	o.mu.Lock()
	defer o.mu.Unlock()
	id, ok := o.known[key]
	if !ok {
		name := e.Owner
		if e.Group != "" {
			name += ":" + e.Group
		}
		var err error
		if id, err = lookupOwner(name, true); err != nil {
			id = o.base
		}
		o.known[key] = id
	}
	return id
}

// settle gives an open file or directory its owner and mode, whatever the umask.
func (f *fetcher) settle(file *os.File, e Entry) error {
	if f.owner != nil {
		id := f.owner.of(e)
		if err := file.Chown(id.uid, id.gid); err != nil {
			return err
		}
	}
	return file.Chmod(e.Mode.Perm())
}

// dirMode is the mode of the data directory and of tablespaces: PostgreSQL
// starts on these two only.
func (f *fetcher) dirMode() fs.FileMode {
	if f.b.Manifest.Mode&0o050 == 0o050 {
		return 0o750
	}
	return 0o700
}

// fileMode is the mode of files that are made here.
func (f *fetcher) fileMode() fs.FileMode {
	if f.dirMode() == 0o750 {
		return 0o640
	}
	return 0o600
}

// baseEntry is an entry with the owner of the data directory.
func (f *fetcher) baseEntry(mode fs.FileMode) Entry {
	return Entry{Owner: f.b.Manifest.Owner, Group: f.b.Manifest.Group, Mode: mode}
}

// directories returns the directories that are restored to.
func (f *fetcher) directories() []string {
	dirs := []string{f.dir}
	if f.report.WALDir != "" {
		dirs = append(dirs, f.report.WALDir)
	}
	for _, s := range f.spaces {
		if !s.blind {
			dirs = append(dirs, s.dir)
		}
	}
	return dirs
}

package compat

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
	"sync"

	"wal-e/internal/fault"
)

// An ownership says whom restored files belong to when root restores.
type ownership struct {
	forced   bool // all belong to uid and gid
	uid, gid int

	mu     sync.Mutex
	users  map[string]int
	groups map[string]int
}

// planOwner returns nil for other users than root: files are theirs.
func planOwner(want string) (*ownership, error) {
	name, group, _ := strings.Cut(want, ":")
	if os.Geteuid() != 0 {
		me, err := user.Current()
		if name != "" && (err != nil || name != me.Username && name != me.Uid) {
			return nil, fault.Owner.Errorf("only root can give files to %s: run as root, or as %s", name, name)
		}
		return nil, nil
	}
	o := &ownership{users: make(map[string]int), groups: make(map[string]int)}
	if want == "" {
		return o, nil
	}
	o.forced = true
	u, err := user.Lookup(name)
	if err != nil {
		if u, err = user.LookupId(name); err != nil {
			return nil, fmt.Errorf("files would belong to %s: %w: name a user of this host with --owner USER", want, err)
		}
	}
	o.uid, _ = strconv.Atoi(u.Uid) // the system's own numbers
	o.gid, _ = strconv.Atoi(u.Gid)
	if group != "" {
		g, err := user.LookupGroup(group)
		if err != nil {
			return nil, fmt.Errorf("files would belong to %s: %w: name a group of this host", want, err)
		}
		o.gid, _ = strconv.Atoi(g.Gid)
	}
	return o, nil
}

// give calls chown with whom a member belongs to: by name, and by number when
// the archive has no name. A name that this host doesn't know is an error, for
// its number may be somebody else's here.
func (o *ownership) give(m member, chown func(uid, gid int) error) error {
	if o.forced {
		return chown(o.uid, o.gid)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	uid, gid := m.UID, m.GID
	if m.Owner != "" {
		id, ok := o.users[m.Owner]
		if !ok {
			u, err := user.Lookup(m.Owner)
			if err != nil {
				return fmt.Errorf("it belongs to %s: %w: name a user of this host with --owner USER", m.Owner, err)
			}
			id, _ = strconv.Atoi(u.Uid)
			o.users[m.Owner] = id
		}
		uid = id
	}
	if m.Group != "" {
		id, ok := o.groups[m.Group]
		if !ok {
			g, err := user.LookupGroup(m.Group)
			if err != nil {
				return fmt.Errorf("it belongs to the group %s: %w: name one of this host with --owner USER:GROUP", m.Group, err)
			}
			id, _ = strconv.Atoi(g.Gid)
			o.groups[m.Group] = id
		}
		gid = id
	}
	return chown(uid, gid)
}

package backup

import (
	"io/fs"
	"os/user"
	"path"
	"strconv"
	"strings"

	"wal-e/internal/postgres"
)

// leftOut tells whether the name of a thing alone keeps it out of a backup,
// with all that is in it. unlogged are the relations of its folder that have an
// init fork.
func (w *fileWalk) leftOut(p string, unlogged map[postgres.Relation]bool) bool {
	name := path.Base(p)
	if name == "lost+found" || strings.HasPrefix(name, ownPrefix) || postgres.IsRelationCacheFile(name) {
		return true
	}
	folder := path.Dir(p)
	if isTablespace(folder) {
		// Other folders are of servers before or after a pg_upgrade.
		return name != postgres.TablespaceDir(w.cfg.Version, w.cfg.CatalogVersion)
	}
	if r, ok := postgres.ParseRelationPath(p); ok {
		return r.Temp || r.Fork != postgres.InitFork && unlogged[r.Relation]
	}
	return folder == "." && isOfOneServer(name)
}

// ownPrefix begins the names of what wal-e itself makes in a data directory.
const ownPrefix = ".wal-e"

// isOfOneServer tells whether a name in the data directory belongs to one server
// or one recovery, so that another server must not find it. Beyond what
// PostgreSQL's own base backup leaves out these are the files that would make a
// restored primary a standby, or recover to somewhere else.
func isOfOneServer(name string) bool {
	switch name {
	case "postmaster.pid", "postmaster.opts",
		"backup_label", "backup_label.old", "tablespace_map", "tablespace_map.old", "backup_manifest",
		"postgresql.auto.conf.tmp", "current_logfiles", "current_logfiles.tmp",
		"recovery.signal", "standby.signal", "recovery.conf", "recovery.done", "promote":
		return true
	}
	// The lock file beside a socket names a process, as postmaster.pid does.
	return strings.HasPrefix(name, ".s.PGSQL.")
}

// isLeftOutFile tells whether a regular file of that name is left out: what a
// query spilled, and dumps of crashed processes.
func isLeftOutFile(p string) bool { return postgres.IsTempFile(path.Base(p)) || isCore(p) }

// isCore tells whether a file in the data directory is a core dump: core, or
// core.….PID.
func isCore(p string) bool {
	rest, ok := strings.CutPrefix(p, "core")
	if !ok || rest == "" {
		return ok
	}
	pid := rest[strings.LastIndexByte(rest, '.')+1:]
	return rest[0] == '.' && pid != "" && strings.Trim(pid, "0123456789") == "" && !strings.Contains(p, "/")
}

// isEmptied tells whether a folder is stored without what is in it. The server
// makes that anew; only pg_replslot's it doesn't, and a copy that had the
// original's slots would keep WAL for them for ever.
func isEmptied(p string) bool {
	switch p {
	case "pg_dynshmem", "pg_notify", "pg_replslot", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans":
		return true
	}
	return postgres.IsTempFile(path.Base(p))
}

// isLogFolder tells whether that is where the server logs, as it does unless
// told otherwise.
func isLogFolder(p string) bool { return p == "log" || p == "pg_log" }

// isTablespace tells whether p is a tablespace's place in pg_tblspc: a link to
// its folder or, since 15, the folder itself.
func isTablespace(p string) bool {
	folder, name := path.Split(p)
	oid, err := strconv.ParseUint(name, 10, 32)
	return folder == "pg_tblspc/" && err == nil && oid != 0
}

// walStructure returns the folders in the WAL folder that a server expects.
func walStructure(v postgres.Version) []string {
	if v < postgres.V17 {
		return []string{"archive_status"}
	}
	return []string{"archive_status", "summaries"}
}

// owners looks up the names of users and groups, each number once.
type owners struct {
	users, groups map[uint32]string
}

func newOwners() *owners {
	return &owners{users: make(map[uint32]string), groups: make(map[uint32]string)}
}

// names returns who owns a file, "" for a number that has no name here.
func (o *owners) names(info fs.FileInfo) (owner, group string) {
	uid, gid, ok := ownerID(info)
	if !ok {
		return "", ""
	}
	owner, ok = o.users[uid]
	if !ok {
		if u, err := user.LookupId(strconv.FormatUint(uint64(uid), 10)); err == nil {
			owner = u.Username
		}
		o.users[uid] = owner
	}
	group, ok = o.groups[gid]
	if !ok {
		if g, err := user.LookupGroupId(strconv.FormatUint(uint64(gid), 10)); err == nil {
			group = g.Name
		}
		o.groups[gid] = group
	}
	return owner, group
}

// ownerNames returns who owns a single file.
func ownerNames(info fs.FileInfo) (owner, group string) { return newOwners().names(info) }

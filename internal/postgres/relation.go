package postgres

import (
	"fmt"
	"strconv"
	"strings"
)

// A Fork is one of the files that make up a relation.
type Fork int

// The forks, in PostgreSQL's order (ForkNumber in relpath.h).
const (
	MainFork Fork = iota
	FSMFork       // free space map
	VMFork        // visibility map
	InitFork      // what an unlogged relation is reset to
)

func (f Fork) String() string {
	switch f {
	case MainFork:
		return "main"
	case FSMFork:
		return "fsm"
	case VMFork:
		return "vm"
	case InitFork:
		return "init"
	}
	return fmt.Sprintf("unknown fork %d", int(f))
}

// A Relation names what the forks and segments of one relation share.
type Relation struct {
	Tablespace uint32 // OID, or zero in base and global
	Database   uint32 // OID, or zero in global
	Node       uint32 // the file's number, which is not the relation's OID
}

// A RelationFile is what the path of a relation's file says.
type RelationFile struct {
	Relation
	Fork    Fork
	Segment uint32 // counts the fork's files from zero
	Temp    bool   // a temporary relation
	Backend uint32 // of a temporary relation, who made it
}

// ParseRelationPath parses a slash-separated path relative to the data directory:
// "base/16384/16385.1", "global/1262_vm", "base/5/t3_16385" or, below a tablespace's
// link, "pg_tblspc/16390/PG_15_202209061/16384/16385_init". It reports false for
// files that are no relation's, such as pg_filenode.map.
func ParseRelationPath(path string) (RelationFile, bool) {
	parts := strings.Split(path, "/")
	var tablespace, database uint32
	var ok bool
	switch {
	case len(parts) == 2 && parts[0] == "global":
		ok = true
	case len(parts) == 3 && parts[0] == "base":
		database, ok = parseOID(parts[1])
	case len(parts) == 5 && parts[0] == "pg_tblspc" && strings.HasPrefix(parts[2], "PG_"):
		tablespace, ok = parseOID(parts[1])
		if ok {
			database, ok = parseOID(parts[3])
		}
	}
	if !ok {
		return RelationFile{}, false
	}
	f, ok := parseRelationName(parts[len(parts)-1])
	if !ok {
		return RelationFile{}, false
	}
	f.Tablespace, f.Database = tablespace, database
	return f, true
}

// parseRelationName parses "<node>[_<fork>][.<segment>]" and the temporary
// "t<backend>_<node>[_<fork>][.<segment>]" (reinit.c, looks_like_temp_rel_name in fd.c).
func parseRelationName(name string) (f RelationFile, ok bool) {
	if rest, temp := strings.CutPrefix(name, "t"); temp {
		backend, node, _ := strings.Cut(rest, "_")
		if f.Backend, ok = parseNumber(backend); !ok {
			return RelationFile{}, false
		}
		f.Temp, name = true, node
	}
	name, segment, segmented := strings.Cut(name, ".")
	if segmented {
		if f.Segment, ok = parseOID(segment); !ok {
			return RelationFile{}, false
		}
	}
	node, fork, forked := strings.Cut(name, "_")
	if forked {
		if f.Fork, ok = parseFork(fork); !ok {
			return RelationFile{}, false
		}
	}
	if f.Node, ok = parseOID(node); !ok {
		return RelationFile{}, false
	}
	return f, true
}

func parseFork(s string) (Fork, bool) {
	for _, f := range []Fork{FSMFork, VMFork, InitFork} {
		if s == f.String() {
			return f, true
		}
	}
	return 0, false
}

// parseOID parses a positive number as PostgreSQL prints it, without leading zeros.
func parseOID(s string) (uint32, bool) {
	n, ok := parseNumber(s)
	return n, ok && n != 0
}

func parseNumber(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil && (s[0] != '0' || s == "0")
}

// Path is the inverse of ParseRelationPath; tablespaceDir is the result of
// TablespaceDir, needed for relations in a tablespace only.
func (f RelationFile) Path(tablespaceDir string) string {
	var b strings.Builder
	switch {
	case f.Tablespace != 0:
		fmt.Fprintf(&b, "pg_tblspc/%d/%s/%d/", f.Tablespace, tablespaceDir, f.Database)
	case f.Database != 0:
		fmt.Fprintf(&b, "base/%d/", f.Database)
	default:
		b.WriteString("global/")
	}
	if f.Temp {
		fmt.Fprintf(&b, "t%d_", f.Backend)
	}
	fmt.Fprintf(&b, "%d", f.Node)
	if f.Fork != MainFork {
		b.WriteString("_" + f.Fork.String())
	}
	if f.Segment > 0 {
		fmt.Fprintf(&b, ".%d", f.Segment)
	}
	return b.String()
}

// FirstBlock returns the number of the file's first block within its fork;
// blocksPerFile is pg_control's.
func (f RelationFile) FirstBlock(blocksPerFile uint32) uint32 { return f.Segment * blocksPerFile }

// IsTempFile reports whether a file or folder of that name holds what a query
// spilled: pgsql_tmp and what is in it.
func IsTempFile(name string) bool { return strings.HasPrefix(name, "pgsql_tmp") }

// IsRelationCacheFile reports whether that is the name of a cache that servers
// write anew: pg_internal.init, or one being written.
func IsRelationCacheFile(name string) bool {
	return name == "pg_internal.init" || strings.HasPrefix(name, "pg_internal.init.")
}

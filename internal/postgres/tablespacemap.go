package postgres

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A TablespaceMap is the content of tablespace_map: where the server makes the
// links of pg_tblspc point when it starts from a backup.
type TablespaceMap []TablespaceLocation

// A TablespaceLocation is one line of the map.
type TablespaceLocation struct {
	OID  uint32
	Path string // as the link holds it
}

// ParseTablespaceMap parses the tablespace_map of a server of that version
// (read_tablespace_map in xlogrecovery.c, before 15 in xlog.c).
//
// A backslash before a line end means that the line end belongs to the path. Since
// 14 a backslash also stands before each backslash of the path; before, there it is
// nothing special.
func ParseTablespaceMap(b []byte, v Version) (TablespaceMap, error) {
	var m TablespaceMap
	for len(b) > 0 {
		line, rest, err := cutMapLine(b, v)
		if err != nil {
			return nil, err
		}
		b = rest
		if len(line) == 0 { // \r followed by \n
			continue
		}
		oid, path, _ := strings.Cut(string(line), " ")
		if v < V14 {
			path = strings.TrimLeft(path, " \t\v\f\r\n") // as sscanf does
		}
		number, err := strconv.ParseUint(oid, 10, 32)
		if err != nil || number == 0 || path == "" {
			return nil, fmt.Errorf("postgres: tablespace_map has the line %q: want an OID, a space and a path", line)
		}
		m = append(m, TablespaceLocation{uint32(number), path})
	}
	return m, nil
}

// cutMapLine returns the first line of b without its escapes, and what follows it.
func cutMapLine(b []byte, v Version) (line, rest []byte, err error) {
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case c == 0:
			return nil, nil, errors.New("postgres: tablespace_map holds a zero byte")
		case c == '\n' || c == '\r':
			return line, b[i+1:], nil
		case c == '\\' && i+1 < len(b) && (v >= V14 || b[i+1] == '\n' || b[i+1] == '\r'):
			i++
			if b[i] == 0 {
				return nil, nil, errors.New("postgres: tablespace_map holds a zero byte")
			}
			line = append(line, b[i])
		default:
			line = append(line, c)
		}
	}
	return nil, nil, fmt.Errorf("postgres: tablespace_map ends within the line %q", b)
}

// Format returns the map as a server of that version reads it. Its error names a
// path that such a server can't read back.
func (m TablespaceMap) Format(v Version) ([]byte, error) {
	var out bytes.Buffer
	for _, l := range m {
		fmt.Fprintf(&out, "%d ", l.OID)
		for i := range len(l.Path) {
			if c := l.Path[i]; c == '\n' || c == '\r' || c == '\\' && v >= V14 {
				out.WriteByte('\\')
			}
			out.WriteByte(l.Path[i])
		}
		out.WriteByte('\n')
	}
	// Before 14 a path that ends in a backslash takes the next line for its own.
	back, err := ParseTablespaceMap(out.Bytes(), v)
	if err != nil || !slices.Equal(back, m) {
		return nil, fmt.Errorf("postgres: PostgreSQL %s can't read back a tablespace_map for %q", v.Major(), m.paths())
	}
	return out.Bytes(), nil
}

func (m TablespaceMap) paths() []string {
	var paths []string
	for _, l := range m {
		paths = append(paths, l.Path)
	}
	return paths
}

// Relocate returns the map with the tablespaces that are in to at their new
// absolute paths, and without those whose new path is empty. It refuses an OID
// that the map doesn't have and a directory for two tablespaces.
func (m TablespaceMap) Relocate(to map[uint32]string) (TablespaceMap, error) {
	var out TablespaceMap
	known := map[uint32]bool{}
	owner := map[string]uint32{}
	for _, l := range m {
		known[l.OID] = true
		path, moved := to[l.OID]
		switch {
		case !moved:
			path = l.Path
		case path == "":
			continue
		case !filepath.IsAbs(path):
			return nil, fmt.Errorf("postgres: tablespace %d can't move to %q: want an absolute path", l.OID, path)
		}
		if other, taken := owner[filepath.Clean(path)]; taken {
			return nil, fmt.Errorf("postgres: tablespaces %d and %d can't share the directory %q", other, l.OID, path)
		}
		owner[filepath.Clean(path)] = l.OID
		out = append(out, TablespaceLocation{l.OID, path})
	}
	for oid := range to {
		if !known[oid] {
			return nil, fmt.Errorf("postgres: the backup has no tablespace %d", oid)
		}
	}
	return out, nil
}

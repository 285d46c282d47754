package backup

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"wal-e/internal/fault"
)

// RestoreSpecSource as the restore specification stands for the tablespaces'
// original places.
const RestoreSpecSource = "SOURCE"

// A restoreSpec is a classic restore specification:
//
//	{"16390": {"loc": "/data/ts1/", "link": "pg_tblspc/16390"},
//	 "tablespaces": ["16390"], "base_prefix": "/var/lib/pg/restored"}
//
// base_prefix counts for nothing: the directory on the command line always
// wins.
type restoreSpec struct {
	BasePrefix  string
	directories map[uint32]string
}

func readRestoreSpec(name string) (*restoreSpec, error) {
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("restore specification does not exist: %w", err)
	}
	if err != nil {
		return nil, err
	}
	spec, err := parseRestoreSpec(b)
	if err != nil {
		return nil, fmt.Errorf("restore specification %s: %w", name, err)
	}
	return spec, nil
}

func parseRestoreSpec(b []byte) (*restoreSpec, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(b, &fields); err != nil {
		return nil, err
	}
	spec := &restoreSpec{directories: make(map[uint32]string)}
	if raw, ok := fields["base_prefix"]; ok {
		if err := json.Unmarshal(raw, &spec.BasePrefix); err != nil {
			return nil, fmt.Errorf("base_prefix: %w", err)
		}
	}
	var oids []string
	if raw, ok := fields["tablespaces"]; ok {
		if err := json.Unmarshal(raw, &oids); err != nil {
			return nil, fmt.Errorf("tablespaces: %w", err)
		}
	}
	for _, s := range oids {
		oid, err := strconv.ParseUint(s, 10, 32)
		if err != nil || oid == 0 {
			return nil, fault.Tablespaces.Errorf("tablespace %q: want an OID", s)
		}
		var at struct{ Loc, Link string }
		if err := json.Unmarshal(fields[s], &at); err != nil {
			return nil, fmt.Errorf("tablespace %s: %w", s, err)
		}
		if !filepath.IsAbs(at.Loc) || at.Link != "" && filepath.Clean(at.Link) != "pg_tblspc/"+s {
			return nil, fault.Tablespaces.Errorf("tablespace %s: loc is %q and link %q: want an absolute path and pg_tblspc/%s", s, at.Loc, at.Link, s)
		}
		spec.directories[uint32(oid)] = filepath.Clean(at.Loc)
	}
	return spec, nil
}

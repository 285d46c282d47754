package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"wal-e/internal/fault"
)

// prefixState makes the folder for local state of the prefix and returns it.
// Whoever can't have it goes on without.
func (s *session) prefixState() (string, error) {
	return makeState(s.stateRoot, s.prefixStatePath())
}

func (s *session) prefixStatePath() string {
	return filepath.Join(s.stateRoot, digest(s.prefix.String()))
}

// clusterState makes the folder for local state of a cluster, by its system
// identifier and data directory, under the prefix. It is what
// backup.PushConfig.StateDir wants.
func (s *session) clusterState(system, dir string) (string, error) {
	real, err := filepath.EvalSymlinks(dir)
	if err == nil {
		real, err = filepath.Abs(real)
	}
	if err != nil {
		return "", fmt.Errorf("state folder: %w", err)
	}
	if within(realPath(s.stateRoot), real) {
		return "", fault.BadSetting.Errorf("state folder %s is within the data directory %s: set WALE_STATE_DIR to another place", s.stateRoot, dir)
	}
	return makeState(s.stateRoot, filepath.Join(s.prefixStatePath(), system+"-"+digest(real)))
}

// makeState makes a folder below root, unless that belongs to a server.
func makeState(root, dir string) (string, error) {
	if cluster := clusterAround(realPath(root)); cluster != "" {
		return "", fault.BadSetting.Errorf("state folder %s is within PostgreSQL's %s: set WALE_STATE_DIR to another place", root, cluster)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("state folder: %w: make %s for the user that PostgreSQL runs as, or set WALE_STATE_DIR", err, root)
	}
	return dir, nil
}

// digest is a file name for what may hold any characters.
func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:8])
}

func within(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

// realPath resolves links in as much of the path as there is.
func realPath(path string) string {
	real, err := filepath.EvalSymlinks(path)
	if parent := filepath.Dir(path); errors.Is(err, fs.ErrNotExist) && parent != path {
		return filepath.Join(realPath(parent), filepath.Base(path))
	}
	if err != nil {
		return path
	}
	return real
}

// clusterAround returns the data directory or tablespace that holds path, "" if
// none does.
func clusterAround(path string) string {
	for {
		_, err := os.Stat(filepath.Join(path, "global", "pg_control"))
		if err == nil {
			return path
		}
		if ours, _ := filepath.Glob(filepath.Join(path, "PG_[0-9]*_[0-9]*")); len(ours) > 0 {
			return path
		}
		parent := filepath.Dir(path)
		if parent == path {
			return ""
		}
		path = parent
	}
}

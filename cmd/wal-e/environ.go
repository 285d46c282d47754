package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"wal-e/internal/fault"
)

// An environ is a process's environment.
type environ map[string]string

func parseEnviron(list []string) environ {
	e := make(environ, len(list))
	for _, entry := range list {
		if name, value, ok := strings.Cut(entry, "="); ok {
			e[name] = value
		}
	}
	return e
}

// withEnvdir returns the environment with the variables of the folder that
// WALE_ENVDIR names laid over it, as the program envdir does it: they win.
// With an error it returns e itself.
func (e environ) withEnvdir() (environ, error) {
	dir := e["WALE_ENVDIR"]
	if dir == "" {
		return e, nil
	}
	set, unset, err := readEnvdir(dir)
	if err != nil {
		return e, fmt.Errorf("WALE_ENVDIR: %q: %w", dir, err)
	}
	changed := maps.Clone(e)
	maps.Copy(changed, set)
	for _, name := range unset {
		delete(changed, name)
	}
	return changed, nil
}

// readEnvdir reads a folder with one file per variable: the first line is the
// value, without the spaces and tabs at its end, a NUL in it stands for a
// newline, and an empty file unsets the variable. Hidden files and folders are
// none of it.
func readEnvdir(dir string) (set environ, unset []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, pathless(err)
	}
	set = make(environ)
	for _, entry := range entries {
		name := entry.Name()
		path := filepath.Join(dir, name)
		info, err := os.Stat(path)
		if strings.HasPrefix(name, ".") || err == nil && info.IsDir() {
			continue
		}
		if strings.Contains(name, "=") {
			return nil, nil, fault.BadSetting.Errorf("file %q has a name that no variable can have", name)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, nil, fmt.Errorf("file %s: %w", name, pathless(err))
		}
		if len(b) == 0 {
			unset = append(unset, name)
			continue
		}
		line, _, _ := bytes.Cut(b, []byte("\n"))
		line = bytes.TrimRight(line, " \t")
		set[name] = string(bytes.ReplaceAll(line, []byte{0}, []byte("\n")))
	}
	return set, unset, nil
}

// pathless drops operation and path from an error whose message has them already.
func pathless(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// misspelled returns a sentence for each variable that nobody reads and whose
// name is nearly that of one that is read.
func (e environ) misspelled() []string {
	var known []string
	for _, v := range variables() {
		known = append(known, v.name)
	}
	var sentences []string
	for _, name := range slices.Sorted(maps.Keys(e)) {
		if !strings.HasPrefix(name, "WALE_") || slices.Contains(known, name) {
			continue
		}
		if near := nearest(name, known); near != "" {
			sentences = append(sentences, fmt.Sprintf("%s is not read: did you mean %s?", name, near))
		}
	}
	return sentences
}

// nearest returns the candidate that s is at most two typing errors away from,
// or "".
func nearest(s string, candidates []string) string {
	best, least := "", 3
	for _, c := range candidates {
		if d := distance(s, c); d < least {
			best, least = c, d
		}
	}
	return best
}

// distance counts the letters to insert, delete or replace to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

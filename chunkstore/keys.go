package chunkstore

import (
	"fmt"
	"strconv"
	"strings"

	"wal-e/index"
	"wal-e/internal/runid"
)

// PackFolder is what the keys of all packs begin with.
const PackFolder = packDir

// Names of objects under a prefix; docs/format.md describes each.
const (
	runDir       = "basebackups_006/"
	tombstoneDir = "deleted_006/"
	packDir      = "chunks_006/packs/"
	indexDir     = "chunks_006/index/"
	condemnedDir = "chunks_006/condemned/"
	configDir    = "chunks_006/config/"
	formatKey    = "chunks_006/FORMAT.txt"

	intentSuffix  = ".intent"
	outcomeSuffix = ".outcome"
	graceSuffix   = ".grace"
)

// A Ref names one run of a backup: its name, base_<SEGMENT>_<OFFSET>, and the
// run that pushed it. Two runs may have one name.
type Ref struct {
	Name string
	Run  runid.ID
}

func (r Ref) String() string { return r.Name + "@" + r.Run.String() }

func (r Ref) intentKey() string    { return runDir + r.Name + "/" + r.Run.String() + intentSuffix }
func (r Ref) outcomeKey() string   { return runDir + r.Name + "/" + r.Run.String() + outcomeSuffix }
func (r Ref) tombstoneKey() string { return tombstoneDir + r.Name + "/" + r.Run.String() }

// parseRef parses NAME/RUN.
func parseRef(s string) (Ref, error) {
	name, run, ok := strings.Cut(s, "/")
	if !ok || name == "" {
		return Ref{}, fmt.Errorf("%q: want NAME/RUN", s)
	}
	id, err := runid.Parse(run)
	return Ref{Name: name, Run: id}, err
}

// PackKey is the name of a pack's object.
func PackKey(p index.PackID) string {
	return packDir + p.Run.String() + "/" + number(p.Seq)
}

func indexKey(o index.ObjectID) string {
	return indexDir + o.Run.String() + "/" + number(o.N)
}

func configKey(n uint32) string { return configDir + number(n) }

// number writes n so that names sort as numbers do.
func number(n uint32) string { return fmt.Sprintf("%08d", n) }

// parseNumber parses what number wrote; other forms are not ours.
func parseNumber(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || number(uint32(n)) != s {
		return 0, false
	}
	return uint32(n), true
}

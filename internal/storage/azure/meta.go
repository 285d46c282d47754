package azure

import (
	"strings"

	"wal-e/internal/storage"
	"wal-e/internal/storage/driver"
)

// metaPrefix begins the name of each piece of metadata that is ours: Azure wants
// identifiers, which don't begin with a digit and have no hyphen. Underscores
// don't occur in keys.
const metaPrefix = "wale_"

// encodeMeta returns m as Azure keeps it.
func encodeMeta(m storage.Meta) (map[string]*string, error) {
	if err := storage.CheckMeta(m); err != nil || len(m) == 0 {
		return nil, err
	}
	out := make(map[string]*string, len(m))
	for k, v := range m {
		v = driver.EscapeMeta(v)
		out[metaPrefix+strings.ReplaceAll(k, "-", "_")] = &v
	}
	return out, nil
}

// decodeMeta returns what encodeMeta made, or nil when nothing in it is ours.
// Letters of names change their case on the way.
func decodeMeta(in map[string]*string) storage.Meta {
	var m storage.Meta
	for name, v := range in {
		k, ours := strings.CutPrefix(strings.ToLower(name), metaPrefix)
		if !ours || v == nil {
			continue
		}
		if m == nil {
			m = make(storage.Meta)
		}
		m[strings.ReplaceAll(k, "_", "-")] = driver.UnescapeMeta(*v)
	}
	return m
}

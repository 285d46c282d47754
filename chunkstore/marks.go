package chunkstore

import (
	"context"
	"errors"
	"strings"

	"wal-e/internal/storage"
)

// A Mark condemns packs: no new backup may reference them any more. It also
// carries, per system identifier, a WAL horizon: the LSN below which WAL may be
// removed, so that no backup may start there any more. A mark is never taken
// back.
type Mark struct {
	Packs    Footprint         `json:"packs"`
	Horizons map[string]string `json:"wal_horizons"` // system identifier to LSN
}

const (
	markKind    = "condemned"
	markVersion = 1
	markLimit   = 64 << 20 // bytes
)

// listMarks returns the keys of the marks that stand.
func listMarks(ctx context.Context, b storage.Bucket) ([]string, error) {
	var keys []string
	for o, err := range b.List(ctx, condemnedDir, "") {
		if err != nil {
			return nil, err
		}
		if !strings.HasSuffix(o.Key, graceSuffix) {
			keys = append(keys, o.Key)
		}
	}
	return keys, nil
}

// readMarks reads the marks with these keys and unites them. A mark that is
// gone was reaped, and so were its packs: their absence is seen elsewhere.
func readMarks(ctx context.Context, b storage.Bucket, keys []string) ([]Mark, error) {
	var marks []Mark
	for _, key := range keys {
		var m Mark
		err := readEnvelope(ctx, b, key, markKind, markVersion, markLimit, &m)
		if errors.Is(err, storage.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		marks = append(marks, m)
	}
	return marks, nil
}

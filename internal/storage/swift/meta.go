package swift

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/ncw/swift/v2"

	"wal-e/internal/storage"
	"wal-e/internal/storage/driver"
)

const metaPrefix = "X-Object-Meta-"

// What a Swift with its ordinary limits takes.
const (
	maxMetaName  = 128
	maxMetaValue = 256
	maxMetaCount = 90
)

// metaHeaders returns the headers that keep metadata.
func metaHeaders(m storage.Meta) (swift.Headers, error) {
	if err := storage.CheckMeta(m); err != nil {
		return nil, err
	}
	if len(m) > maxMetaCount {
		return nil, fmt.Errorf("%w: Swift takes %d entries, here are %d", storage.ErrNoMeta, maxMetaCount, len(m))
	}
	h := make(swift.Headers)
	for k, v := range m {
		v = driver.EscapeMeta(v)
		if len(k) > maxMetaName || len(v) > maxMetaValue {
			return nil, fmt.Errorf("%w: Swift takes values of %d bytes, that of %s has %d", storage.ErrNoMeta, maxMetaValue, k, len(v))
		}
		h[metaPrefix+k] = v
	}
	return h, nil
}

// headersMeta returns the metadata in headers, or nil.
func headersMeta(h http.Header) storage.Meta {
	var m storage.Meta
	for name, values := range h {
		if k, ok := strings.CutPrefix(name, metaPrefix); ok {
			if m == nil {
				m = make(storage.Meta)
			}
			m[strings.ToLower(k)] = driver.UnescapeMeta(values[0])
		}
	}
	return m
}

package compat

import "strings"

// IsClassic reports whether the first element of a key is one of classic WAL-E's
// folders, of version 005 or of one before. Under a prefix of Swift or Google
// Cloud Storage the names of objects in them begin with a slash.
func IsClassic(element string) bool {
	for _, folder := range []string{"wal_", "basebackups_"} {
		if v, ok := strings.CutPrefix(element, folder); ok {
			return len(v) == 3 && v[:2] == "00" && v[2] >= '0' && v[2] <= '5'
		}
	}
	return false
}

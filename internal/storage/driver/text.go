package driver

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// CleanPrefix cuts a prefix or offset of a listing where it holds what no key does
// and servers refuse.
func CleanPrefix(s string) string {
	for i, r := range s {
		if r == utf8.RuneError || unicode.IsControl(r) {
			return s[:i]
		}
	}
	return s
}

// EscapeMeta makes a value of metadata fit for an HTTP header that a server keeps.
// HTTP drops the spaces around it, and some servers an empty one: both are escaped,
// with a percent sign.
func EscapeMeta(v string) string {
	v = strings.ReplaceAll(v, "%", "%25")
	if v == "" {
		return "%"
	}
	if strings.HasPrefix(v, " ") {
		v = "%20" + v[1:]
	}
	if strings.HasSuffix(v, " ") {
		v = v[:len(v)-1] + "%20"
	}
	return v
}

// UnescapeMeta returns what EscapeMeta was given.
func UnescapeMeta(v string) string {
	if v == "%" {
		return ""
	}
	return strings.NewReplacer("%25", "%", "%20", " ").Replace(v)
}

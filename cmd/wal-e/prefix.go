package main

import (
	"fmt"
	"path"
	"strings"

	"wal-e/internal/fault"
)

// A prefix says where an archive is.
type prefix struct {
	source string // the option or variable that it comes from
	scheme string // one of schemes
	store  string // bucket or container; empty for file
	path   string // without slashes at its ends; may be empty
}

// String returns the prefix as a URL.
func (p prefix) String() string {
	store := p.store
	if p.scheme == "file" {
		store = "localhost"
	}
	return strings.TrimSuffix(p.scheme+"://"+store+"/"+p.path, "/")
}

// schemes are the kinds of stores, each with an example.
func schemes() map[string]string {
	return map[string]string{
		"s3":    "s3://bucket/path",
		"wabs":  "wabs://container/path",
		"swift": "swift://container/path",
		"gs":    "gs://bucket/path",
		"file":  "file://localhost/absolute/path",
	}
}

// choosePrefix takes the first that isn't empty: options before variables, both
// in the order of classic WAL-E.
func choosePrefix(f globalFlags, env environ) (prefix, error) {
	for _, c := range []struct{ source, value string }{
		{"--file-prefix", f.filePrefix},
		{"--gs-prefix", f.gsPrefix},
		{"--s3-prefix", f.s3Prefix},
		{"--swift-prefix", f.swiftPrefix},
		{"--wabs-prefix", f.wabsPrefix},
		{"WALE_FILE_PREFIX", env["WALE_FILE_PREFIX"]},
		{"WALE_GS_PREFIX", env["WALE_GS_PREFIX"]},
		{"WALE_S3_PREFIX", env["WALE_S3_PREFIX"]},
		{"WALE_SWIFT_PREFIX", env["WALE_SWIFT_PREFIX"]},
		{"WALE_WABS_PREFIX", env["WALE_WABS_PREFIX"]},
	} {
		if c.value != "" {
			return parsePrefix(c.source, c.value)
		}
	}
	return prefix{}, &message{
		kind: fault.NoPrefix,
		text: "no storage prefix defined",
		hint: "Either set one of the --file-prefix, --gs-prefix, --s3-prefix, --swift-prefix or --wabs-prefix options or define " +
			"one of the WALE_FILE_PREFIX, WALE_GS_PREFIX, WALE_S3_PREFIX, WALE_SWIFT_PREFIX or WALE_WABS_PREFIX environment variables.",
	}
}

// parsePrefix parses a prefix and normalises it. The scheme decides which store
// is meant, not the name of the source.
func parsePrefix(source, value string) (prefix, error) {
	complain := func(format string, args ...any) (prefix, error) {
		return prefix{}, fault.BadSetting.Errorf("%s: %q %s", source, redact(value), fmt.Sprintf(format, args...))
	}
	if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return complain("holds a control character")
	}
	scheme, rest, ok := strings.Cut(value, ":")
	if !ok || strings.Contains(scheme, "/") {
		return complain("has no scheme: want %s", exampleFor(source))
	}
	scheme = strings.ToLower(scheme)
	example, ok := schemes()[scheme]
	if !ok {
		return prefix{}, &message{
			kind: fault.BadSetting,
			text: "bad S3, Windows Azure Blob Storage, OpenStack Swift, Google Cloud Storage or File URL scheme passed",
			detail: fmt.Sprintf("The scheme %s was passed when %s was expected.",
				scheme, `"s3", "wabs", "swift", "gs", or "file"`),
			hint: fmt.Sprintf("It comes from %s: want %s.", source, exampleFor(source)),
		}
	}
	rest, ok = strings.CutPrefix(rest, "//")
	if !ok {
		return complain("lacks // behind its scheme: want %s", example)
	}
	store, name, _ := strings.Cut(rest, "/")
	if strings.Contains(store, "@") {
		return complain("holds a user name: credentials have variables of their own")
	}
	p := prefix{source: source, scheme: scheme, store: store, path: strings.Trim(name, "/")}
	if scheme != "file" {
		if store == "" {
			return complain("names no bucket or container: want %s", example)
		}
		return p, nil
	}
	if store != "" && !strings.EqualFold(store, "localhost") {
		return complain("names the host %s: want file://localhost/%s, or file://localhost/%s if that is the directory",
			store, p.path, strings.Trim(rest, "/"))
	}
	p.store = ""
	p.path = strings.Trim(path.Clean("/"+p.path), "/")
	return p, nil
}

// exampleFor returns a prefix as the source that is named for a store wants it.
func exampleFor(source string) string {
	for scheme, example := range schemes() {
		if strings.Contains(strings.ToLower(source), scheme+"_prefix") || strings.Contains(source, scheme+"-prefix") {
			return example
		}
	}
	return "a URL"
}

// redact hides what may be a password in a URL.
func redact(value string) string {
	head, rest, ok := strings.Cut(value, "://")
	if !ok {
		return value
	}
	authority, tail, slash := strings.Cut(rest, "/")
	at := strings.LastIndex(authority, "@")
	if at < 0 {
		return value
	}
	if slash {
		tail = "/" + tail
	}
	return head + "://…" + authority[at:] + tail
}

// dir returns the directory that a file prefix names.
func (p prefix) dir() string { return "/" + p.path }

// keyPath is the path as the records of WAL transfers have it.
func (p prefix) keyPath() string {
	if p.path == "" {
		return ""
	}
	return p.path + "/"
}

// errNotBuilt is wrapped when an option asks for what comes later.
var errNotBuilt = fault.BadSetting.Errorf("not built into this version")

package main

import (
	"errors"
	"math"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"wal-e/compat"
	"wal-e/internal/fault"
	"wal-e/internal/storage/azure"
	"wal-e/internal/storage/gcs"
	"wal-e/internal/storage/s3"
	"wal-e/internal/storage/swift"
)

// A config is everything that options and variables say, checked.
type config struct {
	prefix        prefix
	credentials   credentials
	s3            s3.Config // zero unless the prefix is in S3
	encryption    encryption
	swift         swift.Config  // zero unless the prefix is in Swift
	wabs          azure.Config  // zero unless the prefix is in Azure
	gs            gcs.Config    // zero unless the prefix is in Google Cloud Storage
	stateRoot     string        // absolute; local state of all prefixes
	layout        compat.Layout // "" when nobody said
	level         int           // of zstd
	pushTimeout   time.Duration
	fetchRetry    time.Duration
	poolMemory    int64 // bytes of the files that wal-push holds beside the named one
	prefetchBytes int64 // that wal-fetch may have lie ahead
	pushMemory    int64 // that backup-push may take; 0: nobody said
	attempts      int   // per storage request; 0: what time limits allow, negative: no bound

	allowNewCluster bool
	envdir          string // WALE_ENVDIR, for commands that we write for others
}

// credentials are those that have options; the rest is read by the stores.
type credentials struct {
	awsAccessKeyID     string
	awsInstanceProfile bool
	wabsAccountName    string
}

// loadConfig reads options and variables, once. Its error has a complaint
// for each that is wrong, with its name and what to write instead.
func (a *app) loadConfig() (config, error) {
	if a.flags.awsAccessKeyID != "" && a.flags.awsInstanceProfile {
		return config{}, usagef("--aws-access-key-id cannot be combined with --aws-instance-profile")
	}
	if a.envErr != nil {
		return config{}, complaints{a.envErr} // whatever else is missing may stand there
	}
	r := &reader{env: a.env}
	r.complain(a.logErr)
	var c config
	var err error
	c.prefix, err = choosePrefix(a.flags, a.env)
	r.complain(err)
	c.encryption = r.encryption(a.flags)
	c.credentials = r.credentials(a.flags, c.prefix.scheme)
	c.s3 = r.s3(a.flags, c.prefix, c.credentials)
	c.swift = r.swift(c.prefix)
	c.wabs = r.wabs(c.prefix, c.credentials)
	c.gs = r.gs(c.prefix)
	c.stateRoot = r.stateRoot()
	c.layout = r.layout()
	c.level = r.compression()
	c.pushTimeout = r.duration("WALE_PUSH_TIMEOUT", 60*time.Second)
	if c.pushTimeout == 0 {
		r.complain(fault.BadSetting.Errorf("WALE_PUSH_TIMEOUT: 0 leaves wal-push no time: want a duration such as 60s"))
	}
	c.poolMemory = r.bytes("WALE_POOL_MEMORY", 256<<20)
	c.fetchRetry = r.duration("WALE_FETCH_RETRY", 30*time.Second)
	c.prefetchBytes = r.bytes("WALE_PREFETCH_BYTES", 256<<20)
	if c.pushMemory = r.bytes("WALE_MEMORY", 0); c.pushMemory != 0 && c.pushMemory < leastPushMemory {
		r.complain(fault.BadSetting.Errorf("WALE_MEMORY: %q: want at least %d bytes, or 0", a.env["WALE_MEMORY"], leastPushMemory))
	}
	c.attempts = r.attempts()
	c.allowNewCluster = r.boolean("WALE_ALLOW_NEW_CLUSTER")
	c.envdir = a.env["WALE_ENVDIR"]
	if len(r.complaints) > 0 {
		return config{}, r.complaints
	}
	return c, nil
}

// complaints are errors of which each is a record.
type complaints []error

func (c complaints) Error() string   { return errors.Join(c...).Error() }
func (c complaints) Unwrap() []error { return c }

// A reader reads variables and collects what is wrong with them.
type reader struct {
	env        environ
	complaints complaints
}

func (r *reader) complain(err error) {
	if err != nil {
		r.complaints = append(r.complaints, err)
	}
}

func (r *reader) credentials(f globalFlags, scheme string) credentials {
	c := credentials{
		awsAccessKeyID:     f.awsAccessKeyID,
		awsInstanceProfile: f.awsInstanceProfile,
		wabsAccountName:    f.wabsAccountName,
	}
	if c.awsAccessKeyID == "" {
		c.awsAccessKeyID = r.env["AWS_ACCESS_KEY_ID"]
	}
	if c.wabsAccountName == "" {
		c.wabsAccountName = r.env["WABS_ACCOUNT_NAME"]
	}
	// Other stores don't care what this says.
	if scheme == "s3" && !c.awsInstanceProfile {
		c.awsInstanceProfile = r.boolean("AWS_INSTANCE_PROFILE")
	}
	return c
}

// stateRoot never falls back to a folder that depends on where we run: that is
// the data directory when PostgreSQL runs us.
func (r *reader) stateRoot() string {
	if dir := r.env["WALE_STATE_DIR"]; dir != "" {
		if !filepath.IsAbs(dir) {
			r.complain(fault.BadSetting.Errorf("WALE_STATE_DIR: %q is a relative path: want an absolute one", dir))
		}
		return filepath.Clean(dir)
	}
	if dir := r.env["XDG_CACHE_HOME"]; filepath.IsAbs(dir) {
		return filepath.Join(dir, "wal-e")
	}
	return "/var/cache/wal-e"
}

func (r *reader) layout() compat.Layout {
	l := compat.Layout(r.env["WALE_LAYOUT"])
	switch l {
	case "", compat.Classic, compat.Dedup:
		return l
	}
	r.complain(fault.BadSetting.Errorf("WALE_LAYOUT: %q is no layout: want dedup or classic", string(l)))
	return ""
}

func (r *reader) compression() int {
	value := r.env["WALE_COMPRESSION"]
	if value == "" {
		return 1
	}
	method, level, given := strings.Cut(value, ":")
	n, err := 1, error(nil)
	if given {
		n, err = strconv.Atoi(level)
	}
	if method != "zstd" || err != nil || n < 1 || n > 22 {
		r.complain(fault.BadSetting.Errorf("WALE_COMPRESSION: %q: want zstd, or zstd:LEVEL with a level of 1 (fastest) to 22", value))
		return 1
	}
	return n
}

// duration reads a duration in Go's form, or a number of seconds.
func (r *reader) duration(name string, unset time.Duration) time.Duration {
	value := strings.TrimSpace(r.env[name])
	if value == "" {
		return unset
	}
	d, err := time.ParseDuration(value)
	if err != nil {
		d, err = time.ParseDuration(value + "s")
	}
	if err != nil || d < 0 {
		r.complain(fault.BadSetting.Errorf("%s: %q is no duration: want a form like 90s, 2m or 1h30m, or a number of seconds", name, value))
		return unset
	}
	return d
}

// bytes reads a size as PostgreSQL writes it: a number of bytes, or of kB, MB or
// GB of 1024.
func (r *reader) bytes(name string, unset int64) int64 {
	value := strings.TrimSpace(r.env[name])
	if value == "" {
		return unset
	}
	number, unit := value, int64(1)
	for suffix, size := range map[string]int64{"kB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30} {
		if n, ok := strings.CutSuffix(value, suffix); ok {
			number, unit = strings.TrimSpace(n), size
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/unit {
		r.complain(fault.BadSetting.Errorf("%s: %q is no size: want a number of bytes, or a form like 64MB or 1GB", name, value))
		return unset
	}
	return n * unit
}

func (r *reader) attempts() int {
	value := r.env["WALE_RETRIES"]
	if value == "" {
		return 0
	}
	n, err := strconv.Atoi(value)
	if err != nil {
		r.complain(fault.BadSetting.Errorf("WALE_RETRIES: %q: want a number of attempts, or 0 for no bound", value))
		return 0
	}
	if n <= 0 {
		return -1
	}
	return n
}

func (r *reader) boolean(name string) bool {
	switch value := r.env[name]; strings.ToLower(value) {
	case "1", "true":
		return true
	case "", "0", "false":
		return false
	default:
		r.complain(fault.BadSetting.Errorf("%s: %q: want 1 or true, 0 or false", name, value))
		return false
	}
}

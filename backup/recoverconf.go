package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"wal-e/internal/postgres"
)

// A serverConf is the configuration that a server on a data directory would
// read, as far as files tell.
type serverConf struct {
	present  bool // there is a postgresql.conf
	settings map[string]string
}

// readServerConf reads postgresql.conf with what it includes, then
// postgresql.auto.conf. It is for warnings: what can't be read or parsed is
// passed over.
func readServerConf(dir string) serverConf {
	c := serverConf{settings: make(map[string]string)}
	name := filepath.Join(dir, "postgresql.conf")
	_, err := os.Stat(name)
	c.present = err == nil
	c.read(name, 0)
	c.read(filepath.Join(dir, autoConf), 0)
	return c
}

// Limits of what is read: PostgreSQL has the first one too.
const (
	maxIncludes = 10
	maxConf     = 8 << 20 // bytes
)

func (c *serverConf) read(name string, depth int) {
	info, err := os.Stat(name)
	if err != nil || !info.Mode().IsRegular() || info.Size() > maxConf || depth > maxIncludes {
		return
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return
	}
	for line := range strings.Lines(string(b)) {
		key, value, ok := parseConfLine(line)
		if !ok {
			continue
		}
		at := value
		if !filepath.IsAbs(at) {
			at = filepath.Join(filepath.Dir(name), at)
		}
		switch key {
		case "include", "include_if_exists":
			c.read(at, depth+1)
		case "include_dir":
			c.readDir(at, depth+1)
		default:
			c.settings[key] = value
		}
	}
}

// readDir reads the files of a folder that PostgreSQL would.
func (c *serverConf) readDir(dir string, depth int) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if name := e.Name(); strings.HasSuffix(name, ".conf") && !strings.HasPrefix(name, ".") {
			c.read(filepath.Join(dir, name), depth)
		}
	}
}

// parseConfLine parses "name = value # comment" (guc-file.l).
func parseConfLine(line string) (name, value string, ok bool) {
	line = strings.TrimSpace(line)
	end := strings.IndexAny(line, "= \t'#")
	if end <= 0 {
		return "", "", false
	}
	name = strings.ToLower(line[:end])
	rest := strings.TrimSpace(line[end:])
	rest = strings.TrimSpace(strings.TrimPrefix(rest, "="))
	if rest == "" {
		return "", "", false
	}
	if rest[0] != '\'' {
		value, _, _ = strings.Cut(rest, "#")
		return name, strings.TrimSpace(value), true
	}
	var out strings.Builder
	for i := 1; i < len(rest); i++ {
		switch c := rest[i]; {
		case c == '\'' && i+1 < len(rest) && rest[i+1] == '\'', c == '\\' && i+1 < len(rest):
			i++
			out.WriteByte(rest[i])
		case c == '\'':
			return name, out.String(), true
		default:
			out.WriteByte(c)
		}
	}
	return "", "", false
}

// archives tells whether a server with this configuration archives WAL.
func (c serverConf) archives() bool {
	if slices.Contains([]string{"", "off", "of", "false", "f", "no", "n", "0"}, strings.ToLower(c.settings["archive_mode"])) {
		return false
	}
	return c.settings["archive_command"] != "" || c.settings["archive_library"] != ""
}

// lowParameters returns what must be raised: a server in recovery refuses to be
// a hot standby with less than the primary had.
func (c serverConf) lowParameters(control *postgres.ControlFile, v postgres.Version) []string {
	var low []string
	for _, p := range []struct {
		name      string
		need, def int
		since     postgres.Version
	}{
		{"max_connections", control.MaxConnections, 100, 0},
		{"max_worker_processes", control.MaxWorkerProcesses, 8, 0},
		{"max_wal_senders", control.MaxWALSenders, 10, postgres.V12},
		{"max_prepared_transactions", control.MaxPreparedXacts, 0, 0},
		{"max_locks_per_transaction", control.MaxLocksPerXact, 64, 0},
	} {
		have := p.def
		if s, ok := c.settings[p.name]; ok {
			n, err := strconv.Atoi(s)
			if err != nil {
				continue
			}
			have = n
		}
		if v >= p.since && have < p.need {
			low = append(low, fmt.Sprintf("%s = %d (now %d)", p.name, p.need, have))
		}
	}
	return low
}

// setUpRecovery writes the settings and the signal file, and reads the
// configuration that stands then for what people should know.
func (f *fetcher) setUpRecovery(ctx context.Context) error {
	if f.marker != nil {
		if err := f.clearRecovery(); err != nil {
			return fmt.Errorf("remove recovery settings of an earlier try: %w", err)
		}
	}
	about := fmt.Sprintf("of backup %s, fetched at %s", f.b.Ref, f.cfg.Now().UTC().Format("2006-01-02 15:04:05 UTC"))
	if rep := f.report.Recovery; rep != nil {
		if err := f.writeRecovery(rep, about); err != nil {
			return fmt.Errorf("write recovery settings: %w", err)
		}
	}
	f.adviseConfiguration(ctx, readServerConf(f.dir))
	return nil
}

// clearRecovery removes what an earlier try with other options wrote.
func (f *fetcher) clearRecovery() error {
	names := []string{recoverySignal, standbySignal}
	if !f.isKept(recoveryConf, false) {
		names = append(names, recoveryConf)
	}
	for _, name := range names {
		if err := os.Remove(filepath.Join(f.dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	conf, err := os.ReadFile(filepath.Join(f.dir, autoConf))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if without := appendBlock(conf, "", nil); err == nil && !bytes.Equal(conf, without) {
		err = f.putFile(autoConf, without, f.fileMode())
	}
	return err
}

func (f *fetcher) writeRecovery(rep *RecoveryReport, about string) error {
	auto := rep.Settings
	if rep.File != autoConf {
		auto = rep.AutoSettings
		text := appendBlock(nil, about, rep.Settings)
		if err := f.putFile(rep.File, text, f.fileMode()); err != nil {
			return err
		}
	}
	conf, err := os.ReadFile(filepath.Join(f.dir, autoConf))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := f.putFile(autoConf, appendBlock(conf, about, auto), f.fileMode()); err != nil {
		return err
	}
	if rep.Signal == "" {
		return nil
	}
	return f.putFile(rep.Signal, nil, f.fileMode())
}

// adviseConfiguration says what the operator should change before the start.
func (f *fetcher) adviseConfiguration(ctx context.Context, c serverConf) {
	recovers := f.cfg.Recover != nil
	if c.archives() && !recovers {
		f.warn(ctx, "the restored cluster archives WAL",
			"It has the system identifier of the original: on the same archive the two collide at the next promotion.",
			"Set archive_mode = off before the first start, unless the original is gone for good.")
	}
	if f.control != nil {
		if low := c.lowParameters(f.control, f.version); c.present && recovers && len(low) > 0 {
			f.warn(ctx, "settings are lower than recovery needs",
				"The original had more; a server in recovery that can be read from needs at least: "+strings.Join(low, ", ")+".",
				"Raise them before the first start.")
		}
	}
	if !c.present {
		f.next("There is no postgresql.conf in %s. Name the one to use, as in: postgres -D %s -c data_directory=%s -c config_file=/etc/postgresql/%s/main/postgresql.conf",
			f.dir, f.dir, f.dir, f.version.Major())
		if f.control != nil && recovers {
			f.next("That configuration needs at least max_connections = %d, max_worker_processes = %d, max_wal_senders = %d, max_prepared_transactions = %d, max_locks_per_transaction = %d.",
				f.control.MaxConnections, f.control.MaxWorkerProcesses, f.control.MaxWALSenders, f.control.MaxPreparedXacts, f.control.MaxLocksPerXact)
		}
	}
}

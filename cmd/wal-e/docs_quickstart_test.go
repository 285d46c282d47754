package main_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"wal-e/internal/enginetest"
	"wal-e/internal/pgtest"
)

// A page is a document whose blocks of sh are run one after the other, with other
// folders and hosts.
type page struct {
	name    string
	dir     string // where /etc, /srv and the like are
	bin     string // folder of wal-e
	blocks  []string
	replace *strings.Replacer
	env     []string
}

// newPage reads docs/NAME. Pairs of what stands in it and what it is here may be given
// beside the folders.
func newPage(t *testing.T, name string, pairs ...string) *page {
	t.Helper()
	p := &page{name: "docs/" + name, dir: pgtest.TempDir(t), bin: filepath.Dir(pgtest.Binary(t))}
	p.env = []string{
		"PATH=" + p.bin + ":" + filepath.Dir(pgtest.Tool(t, "pg_controldata")) + ":" + os.Getenv("PATH"),
		"WALE_LOG_DESTINATION=stderr", "WALE_STATE_DIR=" + filepath.Join(p.dir, "state"),
	}
	for _, folder := range []string{"/etc/wal-e.d", "/srv/"} {
		pairs = append(pairs, folder, p.dir+folder)
	}
	p.replace = strings.NewReplacer(pairs...)
	p.blocks = p.kind(t, "sh")
	return p
}

// kind returns the blocks of a kind, with what is other here.
func (p *page) kind(t *testing.T, kind string) (blocks []string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("../..", p.name))
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range strings.Split(string(b), "\n```"+kind+"\n")[1:] {
		block, _, _ = strings.Cut(block, "\n```")
		blocks = append(blocks, p.replace.Replace(block))
	}
	return blocks
}

// archiveCommand returns the one that the page sets.
func (p *page) archiveCommand(t *testing.T) string {
	t.Helper()
	command := regexp.MustCompile(`(?m)^archive_command = '(.*)'$`)
	for _, block := range p.kind(t, "conf") {
		if m := command.FindStringSubmatch(block); m != nil {
			return m[1]
		}
	}
	t.Fatalf("%s sets no archive_command", p.name)
	return ""
}

// next runs the next block, of which word is a part, with what is typed, and returns
// what it printed. Pairs of what stands in this block and what it is here may be given.
func (p *page) next(t *testing.T, c *pgtest.Cluster, word, typed string, pairs ...string) string {
	t.Helper()
	if len(p.blocks) == 0 || !strings.Contains(p.blocks[0], word) {
		t.Fatalf("%s: %q isn't the next of %q", p.name, word, p.blocks)
	}
	script := strings.NewReplacer(pairs...).Replace(p.blocks[0])
	p.blocks = p.blocks[1:]
	cmd := c.Command(t, "bash", "-euo", "pipefail", "-c", script)
	cmd.Env = append(append(cmd.Env, p.env...), "PGDATA="+c.Dir)
	cmd.Stdin = strings.NewReader(typed)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s\n%s", p.name, err, script, out)
	}
	if len(typed) > 3 && strings.Contains(string(out), typed) {
		t.Errorf("%s: a block prints the secret:\n%s", p.name, script)
	}
	return string(out)
}

func (p *page) end(t *testing.T) {
	t.Helper()
	if len(p.blocks) > 0 {
		t.Errorf("%s: blocks that this test doesn't know: %q", p.name, p.blocks)
	}
}

// makeFolder makes the folder of settings, as the page's console has it.
func (p *page) makeFolder(t *testing.T, c *pgtest.Cluster) string {
	t.Helper()
	dir := filepath.Join(p.dir, "etc/wal-e.d/env")
	if out, err := c.Command(t, "mkdir", "-p", dir, filepath.Join(p.dir, "srv")).CombinedOutput(); err != nil {
		t.Fatalf("mkdir: %v\n%s", err, out)
	}
	return dir
}

// A quickStart is a page about a store.
type quickStart struct {
	page     string
	settings []string // a part of each block of settings
	open     func(t *testing.T) started
}

// started is a store's server, and how the page meets it.
type started struct {
	pairs  []string // what stands in the page for a host, and what it is here
	secret string   // that is typed
	env    []string // what only an emulator needs
}

func quickStarts() []quickStart {
	return []quickStart{
		{"files", []string{"WALE_FILE_PREFIX"}, func(*testing.T) started { return started{} }},
		{"s3", []string{"AWS_SECRET_ACCESS_KEY", "WALE_S3_ENDPOINT"}, func(t *testing.T) started {
			s := enginetest.MinIO(t)
			s.CreateBucket(t, "archives")
			return started{pairs: []string{"https+path://minio.example.com:9000", s.Endpoint(), "AKIDEXAMPLE", s.AccessKey}, secret: s.SecretKey}
		}},
		{"azure", []string{"WABS_SAS_TOKEN", "WALE_WABS_ENDPOINT"}, func(t *testing.T) started {
			s := enginetest.Azurite(t)
			s.CreateContainer(t, "archives")
			return started{
				pairs:  []string{"https://accountname.blob.core.usgovcloudapi.net", s.URL, "accountname", s.Account},
				secret: s.SAS(t, "archives", "rcl", time.Now().Add(time.Hour)),
			}
		}},
		{"google", []string{"GOOGLE_APPLICATION_CREDENTIALS"}, func(t *testing.T) started {
			s := enginetest.GCS(t)
			s.CreateBucket(t, "archives")
			return started{env: []string{"STORAGE_EMULATOR_HOST=" + s.URL}}
		}},
		{"swift", []string{"SWIFT_PASSWORD"}, func(t *testing.T) started {
			s := enginetest.Swift(t, 1)
			s.CreateContainer(t, "archives", nil)
			return started{
				// TempAuth is quicker to start than Keystone.
				pairs: []string{
					"https://keystone.example.com:5000/v3", s.AuthURL, "echo 3 >", "echo 1 >", "echo archiver >", "echo " + s.User + " >",
					"echo backups > SWIFT_TENANT\n", "",
				},
				secret: s.Password,
			}
		}},
	}
}

// A newcomer who does what a quick start says gets an archive that restores, to the
// end of the WAL and to a moment.
func TestQuickStarts(t *testing.T) {
	t.Parallel()
	for _, q := range quickStarts() {
		t.Run(q.page, func(t *testing.T) {
			t.Parallel()
			store := q.open(t)
			p := newPage(t, "quickstart-"+q.page+".md", store.pairs...)
			p.env = append(p.env, store.env...)
			c := pgtest.Start(t, pgtest.Options{SegmentSizeMB: 1, DataChecksums: true, ArchiveCommand: p.archiveCommand(t), Env: p.env})
			c.Exec(t, "CREATE TABLE written AS SELECT 1 AS i")
			settings := p.makeFolder(t, c)
			for _, word := range q.settings {
				p.next(t, c, word, store.secret)
			}
			p.next(t, c, "wal-e check", "")
			server := p.env // knows nothing of the settings; restore_command does
			p.env = append(p.env[:len(p.env):len(p.env)], "WALE_ENVDIR="+settings)
			if out := p.next(t, c, "backup-push", ""); !strings.Contains(out, "base_0") {
				t.Errorf("backup-push and status don't name the backup:\n%s", out)
			}
			c.Exec(t, "INSERT INTO written VALUES (2)")
			p.next(t, c, "drill", "", "wal-e drill", "wal-e drill --pg-bindir="+pgtest.Require(t, c.Major).Bin+" --scratch="+pgtest.TempDir(t))
			at := moment(t, c)
			c.Exec(t, "INSERT INTO written VALUES (3)")
			c.WaitArchived(t, c.SwitchWAL(t))

			p.next(t, c, "LATEST", "")
			p.next(t, c, "--target-time", "", "2026-11-22 14:32:00+00", at)
			expect := map[string]string{"yesterday": "1,2"} // and the drill came to the end of the WAL
			if q.page == "files" {
				expect["restored"] = "1,2,3"
			}
			for dir, want := range expect {
				r := pgtest.Adopt(t, filepath.Join(p.dir, "srv", dir), pgtest.Options{Env: server})
				r.WaitRecovered(t)
				if got := r.Query(t, "SELECT string_agg(i::text, ',' ORDER BY i) FROM written"); got != want {
					t.Errorf("%s: rows %s in %s, want %s", p.name, got, dir, want)
				}
				r.Stop(t, pgtest.Immediate)
			}
			if out := p.next(t, c, "--policy", ""); !strings.Contains(out, "archive") {
				t.Errorf("check --policy doesn't name the store:\n%s", out)
			}
			if q.page == "files" {
				p.encryption(t, c)
			}
			p.end(t)
		})
	}
}

// encryption does what the last part of the page about files says, and restores with
// the private key alone.
func (p *page) encryption(t *testing.T, c *pgtest.Cluster) {
	t.Helper()
	k := newKeyPair(t, "dba@example.com")
	copied := c.Command(t, "cp", k.public, filepath.Join(p.dir, "etc/wal-e.d/backup.pub"))
	if out, err := copied.CombinedOutput(); err != nil {
		t.Fatalf("cp: %v\n%s", err, out)
	}
	out := p.next(t, c, "key init", "")
	epoch := regexp.MustCompile(`epoch ([0-9A-Za-z]+)`).FindStringSubmatch(out)
	if epoch == nil {
		t.Errorf("key init names no epoch:\n%s", out)
	}
	dir := filepath.Join(p.dir, "srv/opened")
	fetch := c.Command(t, filepath.Join(p.bin, "wal-e"), "backup-fetch", "--recover", dir, "LATEST")
	fetch.Env = append(append(fetch.Env, p.env...), "WALE_GPG_PRIVATE_KEY_FILE="+k.private, "WALE_GPG_PASSPHRASE_FILE="+k.passphrase)
	if out, err := fetch.CombinedOutput(); err != nil {
		t.Fatalf("backup-fetch: %v\n%s", err, out)
	}
	r := pgtest.Adopt(t, dir, pgtest.Options{Env: append(p.env, "WALE_GPG_PRIVATE_KEY_FILE="+k.private, "WALE_GPG_PASSPHRASE_FILE="+k.passphrase)})
	r.WaitRecovered(t)
	if got := r.Query(t, "SELECT count(*) FROM written"); got != "3" {
		t.Errorf("the encrypted backup has %s rows, want 3", got)
	}
}

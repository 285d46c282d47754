package main_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"wal-e/internal/enginetest"
	"wal-e/internal/pgtest"
)

// secretsIn returns the secrets of stores in an environment. Of a shared access
// signature the signature itself is one.
func secretsIn(env []string) (secrets []string) {
	values := make(map[string]string)
	for _, v := range env {
		name, value, _ := strings.Cut(v, "=")
		values[name] = value
	}
	for _, name := range []string{"AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN", "WABS_ACCESS_KEY", "SWIFT_PASSWORD"} {
		if values[name] != "" {
			secrets = append(secrets, values[name])
		}
	}
	if token, err := url.ParseQuery(strings.TrimPrefix(values["WABS_SAS_TOKEN"], "?")); err == nil && token.Has("sig") {
		secrets = append(secrets, token.Get("sig"), url.QueryEscape(token.Get("sig")))
	}
	if path := values["GOOGLE_APPLICATION_CREDENTIALS"]; path != "" {
		var account struct {
			Key string `json:"private_key"`
		}
		if data, err := os.ReadFile(path); err == nil && json.Unmarshal(data, &account) == nil && account.Key != "" {
			lines := strings.Split(account.Key, "\n")
			secrets = append(secrets, lines[len(lines)/2])
		}
	}
	return secrets
}

// holdsSecret reports which of secrets is in a text, without telling it.
func holdsSecret(text string, secrets []string) bool {
	return slices.ContainsFunc(secrets, func(s string) bool { return strings.Contains(text, s) })
}

// A watch looks at the command lines of all processes.
type watch struct {
	mu      sync.Mutex
	secrets []string
	seen    map[string]bool // programs that showed one
	looked  int
	stop    chan struct{}
	done    chan struct{}
}

func newWatch() *watch {
	w := &watch{seen: make(map[string]bool), stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(w.done)
		for {
			select {
			case <-w.stop:
				return
			case <-time.After(50 * time.Millisecond):
				w.look()
			}
		}
	}()
	return w
}

func (w *watch) add(secrets []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.secrets = append(w.secrets, secrets...)
}

func (w *watch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return
	}
	for _, file := range files {
		line, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		program, args, _ := strings.Cut(string(line), "\x00")
		if strings.Contains(args, "backup-push") {
			w.looked++
		}
		if holdsSecret(string(line), w.secrets) {
			w.seen[program] = true
		}
	}
}

// A secretStore is one whose secrets must not be seen.
type secretStore struct {
	vars  map[string]string
	wrong map[string]string // instead: credentials of the same kind that aren't taken
}

func secretStores(t *testing.T) map[string]func(t *testing.T) secretStore {
	t.Helper()
	return map[string]func(t *testing.T) secretStore{
		"s3": func(t *testing.T) secretStore {
			s := enginetest.MinIO(t)
			env := s3Env(t, s)
			env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"], env["AWS_SESSION_TOKEN"] = s.Session(t, "")
			return secretStore{env, map[string]string{"AWS_SECRET_ACCESS_KEY": "wrong-" + rand.Text(), "AWS_SESSION_TOKEN": "wrong-" + rand.Text()}}
		},
		"wabs key": func(t *testing.T) secretStore {
			return secretStore{wabsEnv(t, enginetest.Azurite(t)), map[string]string{"WABS_ACCESS_KEY": "d3JvbmcgYWNjZXNzIGtleSBvZiBhIHRlc3Q="}}
		},
		"wabs sas": func(t *testing.T) secretStore {
			s := enginetest.Azurite(t)
			env := wabsEnv(t, s)
			delete(env, "WABS_ACCESS_KEY")
			env["WABS_SAS_TOKEN"] = s.SAS(t, "archives", "rcdl", time.Now().Add(time.Hour))
			return secretStore{env, map[string]string{"WABS_SAS_TOKEN": strings.Replace(env["WABS_SAS_TOKEN"], "sig=", "sig=AAAA", 1)}}
		},
		"swift": func(t *testing.T) secretStore {
			s := enginetest.Swift(t, 1)
			s.CreateContainer(t, "archives", nil)
			return secretStore{map[string]string{
				"WALE_SWIFT_PREFIX": "swift://archives/main", "SWIFT_AUTH_VERSION": "1",
				"SWIFT_AUTHURL": s.AuthURL, "SWIFT_USER": s.User, "SWIFT_PASSWORD": s.Password,
			}, map[string]string{"SWIFT_PASSWORD": "wrong-" + rand.Text()}}
		},
		"gs": func(t *testing.T) secretStore {
			s := enginetest.GCS(t)
			s.CreateBucket(t, "archives")
			return secretStore{
				map[string]string{"WALE_GS_PREFIX": "gs://archives/some/path", "STORAGE_EMULATOR_HOST": s.URL},
				map[string]string{"STORAGE_EMULATOR_HOST": "", "GOOGLE_APPLICATION_CREDENTIALS": refusedAccount(t)},
			}
		},
	}
}

// refusedAccount is a service account's file whose login is refused, and all that
// it sent told to it again.
func refusedAccount(t *testing.T) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		w.WriteHeader(http.StatusBadRequest)
		_ = json.NewEncoder(w).Encode(map[string]string{"error": "invalid_grant", "error_description": r.Form.Encode()})
	}))
	t.Cleanup(s.Close)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(map[string]string{
		"type": "service_account", "client_email": "archiver@project.iam.gserviceaccount.com", "private_key_id": "1",
		"private_key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), "token_uri": s.URL,
	})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(pgtest.TempDir(t), "account.json")
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// No command shows a secret of its store: not in what it prints, not in its
// records, whatever their form, and not in a list of processes. runCommand looks at
// what is printed, here and in all other tests.
func TestSecrets(t *testing.T) {
	t.Parallel()
	testSecretsOf(t, "s3")
}

// TestSoakSecrets is the same for every store; what moves data is run on each of them
// by TestStorages, too.
func TestSoakSecrets(t *testing.T) {
	if os.Getenv("WALE_SOAK") == "" {
		t.Skip("takes a minute of processor time: make soak")
	}
	testSecretsOf(t, slices.Collect(maps.Keys(secretStores(t)))...)
}

func testSecretsOf(t *testing.T, stores ...string) {
	w := newWatch()
	t.Run("stores", func(t *testing.T) {
		for _, name := range stores {
			open := secretStores(t)[name]
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				testSecrets(t, w, open(t))
			})
		}
	})
	close(w.stop)
	<-w.done
	if w.looked == 0 || len(w.seen) > 0 {
		t.Errorf("backup-push was seen %d times in the list of processes, and secrets in that of %q; want some and none",
			w.looked, slices.Sorted(maps.Keys(w.seen)))
	}
}

func testSecrets(t *testing.T, w *watch, s secretStore) {
	a := newStorageArchive(t, s.vars)
	w.add(secretsIn(a.env))
	c := a.start(t, pgtest.Options{DataChecksums: true})
	first := a.push(t, c)
	second := a.push(t, c)
	segment := c.SwitchWAL(t)
	c.WaitArchived(t, segment)
	commands := [][]string{
		{"version"}, {"check", c.Dir}, {"check", "--policy", "collector"}, {"wal-push", "pg_wal/" + segment},
		{"wal-fetch", segment, target(t)}, {"backup-push", c.Dir}, {"backup-list", "--detail"}, {"backup-fetch", target(t), "LATEST"}, {"verify", "--all"}, {"wal-prefetch", c.Dir, segment}, {"wal-show"}, {"wal-verify"}, {"ls", "LATEST"}, {"cat", "LATEST", "PG_VERSION"},
		{"diff", first.Name, second.Name}, {"backup-mark", "--keep", second.Name}, {"backup-mark", "--release", second.Name},
		{"adopt-system", "7421838103526743210"}, {"upgrade-layout"}, {"import", "--all"}, {"key", "list"}, {"drill", "--help"}, {"export", "--to", target(t), "LATEST"}, {"copy", "--to", "file://localhost" + target(t)}, {"explain"}, {"status", c.Dir}, {"report", "-o", target(t) + ".html"},
		{"delete", "retain", "1"}, {"delete", "--exclusive", "--confirm", "retain", "1"}, {"undelete", first.Name}, {"gc", "--exclusive"},
	}
	// No command is forgotten.
	_, list, _ := strings.Cut(a.must(t, c, "--help").stdout, "Subcommands:\n")
	list, _, _ = strings.Cut(list, "\n\n")
	for _, m := range regexp.MustCompile(`(?m)^  ([a-z-]+) `).FindAllStringSubmatch(list, -1) {
		if !slices.ContainsFunc(commands, func(args []string) bool { return args[0] == m[1] }) {
			t.Errorf("%s isn't among the commands that are tried", m[1])
		}
	}
	wrong := a.with("WALE_LOG_FORMAT=json")
	for name, value := range s.wrong {
		wrong.env = append(wrong.env, name+"="+value)
	}
	w.add(secretsIn(wrong.env))
	for _, args := range commands {
		for _, as := range []*archive{a, wrong} {
			cmd := as.command(t, c, args...)
			cmd.Dir = c.Dir
			cmd.Env = append(cmd.Env, "WALE_PUSH_TIMEOUT=3s", "WALE_FETCH_RETRY=1s")
			r := runCommand(t, cmd)
			if as == a && r.code != 0 && !slices.Contains([]string{"key", "undelete", "upgrade-layout", "import", "status", "wal-prefetch", "wal-verify"}, args[0]) {
				t.Errorf("%q: exit %d\n%s", args, r.code, r.stderr)
			}
		}
	}
}

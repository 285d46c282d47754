package enginetest

import (
	"crypto/rand"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

//go:embed testdata/keystone.py
var keystoneScript string

// KeystoneUser and the others are what a Keystone knows besides its
// administrator: a user in a project, both in the domain Default.
const (
	KeystoneUser     = "archiver"
	KeystonePassword = "wal pass"
	KeystoneProject  = "backups"
	KeystoneRegion   = "RegionOne"
)

// A KeystoneServer is an OpenStack Keystone, which gives tokens of auth v3.
type KeystoneServer struct {
	URL string // with /v3

	port    int
	admin   string // token
	project string // id of KeystoneProject
}

// Keystone starts a Keystone, which takes a quarter of a minute. It ends with
// the test.
func Keystone(t testing.TB) *KeystoneServer {
	t.Helper()
	k := &KeystoneServer{port: freePort(t)}
	k.URL = fmt.Sprintf("http://127.0.0.1:%d/v3", k.port)
	dir := t.TempDir()
	conf := filepath.Join(dir, "keystone.conf")
	for _, folder := range []string{"fernet", "credential"} {
		writeFernetKeys(t, filepath.Join(dir, folder))
	}
	text := fmt.Sprintf(`[DEFAULT]
log_file = %[1]s/keystone.log
[database]
connection = sqlite:///%[1]s/keystone.db
[token]
provider = fernet
[fernet_tokens]
key_repository = %[1]s/fernet
[fernet_receipts]
key_repository = %[1]s/fernet
[credential]
key_repository = %[1]s/credential
[identity]
password_hash_rounds = 4
`, dir)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	program(t, "keystone", "keystone-wsgi-public")
	cmd := exec.Command("/usr/bin/python3", "-c", keystoneScript, conf, fmt.Sprint(k.port), k.URL, KeystoneRegion)
	start(t, "keystone", cmd, answers(k.URL, http.StatusOK))
	k.populate(t)
	return k
}

// writeFernetKeys makes a repository of two keys, as keystone-manage would.
func writeFernetKeys(t testing.TB, dir string) {
	t.Helper()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"0", "1"} {
		var key [32]byte
		_, _ = rand.Read(key[:]) // it has no errors
		if err := os.WriteFile(filepath.Join(dir, name), []byte(base64.URLEncoding.EncodeToString(key[:])), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// populate creates the service user, whom Swift asks as, and ours.
func (k *KeystoneServer) populate(t testing.TB) {
	t.Helper()
	var login struct {
		Auth struct {
			Identity any `json:"identity"`
			Scope    any `json:"scope"`
		} `json:"auth"`
	}
	type object = map[string]any
	home := object{"id": "default"}
	login.Auth.Identity = object{"methods": []string{"password"}, "password": object{
		"user": object{"name": "admin", "password": "admin", "domain": home},
	}}
	login.Auth.Scope = object{"project": object{"name": "admin", "domain": home}}
	k.admin = k.call(t, http.MethodPost, "/auth/tokens", login, nil).Get("X-Subject-Token")

	roles := make(map[string]string)
	var known struct{ Roles []struct{ ID, Name string } }
	k.call(t, http.MethodGet, "/roles", nil, &known)
	for _, r := range known.Roles {
		roles[r.Name] = r.ID
	}
	for _, u := range []struct{ project, user, password, role string }{
		{"service", "swift", "swiftpass", "admin"},
		{KeystoneProject, KeystoneUser, KeystonePassword, "member"},
	} {
		var project struct{ Project struct{ ID string } }
		k.call(t, http.MethodPost, "/projects", object{"project": object{"name": u.project, "domain_id": "default"}}, &project)
		var user struct{ User struct{ ID string } }
		k.call(t, http.MethodPost, "/users", object{"user": object{"name": u.user, "password": u.password, "domain_id": "default"}}, &user)
		k.call(t, http.MethodPut, fmt.Sprintf("/projects/%s/users/%s/roles/%s", project.Project.ID, user.User.ID, roles[u.role]), nil, nil)
		k.project = project.Project.ID
	}
}

// Swift starts a Swift that this Keystone's tokens are for, and enters it into
// the catalogue.
func (k *KeystoneServer) Swift(t testing.TB, replicas int) *SwiftServer {
	t.Helper()
	port := freePort(t)
	var service struct{ Service struct{ ID string } }
	type object = map[string]any
	k.call(t, http.MethodPost, "/services", object{"service": object{"type": "object-store", "name": "swift"}}, &service)
	for _, kind := range []string{"public", "internal"} {
		k.call(t, http.MethodPost, "/endpoints", object{"endpoint": object{
			"interface": kind, "region_id": KeystoneRegion, "service_id": service.Service.ID,
			"url": fmt.Sprintf("http://127.0.0.1:%d/v1/AUTH_%%(tenant_id)s", port),
		}}, nil)
	}
	s := startSwift(t, replicas, port, fmt.Sprintf("http://127.0.0.1:%d", k.port))
	s.User, s.Password = KeystoneUser, KeystonePassword
	s.keystone = k
	return s
}

// token returns a token of KeystoneUser in KeystoneProject.
func (k *KeystoneServer) token(t testing.TB) string {
	t.Helper()
	type object = map[string]any
	home := object{"id": "default"}
	return k.call(t, http.MethodPost, "/auth/tokens", object{"auth": object{
		"identity": object{"methods": []string{"password"}, "password": object{
			"user": object{"name": KeystoneUser, "password": KeystonePassword, "domain": home},
		}},
		"scope": object{"project": object{"name": KeystoneProject, "domain": home}},
	}}, nil).Get("X-Subject-Token")
}

// call makes a request to Keystone and decodes the answer into result. It tries
// again for a while: over SQLite a busy Keystone answers that the database is
// locked.
func (k *KeystoneServer) call(t testing.TB, method, path string, body, result any) http.Header {
	t.Helper()
	var data []byte
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			t.Fatal(err)
		}
	}
	h := http.Header{"X-Auth-Token": {k.admin}, "Content-Type": {"application/json"}}
	var res *http.Response
	var err error
	for range 10 {
		if res, err = tryRequest(t.Context(), method, k.URL+path, h, data); err == nil || !strings.Contains(err.Error(), ": 500 ") {
			break
		}
		time.Sleep(200 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	if result != nil {
		answer, err := io.ReadAll(res.Body)
		if err == nil {
			err = json.Unmarshal(answer, result)
		}
		if err != nil {
			t.Fatalf("%s %s: %v", method, path, err)
		}
	}
	return res.Header
}

package enginetest

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"text/template"
	"time"
)

// swiftKinds are the servers of a node, one process each.
var swiftKinds = [...]string{"account", "container", "object"}

// A SwiftServer is an OpenStack Swift: a proxy in front of nodes, each of which
// holds one replica of everything. It speaks Swift's own protocol and, through
// its gateway, that of S3, which there has neither conditional PUTs nor a
// listing that is always up to date.
type SwiftServer struct {
	URL        string // of the proxy, and the endpoint of its S3 gateway; S3 wants path style and region us-east-1
	AuthURL    string // for auth v1; empty when Keystone checks tokens
	User       string // may do everything in its account; also the access key of S3
	Password   string // of User and of Reader; also the secret key of S3
	Reader     string // has only the rights that a container's ACL gives
	StorageURL string // of the account that User's tokens are for; empty when Keystone checks tokens

	t         testing.TB
	dir       string
	keystone  *KeystoneServer // nil: TempAuth
	memcached string          // address
	ports     []map[string]int
	proxy     *Process

	mu    sync.Mutex
	nodes []map[string]*Process // by kind; nil where killed
}

// Swift starts a Swift with as many nodes as replicas, and TempAuth, which
// knows auth v1. It ends with the test.
func Swift(t testing.TB, replicas int) *SwiftServer {
	t.Helper()
	s := startSwift(t, replicas, freePort(t), "")
	s.AuthURL = s.URL + "/auth/v1.0"
	s.User, s.Reader, s.Password = "test:tester", "test:reader", swiftPassword
	s.StorageURL, _ = s.Token(t)
	return s
}

// startSwift starts a Swift whose tokens the Keystone at keystoneURL checks;
// when that is empty, TempAuth does.
func startSwift(t testing.TB, replicas, proxyPort int, keystoneURL string) *SwiftServer {
	t.Helper()
	s := &SwiftServer{
		URL: fmt.Sprintf("http://127.0.0.1:%d", proxyPort),
		t:   t, dir: t.TempDir(),
		nodes: make([]map[string]*Process, replicas),
	}
	proxy := program(t, "swift", "swift-proxy-server")
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	data := swiftConfig{
		Dir: s.dir, User: me.Username, Proxy: proxyPort, Memcached: freePort(t), Keystone: keystoneURL,
		Ports: make([]map[string]int, replicas),
	}
	for n := range data.Ports {
		data.Ports[n] = make(map[string]int)
		for _, kind := range swiftKinds {
			data.Ports[n][kind] = freePort(t)
		}
	}
	data.write(t)
	s.ports = data.Ports

	arguments := []string{"-l", "127.0.0.1", "-p", fmt.Sprint(data.Memcached), "-m", "32"}
	if os.Getuid() == 0 {
		arguments = append(arguments, "-u", "nobody")
	}
	// They start side by side: each takes seconds to load its code.
	start(t, "memcached", exec.Command(program(t, "swift", "memcached"), arguments...), atOnce)
	for n := range replicas {
		s.StartNode(n)
	}
	s.memcached = fmt.Sprintf("127.0.0.1:%d", data.Memcached)
	s.proxy = start(t, "swift-proxy", exec.Command(proxy, filepath.Join(s.dir, "proxy.conf"), "-v"),
		answers(s.URL+"/healthcheck", http.StatusOK))
	for n := range replicas {
		s.AwaitNode(t, n)
	}
	return s
}

// atOnce is the check of a server that nobody waits for.
func atOnce(context.Context) error { return nil }

// await waits until a server that was started answers at url.
func (s *SwiftServer) await(t testing.TB, url string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	check := answers(url)
	for {
		err := check(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("swift does not answer: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// KillNode ends the servers of a node, the first being 0, as a crash does. With
// kinds (account, container, object) only those.
func (s *SwiftServer) KillNode(n int, kinds ...string) {
	if len(kinds) == 0 {
		kinds = swiftKinds[:]
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, kind := range kinds {
		if p := s.nodes[n][kind]; p != nil {
			p.Kill()
			delete(s.nodes[n], kind)
		}
	}
}

// StartNode starts those servers of a node that were killed. They need a few
// seconds before they answer.
func (s *SwiftServer) StartNode(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.nodes[n] == nil {
		s.nodes[n] = make(map[string]*Process)
	}
	for _, kind := range swiftKinds {
		if s.nodes[n][kind] == nil {
			name := fmt.Sprintf("swift-%s-%d", kind, n)
			cmd := exec.Command(program(s.t, "swift", "swift-"+kind+"-server"), s.conf(kind, n), "-v")
			s.nodes[n][kind] = start(s.t, name, cmd, atOnce)
		}
	}
}

// AwaitNode waits until the servers of a node answer.
func (s *SwiftServer) AwaitNode(t testing.TB, n int) {
	t.Helper()
	for _, kind := range swiftKinds {
		s.await(t, fmt.Sprintf("http://127.0.0.1:%d/healthcheck", s.ports[n][kind]))
	}
}

func (s *SwiftServer) conf(kind string, n int) string {
	return filepath.Join(s.dir, fmt.Sprintf("%s-%d.conf", kind, n))
}

// UpdateListings enters into the listings what was stored while servers were
// away, and makes their replicas equal. Daemons do this in time; here none of
// them runs, so listings lag until it is called. All servers must answer.
func (s *SwiftServer) UpdateListings(t testing.TB) {
	t.Helper()
	for _, kind := range []string{"object-updater", "container-replicator"} {
		server, _, _ := strings.Cut(kind, "-")
		var wg sync.WaitGroup
		for n := range s.nodes {
			cmd := exec.CommandContext(t.Context(), program(t, "swift", "swift-"+kind), s.conf(server, n), "once")
			wg.Go(func() {
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Errorf("swift-%s: %v\n%s", kind, err, out)
				}
			})
		}
		wg.Wait()
	}
}

// PendingListings returns how many entries wait for UpdateListings.
func (s *SwiftServer) PendingListings(t testing.TB) int {
	t.Helper()
	pending, err := filepath.Glob(filepath.Join(s.dir, "node*", "d1", "async_pending*", "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return len(pending)
}

// Token returns the storage URL of User's account and a token for it.
func (s *SwiftServer) Token(t testing.TB) (storageURL, token string) {
	t.Helper()
	if s.keystone != nil {
		return s.URL + "/v1/AUTH_" + s.keystone.project, s.keystone.token(t)
	}
	res := request(t, http.MethodGet, s.AuthURL, http.Header{"X-Auth-User": {s.User}, "X-Auth-Key": {s.Password}}, nil)
	return res.Header.Get("X-Storage-Url"), res.Header.Get("X-Auth-Token")
}

// ExpireTokens makes Swift forget all tokens of TempAuth. Those of Keystone it
// only asks about anew.
func (s *SwiftServer) ExpireTokens(t testing.TB) {
	t.Helper()
	c, err := net.Dial("tcp", s.memcached)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	answer := make([]byte, len("OK\r\n"))
	if _, err := io.WriteString(c, "flush_all\r\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, answer); err != nil || string(answer) != "OK\r\n" {
		t.Fatalf("memcached answers %q, %v", answer, err)
	}
}

// CreateContainer creates a container in User's account, with headers such as
// X-Container-Read: test:reader.
func (s *SwiftServer) CreateContainer(t testing.TB, name string, headers map[string]string) {
	t.Helper()
	url, token := s.Token(t)
	h := http.Header{"X-Auth-Token": {token}}
	for k, v := range headers {
		h.Set(k, v)
	}
	request(t, http.MethodPut, url+"/"+name, h, nil)
}

// Objects returns the names in a container of User's account that begin with
// prefix, as far as the listing that answers knows them.
func (s *SwiftServer) Objects(t testing.TB, container, prefix string) []string {
	t.Helper()
	at, token := s.Token(t)
	res := request(t, http.MethodGet, at+"/"+container+"?prefix="+url.QueryEscape(prefix), http.Header{"X-Auth-Token": {token}}, nil)
	names, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(names))
}

// AuthV2 starts a server for auth v2, which Keystone has given up: it takes
// User's password and tenant "test" for the region named region, and answers
// with a token of TempAuth. It returns the auth URL.
func (s *SwiftServer) AuthV2(t testing.TB, region string) string {
	t.Helper()
	handler := http.NewServeMux()
	handler.HandleFunc("POST /v2.0/tokens", func(w http.ResponseWriter, r *http.Request) {
		var asked struct {
			Auth struct {
				PasswordCredentials struct{ Username, Password string }
				TenantName          string
			}
		}
		err := json.NewDecoder(io.LimitReader(r.Body, 1<<16)).Decode(&asked)
		if a := asked.Auth; err != nil || a.PasswordCredentials.Username != "tester" ||
			a.PasswordCredentials.Password != s.Password || a.TenantName != "test" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		url, token := s.Token(t)
		endpoint := func(region, url string) map[string]string {
			return map[string]string{"region": region, "publicURL": url, "internalURL": url + "/internal", "adminURL": url + "/admin"}
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"access": map[string]any{
			"token": map[string]any{"id": token, "expires": time.Now().Add(time.Hour).UTC().Format(time.RFC3339)},
			"serviceCatalog": []any{map[string]any{"type": "object-store", "name": "swift", "endpoints": []any{
				endpoint("Elsewhere", "http://127.0.0.1:1/v1/nowhere"), endpoint(region, url),
			}}},
		}})
	})
	return serve(t, handler) + "/v2.0"
}

// request makes a request that must succeed.
func request(t testing.TB, method, url string, h http.Header, body []byte) *http.Response {
	t.Helper()
	res, err := tryRequest(t.Context(), method, url, h, body)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// tryRequest makes a request. The response's body is read already: it is what
// remains in it.
func tryRequest(ctx context.Context, method, url string, h http.Header, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header = h
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, err
	}
	if res.StatusCode/100 != 2 {
		return nil, fmt.Errorf("%s %s: %s: %.500s", method, url, res.Status, data)
	}
	res.Body = io.NopCloser(bytes.NewReader(data))
	return res, nil
}

//go:embed testdata/swift.conf
var swiftTemplate string

//go:embed testdata/rings.py
var swiftRings string

// swiftPassword is found by whoever looks for it in what a program prints.
const swiftPassword = "swift-password-0123456789"

// Password is that of all users of TempAuth.
func (swiftConfig) Password() string { return swiftPassword }

// swiftConfig is what the files of a Swift are made of.
type swiftConfig struct {
	Dir, User        string
	Proxy, Memcached int              // ports
	Keystone         string           // URL without /v3; empty for TempAuth
	Ports            []map[string]int // of each node, by kind
}

// write writes configuration and rings into the folder.
func (c swiftConfig) write(t testing.TB) {
	t.Helper()
	conf := template.Must(template.New("swift").Parse(swiftTemplate))
	file := func(name, section string, data any) {
		var text strings.Builder
		if err := conf.ExecuteTemplate(&text, section, data); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(c.Dir, name), []byte(text.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for n, ports := range c.Ports {
		for _, folder := range []string{fmt.Sprintf("node%d/d1", n), fmt.Sprintf("cache%d", n)} {
			if err := os.MkdirAll(filepath.Join(c.Dir, folder), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		for _, kind := range swiftKinds {
			file(fmt.Sprintf("%s-%d.conf", kind, n), "node", map[string]any{
				"Dir": c.Dir, "User": c.User, "Kind": kind, "Node": n, "Port": ports[kind],
			})
		}
	}
	file("proxy.conf", "proxy", c)

	nodes, err := json.Marshal(c.Ports)
	if err != nil {
		t.Fatal(err)
	}
	// One process instead of one per ring and device: each loads Swift anew.
	cmd := exec.CommandContext(t.Context(), "/usr/bin/python3", "-c", swiftRings, c.Dir, string(nodes))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make Swift's rings: %v\n%s", err, out)
	}
}

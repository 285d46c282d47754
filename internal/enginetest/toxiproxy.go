package enginetest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"testing"
)

// A Proxy stands between a client and a server and spoils their connection.
type Proxy struct {
	*Process
	Addr string // of the proxy: where the client connects to

	api string
}

// Toxiproxy starts a proxy in front of a server.
func Toxiproxy(t testing.TB, server string) *Proxy {
	t.Helper()
	port := freePort(t)
	p := &Proxy{Addr: fmt.Sprintf("127.0.0.1:%d", freePort(t)), api: fmt.Sprintf("http://127.0.0.1:%d", port)}
	cmd := exec.Command(program(t, "toxiproxy", "bin/toxiproxy-server"), "-host", "127.0.0.1", "-port", fmt.Sprint(port))
	p.Process = start(t, "toxiproxy", cmd, answers(p.api+"/version", 200))
	p.post(t, "/proxies", map[string]any{"name": "server", "listen": p.Addr, "upstream": server, "enabled": true})
	return p
}

// Add spoils the connection from now on: kind is a toxic of toxiproxy, such as
// latency, timeout, reset_peer, limit_data or bandwidth, stream is upstream (to
// the server) or downstream, toxicity the share of connections.
func (p *Proxy) Add(t testing.TB, kind, stream string, toxicity float64, attributes map[string]int) {
	t.Helper()
	p.post(t, "/proxies/server/toxics", map[string]any{
		"name": kind + "_" + stream, "type": kind, "stream": stream, "toxicity": toxicity, "attributes": attributes,
	})
}

// Clear takes every fault away.
func (p *Proxy) Clear(t testing.TB) {
	t.Helper()
	p.post(t, "/reset", nil)
}

func (p *Proxy) post(t testing.TB, path string, body any) {
	t.Helper()
	if err := p.tryPost(t.Context(), path, body); err != nil {
		t.Fatalf("toxiproxy: POST %s: %v", path, err)
	}
}

func (p *Proxy) tryPost(ctx context.Context, path string, body any) error {
	data, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.api+path, bytes.NewReader(data))
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if text, _ := io.ReadAll(io.LimitReader(res.Body, 1000)); res.StatusCode/100 != 2 {
		return fmt.Errorf("%s: %s", res.Status, strings.TrimSpace(string(text)))
	}
	return nil
}

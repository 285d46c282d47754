package enginetest

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
)

// A Reverse is a proxy that understands HTTP, in front of a server: it can answer
// in its place, or lose an answer.
type Reverse struct {
	Addr string // HOST:PORT of the proxy

	mu     sync.Mutex
	answer func(http.ResponseWriter, *http.Request) bool
	lose   func(*http.Request) bool
}

// ReverseProxy starts a proxy in front of a server at HOST:PORT, which passes
// everything on. It ends with the test.
func ReverseProxy(t testing.TB, server string) *Reverse {
	t.Helper()
	r := new(Reverse)
	proxy := &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(&url.URL{Scheme: "http", Host: server})
			p.Out.Host = p.In.Host // it may be signed
		},
		ModifyResponse: func(res *http.Response) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			if res.StatusCode/100 == 2 && r.lose != nil && r.lose(res.Request) {
				return errLost
			}
			return nil
		},
		// Who asked sees the connection end, whatever the server did.
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		answered := r.answer != nil && r.answer(w, req)
		r.mu.Unlock()
		if !answered {
			proxy.ServeHTTP(w, req)
		}
	}))
	t.Cleanup(s.Close)
	r.Addr = strings.TrimPrefix(s.URL, "http://")
	return r
}

var errLost = errors.New("the answer is lost")

// Answer makes the proxy ask f first, which reports whether it has answered
// itself; nil ends that. One request is asked about at a time.
func (r *Reverse) Answer(f func(http.ResponseWriter, *http.Request) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = f
}

// Lose makes the proxy keep the answers back for which f is true, of requests that
// succeeded; nil ends that.
func (r *Reverse) Lose(f func(*http.Request) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lose = f
}

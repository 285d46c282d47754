package enginetest

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// serve runs a small server within the test and returns its URL.
func serve(t testing.TB, h http.Handler) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

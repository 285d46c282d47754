package enginetest_test

import (
	"net/http"
	"strings"
	"testing"

	"wal-e/internal/enginetest"
)

// The rest of Swift is tested by those who store something in it.
func TestSwift(t *testing.T) {
	t.Parallel()
	s := enginetest.Swift(t, 1)
	s.CreateContainer(t, "some", map[string]string{"X-Container-Read": s.Reader})
	url, token := s.Token(t)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, url+"/some/object", strings.NewReader("content"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Auth-Token", token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusCreated {
		t.Errorf("PUT of an object = %s, want %d", res.Status, http.StatusCreated)
	}
}

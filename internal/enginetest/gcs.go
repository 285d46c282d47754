package enginetest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"testing"
)

// A GCSServer is an emulator of Google Cloud Storage. It checks the conditions
// of requests and no credentials.
type GCSServer struct {
	URL string

	*Process
}

// GCS starts an emulator of Google Cloud Storage that holds no bucket, and
// keeps objects in memory. It ends with the test.
func GCS(t testing.TB) *GCSServer {
	t.Helper()
	port := freePort(t)
	s := &GCSServer{URL: fmt.Sprintf("http://127.0.0.1:%d", port)}
	// On a file system it can't have an object and a folder of one name.
	cmd := exec.Command(program(t, "gcs", "bin/fake-gcs-server"),
		"-backend", "memory", "-log-level", "warn", "-scheme", "http",
		"-host", "127.0.0.1", "-port", fmt.Sprint(port), "-public-host", fmt.Sprintf("127.0.0.1:%d", port))
	s.Process = start(t, "fake-gcs-server", cmd, answers(s.URL+"/storage/v1/b?project=test", http.StatusOK))
	return s
}

// CreateBucket creates a bucket.
func (s *GCSServer) CreateBucket(t testing.TB, name string) {
	t.Helper()
	body, err := json.Marshal(map[string]string{"name": name})
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.Post(s.URL+"/storage/v1/b?project=test", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Fatalf("create bucket %s: %s", name, res.Status)
	}
}

// Objects returns the names of all objects in a bucket, in order.
func (s *GCSServer) Objects(t testing.TB, bucket string) []string {
	t.Helper()
	res := request(t, http.MethodGet, s.URL+"/storage/v1/b/"+bucket+"/o?fields=items(name)", nil, nil)
	var page struct{ Items []struct{ Name string } }
	if err := json.NewDecoder(res.Body).Decode(&page); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, o := range page.Items {
		names = append(names, o.Name)
	}
	return names
}

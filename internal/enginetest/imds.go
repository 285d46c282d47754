package enginetest

import (
	"encoding/json"
	"io"
	"net/http"
	"testing"
	"time"
)

// Credentials are what an instance of EC2 has.
type Credentials struct {
	AccessKey, SecretKey, Token string
	Expires                     time.Time
}

// IMDS is the metadata service of an instance of EC2, version 2, which hands out
// what current returns; it is called for one request at a time or several. The URL
// goes into AWS_EC2_METADATA_SERVICE_ENDPOINT.
func IMDS(t testing.TB, current func() Credentials) (url string) {
	t.Helper()
	const token = "imds-token"
	h := http.NewServeMux()
	h.HandleFunc("PUT /latest/api/token", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "21600")
		_, _ = io.WriteString(w, token)
	})
	guarded := func(f http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Aws-Ec2-Metadata-Token") != token {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			f(w, r)
		}
	}
	const path = "/latest/meta-data/iam/security-credentials/"
	h.HandleFunc("GET "+path, guarded(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "role") }))
	h.HandleFunc("GET "+path+"role", guarded(func(w http.ResponseWriter, _ *http.Request) {
		c := current()
		_ = json.NewEncoder(w).Encode(map[string]string{
			"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": c.AccessKey, "SecretAccessKey": c.SecretKey, "Token": c.Token,
			"Expiration": c.Expires.UTC().Format(time.RFC3339),
		})
	}))
	return serve(t, h)
}

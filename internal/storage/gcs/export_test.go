package gcs

import (
	"io"
	"net/http"
	"strconv"

	"google.golang.org/api/googleapi"
)

// DecodeError is for the fuzz test: what is made of an answer that is no success.
func DecodeError(status int, body io.Reader) error {
	return translate(googleapi.CheckResponse(&http.Response{
		StatusCode: status, Header: http.Header{statusHeader: {strconv.Itoa(status)}},
		Body: &bounded{ReadCloser: io.NopCloser(body), left: maxError, end: io.EOF},
	}))
}

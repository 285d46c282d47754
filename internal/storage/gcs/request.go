package gcs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/oauth2"
	"google.golang.org/api/googleapi"

	"wal-e/internal/storage"
)

const (
	maxAnswer = 16 << 20 // bytes; a page of 1000 names of 1 KiB takes up to 6 MiB
	maxError  = 64 << 10 // bytes
)

// A carrier sends the client library's requests. It knows tokens, which the
// library renews on a schedule of its own, and bounds the answers that the library
// reads as a whole.
type carrier struct {
	next   http.RoundTripper
	tokens *tokens // nil: none are needed
}

func (c *carrier) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	content := req.Method == http.MethodGet && req.URL.Query().Get("alt") == "media"
	if content {
		// Without this header Google unpacks what was stored as gzip.
		req.Header.Set("Accept-Encoding", "gzip")
	}
	var token *oauth2.Token
	if c.tokens != nil {
		var err error
		if token, err = c.tokens.get(req.Context()); err != nil {
			if req.Body != nil {
				req.Body.Close()
			}
			return nil, err
		}
		token.SetAuthHeader(req)
	}
	if u, ok := req.Context().Value(uploadKey{}).(*upload); ok {
		req.Body = &uploadBody{req.Body, u}
	}
	res, err := c.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	switch {
	case res.StatusCode/100 != 2:
		// The library believes the number in an answer's text rather than this one.
		res.Header.Set(statusHeader, strconv.Itoa(res.StatusCode))
		res.Body = &bounded{ReadCloser: res.Body, left: maxError, end: io.EOF}
	case !content:
		res.Body = &bounded{ReadCloser: res.Body, left: maxAnswer, end: fmt.Errorf("the answer is larger than %d bytes", maxAnswer)}
	}
	switch {
	case token == nil:
	case res.StatusCode/100 == 2:
		c.tokens.works(token)
	case res.StatusCode == http.StatusUnauthorized && c.tokens.drop(token):
		res.Body.Close()
		return nil, errTokenEnded
	}
	return res, nil
}

// statusHeader is where carrier notes the status of an answer that is no success.
const statusHeader = "Wal-E-Status"

// errTokenEnded says that a token which was taken before is no longer, before its
// time: the next attempt gets a new one.
var errTokenEnded = errors.New("the server answers 401: the token has ended")

// bounded is a body that ends after some bytes, with an error or as if that were all.
type bounded struct {
	io.ReadCloser
	left int64
	end  error
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, b.end
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// translate gives an error of the client library the meaning that it has for any
// request.
func translate(err error) error {
	var answer *googleapi.Error
	if errors.As(err, &answer) {
		return meaning(answer)
	}
	var sent *url.Error
	if errors.As(err, &sent) {
		return sent.Err // what is left out is the URL
	}
	return err
}

// A statusError is an answer that is no success.
type statusError struct {
	status int
	text   string // may be empty
	kind   error  // one of storage's, or errMissing, or nil
}

func (e *statusError) Error() string {
	s := "the server answers " + strconv.Itoa(e.status)
	if e.text != "" {
		s += ": " + e.text
	} else if t := http.StatusText(e.status); t != "" {
		s += " " + t
	}
	if e.status == http.StatusUnauthorized {
		s += ": check the credentials, and this host's clock"
	}
	if e.kind != nil {
		s = e.kind.Error() + ": " + s
	}
	return s
}

func (e *statusError) Unwrap() error { return e.kind }

// errMissing is a 404: the object, or the whole bucket.
var errMissing = errors.New("not found")

var errNoBucket = errors.New("no such bucket")

// meaning says what an answer means that is no success.
func meaning(answer *googleapi.Error) *statusError {
	status, err := strconv.Atoi(answer.Header.Get(statusHeader))
	if err != nil {
		return &statusError{status: answer.Code} // not an answer that came here
	}
	if answer.Message == "" {
		// Of an answer to a download the library keeps the text as it is.
		var parsed *googleapi.Error
		if errors.As(googleapi.CheckResponseWithBody(&http.Response{StatusCode: status}, []byte(answer.Body)), &parsed) {
			answer = parsed
		}
	}
	e := &statusError{status: status, text: oneLine(answer.Message)}
	reason := ""
	if len(answer.Errors) > 0 {
		reason = strings.ToLower(answer.Errors[0].Reason)
	}
	switch status {
	case http.StatusUnauthorized:
		e.kind = storage.ErrPermission
	case http.StatusForbidden:
		if !strings.HasSuffix(reason, "ratelimitexceeded") {
			e.kind = storage.ErrPermission
		}
	case http.StatusNotFound:
		e.kind = errMissing
	case http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusRequestURITooLong, http.StatusRequestEntityTooLarge:
		e.kind = storage.ErrInvalid
	}
	return e
}

// oneLine shortens what a server said.
func oneLine(s string) string {
	s = strings.TrimRight(strings.Join(strings.Fields(strings.ToValidUTF8(s, "?")), " "), ".")
	if len(s) > 300 {
		s = strings.ToValidUTF8(s[:300], "") + "…"
	}
	return s
}

// absent explains a 404 for an object: the bucket may not be there.
func (s *session) absent(ctx context.Context, err error) error {
	if !errors.Is(err, errMissing) {
		return err
	}
	if cerr := s.contained(ctx); cerr != nil {
		return cerr
	}
	return storage.ErrNotExist
}

// contained returns nil if the bucket exists and may be listed; only to those
// who may list it does Google say that an object isn't there.
func (s *session) contained(ctx context.Context) error {
	if s.found.Load() {
		return nil
	}
	_, err := s.objects.List(s.cfg.Bucket).MaxResults(1).Fields("kind").Context(ctx).Do()
	switch err = translate(err); {
	case err == nil:
		s.found.Store(true)
	case errors.Is(err, errMissing):
		return s.noBucket()
	}
	return err
}

func (s *session) noBucket() error {
	return fmt.Errorf("%w: %w %q: create it, or correct the prefix", storage.ErrInvalid, errNoBucket, s.cfg.Bucket)
}

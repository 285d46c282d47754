package gcs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/oauth2"

	"wal-e/internal/storage"
)

// A request is one to the JSON interface.
type request struct {
	method string
	upload bool   // to the interface for uploads
	object string // empty: the objects of the bucket
	query  url.Values
	header http.Header
	body   io.Reader // nil: none
	length int64     // of body; -1 when not known
}

// url returns where a request goes.
func (s *session) url(r request) string {
	var b strings.Builder
	b.WriteString(s.endpoint)
	if r.upload {
		b.WriteString("/upload")
	}
	b.WriteString("/storage/v1/b/" + url.PathEscape(s.cfg.Bucket) + "/o")
	if r.object != "" {
		b.WriteString("/" + url.PathEscape(r.object))
	}
	if len(r.query) > 0 {
		b.WriteString("?" + r.query.Encode())
	}
	return b.String()
}

// send makes a request. The response's body must be closed; its status is 2xx.
func (s *session) send(ctx context.Context, r request) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, r.method, s.url(r), r.body)
	if err != nil {
		return nil, err
	}
	if r.body != nil {
		req.ContentLength = r.length
		req.GetBody = nil // nothing is sent twice behind our back
	}
	for k, v := range r.header {
		req.Header[k] = v
	}
	req.Header.Set("User-Agent", "wal-e")
	var token *oauth2.Token
	if s.tokens != nil {
		if token, err = s.tokens.get(ctx); err != nil {
			return nil, err
		}
		token.SetAuthHeader(req)
	}
	res, err := s.client.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode/100 == 2 {
		if token != nil {
			s.tokens.works(token)
		}
		return res, nil
	}
	defer res.Body.Close()
	e := decodeError(res.StatusCode, res.Body)
	if res.StatusCode == http.StatusUnauthorized && token != nil && s.tokens.drop(token) {
		e.kind = nil // it has expired before its time: the next attempt gets a new one
	}
	return nil, e
}

// exchange makes a request and decodes its answer, unless into is nil.
func (s *session) exchange(ctx context.Context, r request, into any) error {
	res, err := s.send(ctx, r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if into == nil {
		return nil
	}
	limited := &io.LimitedReader{R: res.Body, N: maxAnswer}
	switch err := json.NewDecoder(limited).Decode(into); {
	case err == nil:
		return nil
	case limited.N <= 0:
		return fmt.Errorf("the answer is larger than %d bytes", maxAnswer)
	case err == io.EOF:
		return fmt.Errorf("read the answer: %w", io.ErrUnexpectedEOF)
	default:
		return fmt.Errorf("read the answer: %w", err)
	}
}

const (
	maxAnswer = 16 << 20 // bytes; a page of 1000 names of 1 KiB takes up to 6 MiB
	maxError  = 64 << 10 // bytes
)

// A statusError is an answer that is no success.
type statusError struct {
	status int
	reason string // Google's word for it; may be empty
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

// decodeError reads an answer that is no success, and gives it the meaning that
// it has for any request.
func decodeError(status int, body io.Reader) *statusError {
	e := &statusError{status: status}
	var answer struct {
		Error struct {
			Message string
			Errors  []struct{ Reason string }
		}
	}
	if json.NewDecoder(io.LimitReader(body, maxError)).Decode(&answer) == nil {
		e.text = oneLine(answer.Error.Message)
		if len(answer.Error.Errors) > 0 {
			e.reason = answer.Error.Errors[0].Reason
		}
	}
	switch status {
	case http.StatusUnauthorized:
		e.kind = storage.ErrPermission
	case http.StatusForbidden:
		if !strings.HasSuffix(strings.ToLower(e.reason), "ratelimitexceeded") {
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
	err := s.exchange(ctx, request{method: http.MethodGet, query: url.Values{"maxResults": {"1"}, "fields": {"kind"}}}, nil)
	switch {
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

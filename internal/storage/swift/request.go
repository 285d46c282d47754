package swift

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/ncw/swift/v2"

	"wal-e/internal/storage"
)

// A request is one to the storage, repeated only to renew a token.
type request struct {
	method, container, object string // an empty object means the container, an empty container the account
	query                     url.Values
	headers                   swift.Headers
	upload                    *upload // nil: no body
}

// renewals is how many tokens a request is tried with after the one that there
// was. Each may end while the request is under way, if hardly all of them.
const renewals = 2

// send makes a request, with a new token when the old one is no longer taken.
// The response's body must be closed; its status is 2xx.
func (s *session) send(ctx context.Context, r request) (*http.Response, error) {
	for renewed := 0; ; renewed++ {
		age := s.age.Load()
		if err := s.authenticate(ctx); err != nil {
			return nil, err
		}
		res, err := s.once(ctx, r)
		if status(err) != http.StatusUnauthorized {
			return res, s.translate(err)
		}
		if s.age.CompareAndSwap(age, age+1) {
			s.conn.UnAuthenticate()
		}
		if renewed == renewals {
			return nil, &statusError{
				code: http.StatusUnauthorized, kind: storage.ErrPermission,
				text: fmt.Sprintf("it takes no token, not even those that %s has just given: check that both belong together", s.cfg.AuthURL),
			}
		}
		if r.upload != nil {
			if rerr := r.upload.rewind(); rerr != nil {
				return nil, fmt.Errorf("%w (not tried again: %w)", s.translate(err), rerr)
			}
		}
	}
}

// exchange makes a request of which only the headers of the answer matter.
func (s *session) exchange(ctx context.Context, r request) (http.Header, error) {
	res, err := s.send(ctx, r)
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(io.Discard, io.LimitReader(res.Body, 1<<16)); err != nil {
		res.Body.Close()
		return nil, err
	}
	return res.Header, res.Body.Close()
}

// once makes a request with the token there is.
func (s *session) once(ctx context.Context, r request) (*http.Response, error) {
	options := swift.RequestOpts{
		Operation: r.method, Container: r.container, ObjectName: r.object, Parameters: r.query,
		Headers:  swift.Headers{},
		OnReAuth: func() (string, error) { return s.conn.StorageUrl, nil },
	}
	for k, v := range r.headers {
		options.Headers[k] = v
	}
	var body *uploadBody
	options.Headers["Content-Length"] = "0"
	if r.upload != nil && r.upload.size != 0 {
		body = &uploadBody{u: r.upload}
		options.Body = body
		if r.upload.size > 0 {
			options.Headers["Content-Length"] = strconv.FormatInt(r.upload.size, 10)
		} else {
			delete(options.Headers, "Content-Length")
		}
	}
	target, err := s.conn.GetStorageUrl(ctx)
	if err != nil {
		return nil, err
	}
	res, _, err := s.conn.Call(ctx, target, options)
	if body == nil {
		return res, err
	}
	if rerr := body.stop(); rerr != nil {
		if err == nil {
			res.Body.Close()
		}
		return nil, rerr
	}
	return res, err
}

// authenticate gets a token unless there is one. Only one caller does so at a
// time; the others wait no longer than their contexts.
func (s *session) authenticate(ctx context.Context) error {
	select {
	case s.auth <- struct{}{}:
		defer func() { <-s.auth }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if s.conn.Authenticated() {
		return ctx.Err()
	}
	err := s.conn.Authenticate(ctx)
	if err == nil {
		return nil
	}
	if cerr := ctx.Err(); cerr != nil {
		return cerr
	}
	return s.refused(err)
}

// refused explains why there is no token.
func (s *session) refused(err error) error {
	who := s.cfg.User
	if who == "" {
		who = s.cfg.UserID
	}
	where := fmt.Sprintf("log in at %s as %s with authentication version %d", s.cfg.AuthURL, who, s.cfg.AuthVersion)
	switch code := status(err); {
	case code == http.StatusBadRequest, code == http.StatusUnauthorized, code == http.StatusForbidden:
		return fmt.Errorf("%s: %w: the server answers %d: check user, password, project and domains", where, storage.ErrPermission, code)
	case code == http.StatusNotFound, code == http.StatusMethodNotAllowed, code == http.StatusMultipleChoices:
		return fmt.Errorf("%s: %w: the server answers %d: check the authentication URL and version", where, storage.ErrInvalid, code)
	case code != 0:
		return fmt.Errorf("%s: the server answers %d", where, code)
	}
	var e *swift.Error
	if errors.As(err, &e) {
		// It answered well, and the catalogue has no such service.
		return fmt.Errorf("%s: %w: the answer names no storage: check region and endpoint type", where, storage.ErrInvalid)
	}
	return fmt.Errorf("%s: %w", where, err)
}

// status returns the HTTP status in an error, or 0.
func status(err error) int {
	var e *swift.Error
	if errors.As(err, &e) {
		return e.StatusCode
	}
	return 0
}

// A statusError is an answer that is no success. The text of the server is left
// out of nothing but what may be secret.
type statusError struct {
	code int
	text string // may be empty
	kind error  // one of storage's, or nil
}

func (e *statusError) Error() string {
	s := fmt.Sprintf("the server answers %d", e.code)
	if t := http.StatusText(e.code); t != "" {
		s += " " + t
	}
	if e.text != "" {
		s += ": " + e.text
	}
	if e.kind != nil {
		s = e.kind.Error() + ": " + s
	}
	return s
}

func (e *statusError) Unwrap() error { return e.kind }

// translate gives an error of the library the meaning that it has for any
// object; what a status means for one operation only is for that to say.
func (s *session) translate(err error) error {
	code := status(err)
	if code == 0 {
		return err
	}
	e := &statusError{code: code}
	switch code {
	case http.StatusForbidden:
		e.kind = storage.ErrPermission
	case http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusUnsupportedMediaType, http.StatusRequestURITooLong:
		e.kind = storage.ErrInvalid
	case http.StatusRequestEntityTooLarge:
		// A quota, since larger objects than the servers take aren't sent.
		e.kind = syscall.EDQUOT
	case http.StatusNotFound:
		e.kind = errMissing
	}
	// The library puts what the server says behind its own text.
	if _, said, ok := strings.Cut(err.Error(), http.StatusText(code)+": "); ok {
		e.text = s.scrub(said)
	}
	return e
}

// errMissing is a 404: the object, or the whole container.
var errMissing = errors.New("not found")

// scrub hides secrets in what a server said, and shortens it to one line.
func (s *session) scrub(text string) string {
	if s.cfg.Password != "" {
		text = strings.ReplaceAll(text, s.cfg.Password, "…")
	}
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > 200 {
		text = strings.ToValidUTF8(text[:200], "") + "…"
	}
	return text
}

// absent explains a 404 for an object: the container may not be there.
func (s *session) absent(ctx context.Context, err error) error {
	if !errors.Is(err, errMissing) {
		return err
	}
	if cerr := s.contained(ctx); cerr != nil {
		return cerr
	}
	return storage.ErrNotExist
}

// contained returns nil if the container exists. That is asked until the answer
// was yes: an object of a container that isn't there is not known to be absent.
func (s *session) contained(ctx context.Context) error {
	if s.found.Load() {
		return nil
	}
	_, err := s.exchange(ctx, request{method: http.MethodHead, container: s.cfg.Container})
	switch {
	case err == nil:
		s.found.Store(true)
	case errors.Is(err, errMissing):
		return s.noContainer()
	}
	return err
}

func (s *session) noContainer() error {
	return fmt.Errorf("%w: %w %q: create it, or correct the prefix or the project", storage.ErrInvalid, errNoContainer, s.cfg.Container)
}

// An upload is the body of a request: a reader, and a way back to its beginning
// if there is one.
type upload struct {
	r    io.Reader
	size int64                     // bytes; -1 when not known
	back func() (io.Reader, error) // nil: r can be read only once

	mu      sync.Mutex
	touched bool
}

// rewind makes the next body begin at the first byte again.
func (u *upload) rewind() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if !u.touched {
		return nil
	}
	if u.back == nil {
		return errors.New("it can be sent only once")
	}
	r, err := u.back()
	if err != nil {
		return fmt.Errorf("rewind its content: %w", err)
	}
	u.r, u.touched = r, false
	return nil
}

// An uploadBody is what the transport reads in the background, and no longer
// than its request is under way.
type uploadBody struct {
	u *upload

	mu   sync.Mutex
	over bool
	err  error // of the reader, other than io.EOF
}

func (b *uploadBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return 0, errors.New("the request is over")
	}
	b.u.mu.Lock()
	b.u.touched = true
	b.u.mu.Unlock()
	n, err := b.u.r.Read(p)
	if err != nil && err != io.EOF {
		b.err = err
	}
	return n, err
}

// stop keeps the transport from reading on, and returns the reader's error.
func (b *uploadBody) stop() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over = true
	return b.err
}

// smallBody is what is sent without asking whether it is wanted.
const smallBody = 256 << 10 // bytes

// uploads is a transport for bodies. The library announces each of them with
// Expect: 100-continue. When such a request is refused, Go sends the body all
// the same unless the connection is to be closed, and Swift's server then
// answers out of turn, which ends the next request. So a connection with an
// announced body is closed behind it, and a small body isn't announced.
//
// The library also drops what a server says of an error when the end of it
// comes with its last bytes, so there it comes behind them.
type uploads struct{ http.RoundTripper }

func (u *uploads) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.Header.Get("Expect") != "" {
		req = req.Clone(req.Context())
		if req.ContentLength > 0 && req.ContentLength <= smallBody {
			req.Header.Del("Expect")
		} else {
			req.Close = true
		}
	}
	res, err := u.RoundTripper.RoundTrip(req)
	if err != nil || res.StatusCode < 400 {
		return res, err
	}
	defer res.Body.Close()
	said, err := io.ReadAll(io.LimitReader(res.Body, 1<<10))
	if err != nil {
		return nil, err
	}
	res.Body = io.NopCloser(bytes.NewReader(said))
	return res, nil
}

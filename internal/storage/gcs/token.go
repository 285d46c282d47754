package gcs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"

	"wal-e/internal/fault"
	"wal-e/internal/storage"
)

// scope is what tokens are asked for: objects may be read and written, rights
// not be changed.
const scope = "https://www.googleapis.com/auth/devstorage.read_write"

// renewal is how long before its end a token is not used any more.
const renewal = time.Minute

// maxCredentials bounds the file that is read.
const maxCredentials = 1 << 20

// tokens are what requests prove their identity with, one at a time.
type tokens struct {
	file   string // empty: Google's default chain
	client http.RoundTripper

	mu     sync.Mutex
	token  *oauth2.Token
	proven bool // a request with it was answered well
}

func newTokens(file string, client http.RoundTripper) *tokens {
	return &tokens{file: file, client: client}
}

// get returns a token that is valid for a while.
func (t *tokens) get(ctx context.Context) (*oauth2.Token, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if t.token != nil && (t.token.Expiry.IsZero() || time.Until(t.token.Expiry) > renewal) {
		return t.token, nil
	}
	token, err := t.fetch(ctx)
	if err != nil {
		if cerr := ctx.Err(); cerr != nil {
			return nil, cerr
		}
		return nil, t.explain(err)
	}
	t.token, t.proven = token, false
	return token, nil
}

// works notes that a token was taken.
func (t *tokens) works(token *oauth2.Token) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.token == token {
		t.proven = true
	}
}

// drop forgets a token that was refused, and reports whether it, or the one
// that took its place, has ever worked: then a new one may, too.
func (t *tokens) drop(token *oauth2.Token) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.token != token {
		return true
	}
	worked := t.proven
	t.token, t.proven = nil, false
	return worked
}

// A bound sends requests in a context: the library's own have none.
type bound struct {
	ctx  context.Context // of the request that needs the token
	next http.RoundTripper
}

func (b bound) RoundTrip(req *http.Request) (*http.Response, error) {
	return b.next.RoundTrip(req.WithContext(b.ctx))
}

func (t *tokens) fetch(ctx context.Context) (*oauth2.Token, error) {
	ctx = context.WithValue(ctx, oauth2.HTTPClient, &http.Client{Transport: bound{ctx, t.client}})
	if t.file == "" {
		c, err := google.FindDefaultCredentials(ctx, scope)
		if err != nil {
			return nil, &loginError{"Google's default chain finds no credentials"}
		}
		return c.TokenSource.Token()
	}
	data, err := os.ReadFile(t.file)
	if err != nil {
		return nil, &loginError{err.Error()}
	}
	c, err := t.parse(ctx, data)
	if err != nil {
		return nil, err
	}
	return c.TokenSource.Token()
}

// parse reads a file of credentials. Its errors don't repeat what is in it.
func (t *tokens) parse(ctx context.Context, data []byte) (*google.Credentials, error) {
	var head struct{ Type google.CredentialsType }
	kinds := []google.CredentialsType{
		google.ServiceAccount, google.AuthorizedUser, google.ExternalAccount,
		google.ExternalAccountAuthorizedUser, google.ImpersonatedServiceAccount,
	}
	if len(data) > maxCredentials || json.Unmarshal(data, &head) != nil || !slices.Contains(kinds, head.Type) {
		return nil, &loginError{fmt.Sprintf("%s is not a JSON file of credentials as Google makes them", t.file)}
	}
	c, err := google.CredentialsFromJSONWithType(ctx, data, head.Type, scope)
	if err != nil {
		return nil, &loginError{fmt.Sprintf("%s is not whole: make a new one", t.file)}
	}
	return c, nil
}

// A loginError says why there can be no token.
type loginError struct{ why string }

func (e *loginError) Error() string {
	return "log in to Google: " + storage.ErrPermission.Error() + ": " + e.why
}

func (e *loginError) Unwrap() error { return fault.Credentials.Mark(storage.ErrPermission) }

// explain gives an error of the library its meaning. What a server says of a
// refused login may hold what it was sent, so only its code is repeated.
func (t *tokens) explain(err error) error {
	var login *loginError
	var refused *oauth2.RetrieveError
	switch {
	case errors.As(err, &login):
		return login
	case errors.As(err, &refused) && refused.Response != nil:
		code := refused.Response.StatusCode
		if code/100 != 4 || code == http.StatusTooManyRequests || code == http.StatusRequestTimeout {
			return fault.Credentials.Errorf("log in to Google: the server answers %d", code)
		}
		what := "the credentials that Google's default chain found"
		if t.file != "" {
			what = t.file
		}
		return &loginError{fmt.Sprintf("the server answers %d: check that %s is valid still, and this host's clock", code, what)}
	}
	return fmt.Errorf("log in to Google: %w", err)
}

package azure

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"

	"wal-e/internal/fault"
	"wal-e/internal/storage"
)

// A right is what a request needs: its letter in a shared access signature.
type right string

const (
	rightRead   right = "r (read)"
	rightCreate right = "c (create)"
	rightWrite  right = "w (write), which blocks need"
	rightList   right = "l (list)"
	rightDelete right = "d (delete)"
)

// A statusError is an answer that is no success.
type statusError struct {
	status int
	code   bloberror.Code // may be empty
	text   string         // what the service says besides; may be empty
	advice string         // what to do; may be empty
	kind   error          // one of storage's, or nil
}

func (e *statusError) Error() string {
	var b strings.Builder
	if e.kind != nil {
		b.WriteString(e.kind.Error() + ": ")
	}
	fmt.Fprintf(&b, "the server answers %d", e.status)
	if e.code != "" {
		b.WriteString(" " + string(e.code))
	} else if t := http.StatusText(e.status); t != "" {
		b.WriteString(" " + t)
	}
	if e.text != "" {
		b.WriteString(" (" + e.text + ")")
	}
	if e.advice != "" {
		b.WriteString(": " + e.advice)
	}
	return b.String()
}

func (e *statusError) Unwrap() error { return e.kind }

// translate gives an error of the client library its meaning for a request that
// needs a right. Its own text has several lines, and what is in them is not
// ours to judge.
func (b *Bucket) translate(err error, need right) error {
	var res *azcore.ResponseError
	switch {
	case err == nil:
		return nil
	case isLogin(err):
		return b.login(err)
	case !errors.As(err, &res):
		return err
	}
	e := &statusError{status: res.StatusCode, code: bloberror.Code(res.ErrorCode), text: said(res)}
	switch e.code {
	case bloberror.ContainerNotFound, bloberror.ContainerBeingDeleted:
		return fmt.Errorf("%w: %w %q in account %s: create it, or correct the prefix or the account",
			storage.ErrInvalid, errNoContainer, b.cfg.Container, b.account())
	case bloberror.BlobNotFound:
		e.kind, e.text = storage.ErrNotExist, ""
		return e
	case bloberror.BlobArchived, bloberror.BlobBeingRehydrated:
		e.kind, e.advice = storage.ErrInvalid, "bring it back from the archive tier first"
		return e
	case bloberror.BlobImmutableDueToPolicy, "BlobImmutableDueToLegalHold", bloberror.LeaseIDMissing:
		e.kind, e.advice = storage.ErrPermission, "a policy, a legal hold or a lease of the container protects it"
		return e
	case bloberror.MD5Mismatch:
		return e // damaged on the way: may well pass
	case bloberror.ResourceNotFound, "PublicAccessNotPermitted", bloberror.NoAuthenticationInformation:
		e.kind, e.advice = storage.ErrPermission, "the request was taken as anonymous: check the credentials"
		return e
	}
	switch e.status {
	case http.StatusUnauthorized, http.StatusForbidden:
		e.kind, e.advice = storage.ErrPermission, b.refused(e.code, need)
	case http.StatusNotFound:
		// Without a code it may not even come from Azure: no proof of absence.
		e.kind, e.advice = storage.ErrInvalid, "check the endpoint"
	case http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusRequestURITooLong, http.StatusRequestEntityTooLarge:
		e.kind = storage.ErrInvalid
	}
	return e
}

// account names the account for people.
func (b *Bucket) account() string {
	if b.cfg.Endpoint != "" {
		return b.cfg.Endpoint
	}
	return b.cfg.Account
}

// refused says what is the likely reason for a 401 or 403.
func (b *Bucket) refused(code bloberror.Code, need right) string {
	bySAS := b.cfg.SAS != "" && b.cfg.Key == ""
	expiry := b.expiry()
	switch {
	case !expiry.IsZero() && time.Now().After(expiry):
		return "the shared access signature has expired at " + expiry.UTC().Format(time.RFC3339) + ": make a new one"
	case code == bloberror.AuthorizationPermissionMismatch && bySAS:
		return "the shared access signature lacks the right " + string(need)
	case code == bloberror.AuthorizationPermissionMismatch, code == bloberror.InsufficientAccountPermissions:
		return "the identity lacks the right " + string(need) + ": see the role Storage Blob Data Contributor"
	case code == bloberror.AuthorizationProtocolMismatch:
		return "the shared access signature wants https"
	case code == bloberror.AuthorizationSourceIPMismatch:
		return "the shared access signature is for other IP addresses"
	case code == bloberror.AuthorizationResourceTypeMismatch, code == bloberror.AuthorizationServiceMismatch:
		return "the shared access signature is not for blobs of containers: make it with srt=co and ss=b, or for the container"
	}
	advice := "check which identity this host has, and that it has the role Storage Blob Data Contributor"
	switch {
	case b.cfg.Key != "":
		advice = "check account name and account key, and this host's clock"
	case bySAS:
		advice = "check the shared access signature: that it is whole, for this container, valid now, and has the right " + string(need)
	}
	if code == bloberror.AuthorizationFailure {
		advice += "; the account's firewall may also keep this host out"
	}
	return advice
}

// expiry returns when the shared access signature ends, if it says so.
func (b *Bucket) expiry() time.Time {
	if b.cfg.Key != "" {
		return time.Time{}
	}
	values, err := url.ParseQuery(b.cfg.SAS)
	if err != nil {
		return time.Time{}
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04Z", "2006-01-02"} {
		if t, err := time.Parse(layout, values.Get("se")); err == nil {
			return t
		}
	}
	return time.Time{}
}

// maxError bounds what is read of an answer that explains an error.
const maxError = 64 << 10

// said returns what the service explains in the body of an answer. What it
// repeats of a request's signature helps nobody and is left out.
func said(res *azcore.ResponseError) string {
	if res.RawResponse == nil || res.RawResponse.Body == nil {
		return ""
	}
	return decodeError(res.RawResponse.Body)
}

// decodeError reads the body of an answer that explains an error.
func decodeError(r io.Reader) string {
	var e struct {
		Message string
		Detail  string `xml:"AuthenticationErrorDetail"`
	}
	if err := xml.NewDecoder(io.LimitReader(r, maxError)).Decode(&e); err != nil {
		return ""
	}
	text, _, _ := strings.Cut(e.Message, "\n") // then come ids of the request
	if strings.HasPrefix(e.Detail, "Signature not valid in the specified time frame") {
		text = e.Detail
	}
	text = strings.TrimRight(strings.Join(strings.Fields(text), " "), ".")
	if len(text) > 200 {
		text = strings.ToValidUTF8(text[:200], "") + "…"
	}
	return text
}

// isLogin reports whether there was no token to make the request with.
func isLogin(err error) bool {
	var failed *azidentity.AuthenticationFailedError
	var required *azidentity.AuthenticationRequiredError
	return errors.As(err, &failed) || errors.As(err, &required) || strings.Contains(err.Error(), "DefaultAzureCredential")
}

// login explains why Azure's default chain gave no token. Of an error of the
// network its errors keep only the text, so whether it was one the transport knows.
func (b *Bucket) login(err error) error {
	var failed *azidentity.AuthenticationFailedError
	if errors.As(err, &failed) {
		if failed.RawResponse != nil {
			if code := failed.RawResponse.StatusCode; code/100 != 4 || busy(code) {
				return fault.Credentials.Errorf("log in to Azure: the server answers %d", code)
			}
		} else if broke := b.logins.broke(); broke != nil {
			return fmt.Errorf("log in to Azure: %w", broke)
		}
	}
	first, _, _ := strings.Cut(err.Error(), "\n")
	return fmt.Errorf("log in to Azure: %w: %s: give an account key or a shared access signature, or an identity to this host",
		storage.ErrPermission, strings.TrimSuffix(first, "."))
}

// busy reports whether an answer to a login asks to come again: 410 is that of a
// metadata service that is being renewed.
func busy(code int) bool {
	return code == http.StatusTooManyRequests || code == http.StatusRequestTimeout || code == http.StatusGone
}

// logins sends requests for tokens, and remembers how the last one ended.
type logins struct {
	transport

	mu   sync.Mutex
	last error // nil when there was an answer
}

// Do implements policy.Transporter.
func (l *logins) Do(req *http.Request) (*http.Response, error) {
	res, err := l.transport.Do(req)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = err
	return res, err
}

// broke returns the error of the network that the last request ended with, or nil.
func (l *logins) broke() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

package s3

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"wal-e/internal/fault"
	"wal-e/internal/storage"
)

// largestAnswer bounds an answer that isn't an object: a page of a listing is
// below 2 MiB where names are short, and below 8 where each has 1 KiB in escapes.
const largestAnswer = 64 << 20 // bytes

// answers bounds what a server may answer to anything but a request for an
// object, since the SDK reads such answers as a whole.
type answers struct{ next http.RoundTripper }

func (a *answers) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := a.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	object := req.Method == http.MethodGet && !req.URL.Query().Has("list-type") && res.StatusCode/100 == 2
	if !object {
		res.Body = &bounded{res.Body, largestAnswer}
	}
	if res.StatusCode == http.StatusBadRequest || res.StatusCode/100 == 3 {
		return res, nameRegion(res)
	}
	return res, nil
}

// regionHeader is where S3 says in which region a bucket is.
const regionHeader = "X-Amz-Bucket-Region"

// nameRegion puts the region into the header when an answer has it in its text
// only, of which the SDK keeps no more than code and message.
func nameRegion(res *http.Response) error {
	if res.Header.Get(regionHeader) != "" {
		return nil
	}
	const most = 64 << 10
	text, err := io.ReadAll(io.LimitReader(res.Body, most))
	if err != nil {
		res.Body.Close()
		return err
	}
	var said struct{ Code, Region string }
	// What isn't XML names no region.
	if xml.Unmarshal(text, &said) == nil && said.Code == "AuthorizationHeaderMalformed" {
		res.Header.Set(regionHeader, said.Region)
	}
	res.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(text), res.Body), res.Body}
	return nil
}

type bounded struct {
	io.ReadCloser
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, fmt.Errorf("the server's answer is larger than %d bytes", largestAnswer)
	}
	return n, err
}

// A refusal is an answer that is no success.
type refusal struct {
	status int
	code   string // such as NoSuchKey; may be empty
	text   string // the server's; may be empty
	hint   string // may be empty
	kind   error  // one of storage's, or nil: it is worth while to try again
	region string // where the bucket is, when the server says so
}

func (e *refusal) Error() string {
	var s strings.Builder
	if e.kind != nil {
		fmt.Fprintf(&s, "%v: ", e.kind)
	}
	fmt.Fprintf(&s, "the server answers %d", e.status)
	if e.code != "" {
		fmt.Fprintf(&s, " %s", e.code)
	}
	if e.text != "" {
		fmt.Fprintf(&s, ": %s", strings.TrimRight(e.text, "."))
	}
	if e.hint != "" {
		fmt.Fprintf(&s, ": %s", e.hint)
	}
	return s.String()
}

func (e *refusal) Unwrap() error { return e.kind }

// refused reports whether err is an answer with one of the codes.
func refused(err error, codes ...string) bool {
	var e *refusal
	if !errors.As(err, &e) {
		return false
	}
	for _, code := range codes {
		if e.code == code {
			return true
		}
	}
	return false
}

// status is the HTTP status of an answer that is no success, or 0.
func status(err error) int {
	var e *refusal
	if errors.As(err, &e) {
		return e.status
	}
	return 0
}

// translate gives an error of the SDK the meaning that it has for any request;
// right is the one that the request needs, such as s3:GetObject.
func (b *Bucket) translate(ctx context.Context, err error, right string) error {
	if err == nil {
		return nil
	}
	if cerr := ctx.Err(); cerr != nil {
		return cerr
	}
	var none *credentialsError
	if errors.As(err, &none) {
		return fault.Credentials.Mark(none)
	}
	var res *smithyhttp.ResponseError
	if !errors.As(err, &res) || res.Response == nil || res.HTTPStatusCode() == 0 {
		return transportError(err)
	}
	e := &refusal{status: res.HTTPStatusCode(), region: res.Response.Header.Get(regionHeader)}
	var api smithy.APIError
	if errors.As(err, &api) {
		e.code, e.text = api.ErrorCode(), clip(api.ErrorMessage())
	}
	if e.status/100 == 2 {
		// It began well, and what followed couldn't be read.
		return transportError(err)
	}
	b.judge(e, right, usedToken(res.Response.Response))
	return e
}

// usedToken is the session token of the request that an answer is for, or "".
func usedToken(res *http.Response) string {
	if res == nil || res.Request == nil {
		return ""
	}
	return res.Request.Header.Get("X-Amz-Security-Token")
}

// judge says what an answer means and what to do about it. token is that of the
// session which asked.
func (b *Bucket) judge(e *refusal, right, token string) {
	switch e.code {
	case "AccessDenied", "Forbidden", "AllAccessDisabled", "AccountProblem":
		e.kind = storage.ErrPermission
		e.hint = fmt.Sprintf("%s on bucket %s is what the credentials lack", right, b.cfg.Bucket)
	case "InvalidAccessKeyId", "SignatureDoesNotMatch":
		e.kind, e.hint = fault.Credentials.Mark(storage.ErrPermission), "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
	case "InvalidTokenId", "InvalidToken", "ExpiredToken", "TokenRefreshRequired", "ExpiredTokenException":
		if b.secrets.expired(token) {
			return // another attempt has another session
		}
		e.kind, e.hint = fault.Credentials.Mark(storage.ErrPermission), "the session is over or its token wrong: renew AWS_SESSION_TOKEN with its key and secret"
	case "RequestTimeTooSkewed":
		e.kind, e.hint = fault.Credentials.Mark(storage.ErrPermission), "the clock of this host is wrong"
	case "NoSuchBucket":
		e.kind, e.hint = storage.ErrInvalid, fmt.Sprintf("there is no bucket %s: create it, or correct the prefix", b.cfg.Bucket)
	case "PreconditionFailed":
		e.kind = storage.ErrExist
	case "InvalidStorageClass":
		e.kind, e.hint = storage.ErrInvalid, "set WALE_S3_STORAGE_CLASS to one that this store has"
	case "KMS.NotFoundException", "KMS.DisabledException", "InvalidEncryptionAlgorithmError":
		e.kind, e.hint = storage.ErrInvalid, "check WALE_S3_SSE"
	case "InvalidObjectState":
		e.kind, e.hint = storage.ErrInvalid, "it is in an archive class: restore it in S3 first"
	case "ObjectLocked", "WORMProtected":
		e.kind, e.hint = storage.ErrPermission, "an object lock holds it"
	case "AuthorizationHeaderMalformed", "IllegalLocationConstraintException":
		e.kind, e.hint = storage.ErrInvalid, "set AWS_REGION to the bucket's"
	case "RequestTimeout", "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch", "NoSuchUpload", "InvalidPart", "NoSuchKey", codeOfHead:
		return // damaged or cut on the way, or for the request to judge
	}
	if e.kind != nil || e.hint != "" {
		return
	}
	switch e.status {
	case http.StatusUnauthorized, http.StatusForbidden:
		e.kind = storage.ErrPermission
		e.hint = fmt.Sprintf("%s on bucket %s is what the credentials lack", right, b.cfg.Bucket)
	case http.StatusPreconditionFailed:
		e.kind = storage.ErrExist
	case http.StatusMovedPermanently, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		e.kind, e.hint = storage.ErrInvalid, "the bucket is in another region: set AWS_REGION"
	case http.StatusNotFound, http.StatusMethodNotAllowed:
		e.kind, e.hint = storage.ErrInvalid, "check WALE_S3_ENDPOINT: what answers may not be S3"
	case http.StatusBadRequest, http.StatusLengthRequired, http.StatusRequestEntityTooLarge, http.StatusRequestURITooLong:
		e.kind = storage.ErrInvalid
	case http.StatusNotImplemented:
		e.kind = errors.ErrUnsupported
	}
}

// codeOfHead is the SDK's word for a 404 that has no body.
const codeOfHead = "NotFound"

// transportError drops what the SDK puts around an error of the connection.
func transportError(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	var send *smithyhttp.RequestSendError
	if errors.As(err, &send) {
		return send.Err
	}
	var op *smithy.OperationError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// clip bounds the text of a server.
func clip(s string) string {
	const most = 300
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// call makes a request, once more when it turns out that the bucket is in
// another region. again rewinds what the request sends; nil means that there is
// nothing to rewind.
func (b *Bucket) call(ctx context.Context, right string, again func() error, request func(...func(*s3.Options)) error) error {
	if b.cfg.Region == "" {
		// The profile may name the region. What is wrong with it, the request tells.
		_, _ = b.secrets.open(ctx)
	}
	for moved := false; ; moved = true {
		if err := ctx.Err(); err != nil {
			return err
		}
		region := b.currentRegion()
		err := b.translate(ctx, request(func(o *s3.Options) { o.Region = region }), right)
		var e *refusal
		if moved || !errors.As(err, &e) || e.region == "" || e.region == region || e.status == http.StatusForbidden {
			if err == nil {
				b.found.Store(true)
			}
			return err
		}
		b.learned.Store(aws.String(e.region))
		if again != nil {
			if rerr := again(); rerr != nil {
				return fmt.Errorf("%w (not tried again: %w)", err, rerr)
			}
		}
	}
}

// currentRegion is where the bucket seems to be: what it said itself comes first.
func (b *Bucket) currentRegion() string {
	if r := b.learned.Load(); r != nil {
		return *r
	}
	if b.cfg.Region != "" {
		return b.cfg.Region
	}
	if r := b.secrets.profileRegion(); r != "" {
		return r
	}
	return defaultRegion
}

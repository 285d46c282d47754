package gcs

import "io"

// DecodeError is for the fuzz test.
func DecodeError(status int, body io.Reader) error { return decodeError(status, body) }

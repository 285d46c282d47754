package main_test

import (
	"testing"

	"wal-e/internal/enginetest"
)

// s3Cases are stores that speak S3, with authentication.
func s3Cases() []storageCase {
	return []storageCase{
		{name: "s3 minio", open: func(t *testing.T) map[string]string { return s3Env(t, enginetest.MinIO(t)) }},
		{name: "s3 versitygw", open: func(t *testing.T) map[string]string { return s3Env(t, enginetest.Versitygw(t)) }},
		{name: "s3 minio session", open: func(t *testing.T) map[string]string {
			s := enginetest.MinIO(t)
			env := s3Env(t, s)
			env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"], env["AWS_SESSION_TOKEN"] = s.Session(t, "")
			return env
		}},
		// No conditional PUT and no bulk deletion.
		{name: "s3 swift gateway", collect: []string{"--exclusive"}, open: func(t *testing.T) map[string]string {
			s := enginetest.Swift(t, 1).S3()
			return s3Env(t, s)
		}},
	}
}

// s3Env makes a bucket and returns the variables of a prefix in it.
func s3Env(t *testing.T, s *enginetest.S3Server) map[string]string {
	t.Helper()
	s.CreateBucket(t, "archive")
	return s.Env("archive", "some/path")
}

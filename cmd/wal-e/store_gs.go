package main

import (
	"errors"
	"fmt"

	"wal-e/compat"
	"wal-e/internal/storage"
	"wal-e/internal/storage/gcs"
)

// gsVariables are those of Google's own programs.
func gsVariables() []variable {
	return []variable{
		{"GOOGLE_APPLICATION_CREDENTIALS", "", "JSON file of Google credentials; without it, what Google's default chain finds: gcloud's login, the instance"},
		{"STORAGE_EMULATOR_HOST", "HOST:PORT", "emulator of Google Cloud Storage, which gets no credentials"},
	}
}

// gs reads which bucket is meant, and who asks. The prefix may be that of any
// store.
func (r *reader) gs(p prefix) gcs.Config {
	if p.scheme != "gs" {
		return gcs.Config{}
	}
	cfg := gcs.Config{
		Bucket:      p.store,
		Prefix:      p.keyPath(),
		Credentials: r.env["GOOGLE_APPLICATION_CREDENTIALS"],
		Emulator:    r.env["STORAGE_EMULATOR_HOST"],
	}
	if _, err := gcs.Open(cfg); err != nil {
		r.complain(gsComplaint(err, p))
	}
	return cfg
}

// gsComplaint says which variable a setting comes from.
func gsComplaint(err error, p prefix) error {
	source := p.source
	if field := (*gcs.FieldError)(nil); errors.As(err, &field) && field.Field == "Emulator" {
		source = "STORAGE_EMULATOR_HOST"
	}
	return fmt.Errorf("%s: %w", source, err)
}

// openGS opens a bucket. Names of the classic layout begin with a slash.
func (s *session) openGS(u use) (storage.Bucket, error) {
	cfg := s.gs
	cfg.Idle = u.idle()
	b, err := gcs.Open(cfg)
	if err != nil {
		return nil, gsComplaint(err, s.prefix)
	}
	return storage.Divide(b, b.At("/"+s.prefix.keyPath()), compat.IsClassic), nil
}

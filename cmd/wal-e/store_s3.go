package main

import (
	"errors"
	"fmt"
	"strings"

	"wal-e/compat"
	"wal-e/internal/fault"
	"wal-e/internal/storage"
	"wal-e/internal/storage/s3"
)

// s3Variables are those of classic WAL-E and a few more.
func s3Variables() []variable {
	return []variable{
		{"AWS_ACCESS_KEY_ID", "", "access key of S3, as --aws-access-key-id; without it, what the AWS SDK finds: profile, web identity, instance"},
		{"AWS_SECRET_ACCESS_KEY", "", "its secret"},
		{"AWS_SECURITY_TOKEN", "", "token of a session"},
		{"AWS_SESSION_TOKEN", "", "the same"},
		{"AWS_INSTANCE_PROFILE", "0", "1 takes credentials from the instance, as --aws-instance-profile"},
		{"AWS_REGION", "the bucket's", "region of the bucket"},
		{"AWS_CA_BUNDLE", "", "file of CA certificates (PEM) to trust besides the system's"},
		{"WALE_S3_ENDPOINT", "http|https+path|subdomain|virtualhost://HOST[:PORT]", "server that speaks S3; without it, Amazon's"},
		{"WALE_S3_STORAGE_CLASS", "STANDARD", "storage class of packs and WAL; all else stays in the bucket's default"},
		{"WALE_S3_SSE", "AES256; none with WALE_S3_ENDPOINT", "encryption by the server: none (the bucket's default), AES256 or aws:kms[:KEY]"},
	}
}

// s3 reads which bucket is meant, and who asks. The prefix may be that of any store.
func (r *reader) s3(f globalFlags, p prefix, c credentials) s3.Config {
	if p.scheme != "s3" {
		return s3.Config{}
	}
	cfg := s3.Config{
		Bucket: p.store, Prefix: p.keyPath(), Bulk: isBulk,
		Region:       r.env["AWS_REGION"],
		Certificates: r.env["AWS_CA_BUNDLE"],
	}
	var err error
	if endpoint := r.env["WALE_S3_ENDPOINT"]; endpoint != "" {
		if cfg.Endpoint, err = s3.ParseEndpoint(endpoint); err != nil {
			r.complain(fmt.Errorf("WALE_S3_ENDPOINT: %w", err))
			return cfg
		}
	} else {
		cfg.Encryption.Method = "AES256" // bucket policies may demand it, as classic WAL-E always sent it
	}
	if sse := r.env["WALE_S3_SSE"]; sse != "" {
		if cfg.Encryption, err = s3.ParseEncryption(sse); err != nil {
			r.complain(fmt.Errorf("WALE_S3_SSE: %w", err))
			return cfg
		}
	}
	switch class := r.env["WALE_S3_STORAGE_CLASS"]; class {
	case "", "STANDARD":
	case "GLACIER", "DEEP_ARCHIVE":
		if !f.iKnow {
			r.complain(fault.BadSetting.Errorf("WALE_S3_STORAGE_CLASS: objects in %s can't be read before they are restored in S3, which takes hours, "+
				"and every push reads some: use GLACIER_IR or STANDARD_IA, or give the option --i-know", class))
		}
		fallthrough
	default:
		cfg.StorageClass = class
	}
	switch cfg.InstanceProfile = c.awsInstanceProfile; {
	case cfg.InstanceProfile:
	case c.awsAccessKeyID == "" && r.env["AWS_SECRET_ACCESS_KEY"] != "":
		r.complain(fault.Credentials.Errorf("AWS_ACCESS_KEY_ID: is not set, and AWS_SECRET_ACCESS_KEY is: set both or neither"))
	case c.awsAccessKeyID != "" && r.env["AWS_SECRET_ACCESS_KEY"] == "":
		r.complain(fault.Credentials.Errorf("AWS_SECRET_ACCESS_KEY: is not set, and AWS_ACCESS_KEY_ID or --aws-access-key-id is: set both or neither"))
	default:
		cfg.AccessKeyID, cfg.SecretAccessKey = c.awsAccessKeyID, r.env["AWS_SECRET_ACCESS_KEY"]
		if cfg.SessionToken = r.env["AWS_SECURITY_TOKEN"]; cfg.SessionToken == "" {
			cfg.SessionToken = r.env["AWS_SESSION_TOKEN"]
		}
	}
	return cfg
}

// isBulk reports whether an object is one of those that fill an archive.
func isBulk(key string) bool {
	return strings.HasPrefix(key, "chunks_006/packs/") || strings.HasPrefix(key, "wal_006/") ||
		strings.HasPrefix(key, "wal_005/") || strings.Contains(key, "/tar_partitions/") && compat.IsClassic(strings.SplitN(key, "/", 2)[0])
}

// openS3 opens a bucket. Names of the classic layout are those of ours.
func (s *session) openS3(u use) (storage.Bucket, error) {
	cfg := s.s3
	cfg.Idle = u.idle()
	b, err := s3.Open(cfg)
	if err != nil {
		if s.s3.Certificates != "" && !errors.Is(err, storage.ErrInvalid) {
			return nil, fmt.Errorf("AWS_CA_BUNDLE: %w", err)
		}
		return nil, fmt.Errorf("%s: %w", s.prefix.source, err)
	}
	return b, nil
}

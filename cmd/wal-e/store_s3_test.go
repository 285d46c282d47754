package main

import (
	"io"
	"maps"
	"strings"
	"testing"

	"wal-e/internal/storage/s3"
)

func TestS3Config(t *testing.T) {
	t.Parallel()
	const secret = "the-very-secret"
	good := environ{"WALE_S3_PREFIX": "s3://b/p/", "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": secret}
	load := func(env environ, args ...string) (config, error) {
		whole := maps.Clone(good)
		maps.Copy(whole, env)
		a := &app{env: whole, stderr: io.Discard}
		root := newRootCommand(a)
		if err := root.ParseFlags(args); err != nil {
			t.Fatal(err)
		}
		return a.loadConfig()
	}
	for name, tc := range map[string]struct {
		env  environ
		args []string
		want func(s3.Config) bool
	}{
		"keys":           {nil, nil, func(c s3.Config) bool { return c.AccessKeyID == "k" && c.SecretAccessKey == secret }},
		"option":         {nil, []string{"-k", "o"}, func(c s3.Config) bool { return c.AccessKeyID == "o" && c.SecretAccessKey == secret }},
		"prefix":         {nil, nil, func(c s3.Config) bool { return c.Bucket == "b" && c.Prefix == "p/" }},
		"classic token":  {environ{"AWS_SECURITY_TOKEN": "t"}, nil, func(c s3.Config) bool { return c.SessionToken == "t" }},
		"token":          {environ{"AWS_SESSION_TOKEN": "t"}, nil, func(c s3.Config) bool { return c.SessionToken == "t" }},
		"profile":        {environ{"AWS_INSTANCE_PROFILE": "1"}, nil, func(c s3.Config) bool { return c.InstanceProfile && c.AccessKeyID == "" }},
		"chain":          {environ{"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, nil, func(c s3.Config) bool { return !c.InstanceProfile && c.AccessKeyID == "" }},
		"Amazon's":       {nil, nil, func(c s3.Config) bool { return c.Endpoint.Host == "" && c.Encryption.Method == "AES256" }},
		"endpoint":       {environ{"WALE_S3_ENDPOINT": "http+path://h:1"}, nil, func(c s3.Config) bool { return c.Endpoint.Host == "h:1" && c.Encryption.Method == "" }},
		"encryption":     {environ{"WALE_S3_SSE": "aws:kms:x"}, nil, func(c s3.Config) bool { return c.Encryption.KeyID == "x" }},
		"no encryption":  {environ{"WALE_S3_SSE": "none"}, nil, func(c s3.Config) bool { return c.Encryption.Method == "" }},
		"class":          {environ{"WALE_S3_STORAGE_CLASS": "STANDARD_IA"}, nil, func(c s3.Config) bool { return c.StorageClass == "STANDARD_IA" }},
		"standard class": {environ{"WALE_S3_STORAGE_CLASS": "STANDARD"}, nil, func(c s3.Config) bool { return c.StorageClass == "" }},
		"cold class":     {environ{"WALE_S3_STORAGE_CLASS": "GLACIER"}, []string{"--i-know"}, func(c s3.Config) bool { return c.StorageClass == "GLACIER" }},
	} {
		c, err := load(tc.env, tc.args...)
		if err != nil || !tc.want(c.s3) {
			shown := c.s3
			shown.Bulk = nil
			t.Errorf("%s: config is %+v, %v", name, shown, err)
		}
	}
	for name, env := range map[string]environ{
		"WALE_S3_ENDPOINT":      {"WALE_S3_ENDPOINT": "http://h"},
		"WALE_S3_SSE":           {"WALE_S3_SSE": "rot13"},
		"WALE_S3_STORAGE_CLASS": {"WALE_S3_STORAGE_CLASS": "DEEP_ARCHIVE"},
		"AWS_SECRET_ACCESS_KEY": {"AWS_SECRET_ACCESS_KEY": ""},
		"AWS_ACCESS_KEY_ID":     {"AWS_ACCESS_KEY_ID": ""},
	} {
		if _, err := load(env); err == nil || !strings.HasPrefix(err.Error(), name+": ") || strings.Contains(err.Error(), secret) {
			t.Errorf("with %v: %v, want a complaint about %s without secrets", env, err, name)
		}
	}
}

func TestIsBulk(t *testing.T) {
	t.Parallel()
	for key, want := range map[string]bool{
		"chunks_006/packs/R/000001": true, "wal_006/7/000000010000000000000001": true, "wal_005/000000010000000000000001.lzo": true,
		"basebackups_005/base_000000010000000000000002_00000040/tar_partitions/part_00000000.tar.lzo": true,
		"chunks_006/index/R/000001": false, "basebackups_006/base_000000010000000000000002_00000040/R.outcome": false, "chunks_006/config/1": false,
		"basebackups_005/base_000000010000000000000002_00000040_backup_stop_sentinel.json": false, "marks_006/x/tar_partitions/y": false,
	} {
		if got := isBulk(key); got != want {
			t.Errorf("isBulk(%q) = %v, want %v", key, got, want)
		}
	}
}

package main

import (
	"errors"
	"fmt"
	"strings"

	"wal-e/compat"
	"wal-e/internal/fault"
	"wal-e/internal/storage"
	"wal-e/internal/storage/swift"
)

// swiftVariables are those of classic WAL-E.
func swiftVariables() []variable {
	return []variable{
		{"SWIFT_AUTHURL", "https://HOST:PORT/v3", "where to log in"},
		{"SWIFT_AUTH_VERSION", "2", "1, 2 or 3"},
		{"SWIFT_USER", "", "user; in version 1 ACCOUNT:USER"},
		{"SWIFT_USER_ID", "", "in its place in version 3"},
		{"SWIFT_PASSWORD", "", "password or key"},
		{"SWIFT_TENANT", "", "project (tenant); not in version 1"},
		{"SWIFT_TENANT_ID", "", "in its place"},
		{"SWIFT_PROJECT_NAME", "", "the same as SWIFT_TENANT"},
		{"SWIFT_PROJECT_ID", "", "the same as SWIFT_TENANT_ID"},
		{"SWIFT_USER_DOMAIN_NAME", "", "domain of the user, version 3"},
		{"SWIFT_USER_DOMAIN_ID", "default", "in its place"},
		{"SWIFT_PROJECT_DOMAIN_NAME", "", "domain of the project, version 3"},
		{"SWIFT_PROJECT_DOMAIN_ID", "that of the user", "in its place"},
		{"SWIFT_DOMAIN_NAME", "", "domain of user and project where theirs isn't named"},
		{"SWIFT_DOMAIN_ID", "", "in its place"},
		{"SWIFT_REGION", "the first", "region of the storage; not in version 1"},
		{"SWIFT_ENDPOINT_TYPE", "publicURL", "publicURL, internalURL or adminURL; not in version 1"},
	}
}

// swift reads who asks Swift, and where. The prefix may be that of any store.
func (r *reader) swift(p prefix) swift.Config {
	if p.scheme != "swift" {
		return swift.Config{}
	}
	first := func(names ...string) string {
		for _, name := range names {
			if r.env[name] != "" {
				return r.env[name]
			}
		}
		return ""
	}
	c := swift.Config{
		Container:    p.store,
		Prefix:       p.keyPath(),
		AuthURL:      r.env["SWIFT_AUTHURL"],
		User:         r.env["SWIFT_USER"],
		UserID:       r.env["SWIFT_USER_ID"],
		Password:     r.env["SWIFT_PASSWORD"],
		Region:       r.env["SWIFT_REGION"],
		EndpointType: r.env["SWIFT_ENDPOINT_TYPE"],
		Project:      first("SWIFT_TENANT", "SWIFT_PROJECT_NAME"),
		ProjectID:    first("SWIFT_TENANT_ID", "SWIFT_PROJECT_ID"),
	}
	c.UserDomain, c.UserDomainID = r.env["SWIFT_USER_DOMAIN_NAME"], r.env["SWIFT_USER_DOMAIN_ID"]
	if c.UserDomain == "" && c.UserDomainID == "" {
		c.UserDomain, c.UserDomainID = r.env["SWIFT_DOMAIN_NAME"], r.env["SWIFT_DOMAIN_ID"]
	}
	c.ProjectDomain, c.ProjectDomainID = r.env["SWIFT_PROJECT_DOMAIN_NAME"], r.env["SWIFT_PROJECT_DOMAIN_ID"]
	if c.ProjectDomain == "" && c.ProjectDomainID == "" {
		c.ProjectDomain, c.ProjectDomainID = r.env["SWIFT_DOMAIN_NAME"], r.env["SWIFT_DOMAIN_ID"]
	}
	switch v := r.env["SWIFT_AUTH_VERSION"]; strings.TrimSuffix(strings.TrimPrefix(v, "v"), ".0") {
	case "", "2":
		c.AuthVersion = 2
	case "1":
		c.AuthVersion = 1
	case "3":
		c.AuthVersion = 3
	default:
		r.complain(fault.BadSetting.Errorf("SWIFT_AUTH_VERSION: %q: want 1, 2 or 3", v))
		return c
	}
	if _, err := swift.Open(c); err != nil {
		r.complain(swiftComplaint(err, p))
	}
	return c
}

// swiftComplaint says which variable a setting comes from.
func swiftComplaint(err error, p prefix) error {
	var missing *swift.MissingError
	if !errors.As(err, &missing) {
		return fmt.Errorf("%s: %w", p.source, err)
	}
	name := map[string]string{
		"AuthURL": "SWIFT_AUTHURL", "User": "SWIFT_USER", "Password": "SWIFT_PASSWORD", "Project": "SWIFT_TENANT",
	}[missing.Field]
	return fault.Credentials.Errorf("%s: is not set, and %s wants it %s (SWIFT_AUTH_VERSION)", name, p, missing.Why)
}

// openSwift opens a container. Names of the classic layout begin with a slash.
func (s *session) openSwift(u use) (storage.Bucket, error) {
	cfg := s.swift
	cfg.Idle = u.idle()
	b, err := swift.Open(cfg)
	if err != nil {
		return nil, swiftComplaint(err, s.prefix)
	}
	return storage.Divide(b, b.At("/"+s.prefix.keyPath()), compat.IsClassic), nil
}

package main_test

import (
	"testing"

	"wal-e/internal/enginetest"
)

// The listings of a healthy Swift of one node don't lag.
func swiftCases() []storageCase {
	settle := []string{"--settle", "1s"}
	return []storageCase{
		{name: "swift-v1", collect: settle, open: func(t *testing.T) map[string]string {
			s := enginetest.Swift(t, 1)
			s.CreateContainer(t, "archives", nil)
			return map[string]string{
				"WALE_SWIFT_PREFIX": "swift://archives/main", "SWIFT_AUTH_VERSION": "1",
				"SWIFT_AUTHURL": s.AuthURL, "SWIFT_USER": s.User, "SWIFT_PASSWORD": s.Password,
			}
		}},
		{name: "swift-v3", collect: settle, open: func(t *testing.T) map[string]string {
			k := enginetest.Keystone(t)
			s := k.Swift(t, 1)
			s.CreateContainer(t, "archives", nil)
			return map[string]string{
				"WALE_SWIFT_PREFIX": "swift://archives", "SWIFT_AUTH_VERSION": "3", "SWIFT_AUTHURL": k.URL,
				"SWIFT_USER": s.User, "SWIFT_PASSWORD": s.Password, "SWIFT_TENANT": enginetest.KeystoneProject,
				"SWIFT_USER_DOMAIN_NAME": "Default", "SWIFT_PROJECT_DOMAIN_NAME": "Default",
				"SWIFT_REGION": enginetest.KeystoneRegion, "SWIFT_ENDPOINT_TYPE": "publicURL",
			}
		}},
	}
}

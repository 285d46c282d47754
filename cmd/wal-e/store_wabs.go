package main

import (
	"errors"
	"fmt"

	"wal-e/internal/storage"
	"wal-e/internal/storage/azure"
)

// wabsVariables are those of classic WAL-E and the endpoint.
func wabsVariables() []variable {
	return []variable{
		{"WABS_ACCOUNT_NAME", "", "Azure storage account, as --wabs-account-name"},
		{"WABS_ACCESS_KEY", "", "its key; without key and token, what Azure's default chain finds: environment, workload or managed identity"},
		{"WABS_SAS_TOKEN", "", "shared access signature, in place of the key"},
		{"WALE_WABS_ENDPOINT", "https://ACCOUNT.blob.core.windows.net", "blob service of the account, in another cloud or in Azurite"},
	}
}

// wabs reads which container is meant, and who asks. The prefix may be that of
// any store.
func (r *reader) wabs(p prefix, c credentials) azure.Config {
	if p.scheme != "wabs" {
		return azure.Config{}
	}
	cfg := azure.Config{
		Container: p.store,
		Prefix:    p.keyPath(),
		Account:   c.wabsAccountName,
		Endpoint:  r.env["WALE_WABS_ENDPOINT"],
		Key:       r.env["WABS_ACCESS_KEY"],
		SAS:       r.env["WABS_SAS_TOKEN"],
	}
	if cfg.Key != "" {
		cfg.SAS = "" // as ever, the key is preferred
	}
	if _, err := azure.Open(cfg); err != nil {
		r.complain(wabsComplaint(err, p))
	}
	return cfg
}

// wabsComplaint says which variable a setting comes from.
func wabsComplaint(err error, p prefix) error {
	var field *azure.FieldError
	if !errors.As(err, &field) {
		return fmt.Errorf("%s: %w", p.source, err)
	}
	name := map[string]string{
		"Container": p.source, "Account": "WABS_ACCOUNT_NAME (or --wabs-account-name)", "Endpoint": "WALE_WABS_ENDPOINT",
		"Key": "WABS_ACCESS_KEY", "SAS": "WABS_SAS_TOKEN",
	}[field.Field]
	return fmt.Errorf("%s: %w", name, err)
}

// openWABS opens a container. Names of the classic layout are those of ours.
func (s *session) openWABS(u use) (storage.Bucket, error) {
	cfg := s.wabs
	cfg.Idle = u.idle()
	b, err := azure.Open(cfg)
	if err != nil {
		return nil, wabsComplaint(err, s.prefix)
	}
	return b, nil
}

package main

import (
	"fmt"
	"slices"
	"strings"
)

// A variable is one that the command reads from the environment.
type variable struct {
	name, value, about string // value is the default, or its form
}

// variables returns all of ours, as help and README list them. What belongs to
// a store that this version can't speak to isn't here.
func variables() []variable {
	return slices.Concat([]variable{
		{"WALE_FILE_PREFIX", "file://localhost/DIR", "the archive, as --file-prefix"},
		{"WALE_GS_PREFIX", "gs://BUCKET/PATH", "as --gs-prefix"},
		{"WALE_S3_PREFIX", "s3://BUCKET/PATH", "as --s3-prefix"},
		{"WALE_SWIFT_PREFIX", "swift://CONTAINER/PATH", "as --swift-prefix"},
		{"WALE_WABS_PREFIX", "wabs://CONTAINER/PATH", "as --wabs-prefix"},
		{"WALE_GPG_KEY_ID", "", "as --gpg-key-id; set but empty is an error"},
		{"WALE_GPG_PUBLIC_KEY_FILE", "", "public keys to encrypt to, instead of gpg's key ring; several files with commas"},
		{"WALE_GPG_PRIVATE_KEY_FILE", "", "private key to decrypt with, instead of gpg and its agent"},
		{"WALE_GPG_PASSPHRASE_FILE", "", "a file whose first line is the passphrase of that key"},
		{"WALE_ENCRYPTION", "", "required refuses to store or read what this host's keys don't prove; off stores in the clear in an encrypted prefix"},
		{"WALE_ENVDIR", "", "a folder with one file per variable, as envdir reads it; its values win over the environment"},
		{"WALE_STATE_DIR", "$XDG_CACHE_HOME/wal-e, else /var/cache/wal-e", "local state; losing it costs time, never a backup"},
		{"WALE_LAYOUT", "what the prefix has; dedup if it is empty", "dedup or classic: the layout to write in"},
		{"WALE_COMPRESSION", "zstd", "zstd[:LEVEL], LEVEL 1 (fastest) to 22"},
		{"WALE_PUSH_TIMEOUT", "60s", "how long wal-push may take in all"},
		{"WALE_POOL_MEMORY", "256MB", "how much of the files that wal-push sends beside the named one may be in memory at once; the program takes some 110MB besides"},
		{"WALE_MEMORY", "0", "as --memory of backup-push: a number of bytes, or a form like 150MB; 0 for some 320MB with four cores"},
		{"WALE_FETCH_RETRY", "30s", "how long wal-fetch tries storage that can't be reached before it gives up"},
		{"WALE_PREFETCH_BYTES", "256MB", "how much wal-fetch may fetch ahead: a number of bytes, or a form like 64MB"},
		{"WALE_RETRIES", "", "attempts per storage request, 0 for no bound; without it, what the time limits allow"},
		{"WALE_ALLOW_NEW_CLUSTER", "0", "1 accepts a cluster that is new to a prefix which holds another one's archive"},
		{"WALE_LOG_DESTINATION", "stderr,syslog", "a list of stderr and syslog"},
		{"WALE_LOG_FORMAT", "classic", "classic, text or json"},
		{"WALE_SYSLOG_FACILITY", "user", "user, local0 to local7, or another facility"},
	}, s3Variables(), swiftVariables(), wabsVariables(), gsVariables())
}

// variablesText is the table that `wal-e help environment` prints.
func variablesText() string {
	var b strings.Builder
	for _, v := range variables() {
		fmt.Fprintf(&b, "  %s\n      %s", v.name, v.about)
		if v.value != "" {
			fmt.Fprintf(&b, "\n      (%s)", v.value)
		}
		b.WriteString("\n")
	}
	return b.String()
}

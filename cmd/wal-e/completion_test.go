package main

import (
	"bytes"
	"strings"
	"testing"
)

// A shell asks for what can follow.
func TestCompletion(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ args, want string }{
		{"ba", "backup-push"}, {"backup-fetch --target-t", "--target-time"}, {"key ex", "export-recovery"},
	} {
		var out, errs bytes.Buffer
		if err := run(t.Context(), append([]string{"__complete"}, strings.Fields(tc.args)...), nil, nil, &out, &errs); err != nil || !strings.Contains(out.String(), tc.want) {
			t.Errorf("completion of %q = %v, %q, want %s", tc.args, err, out.String(), tc.want)
		}
	}
}

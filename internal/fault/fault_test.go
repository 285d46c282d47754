package fault_test

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"wal-e/internal/fault"
)

func TestOf(t *testing.T) {
	t.Parallel()
	inner := fault.Denied.Errorf("list s3://b: %w", io.EOF)
	for _, tc := range []struct {
		name string
		err  error
		want fault.Kind
		text string
	}{
		{"none", io.EOF, 0, "EOF"},
		{"formatted", inner, fault.Denied, "list s3://b: EOF"},
		{"wrapped", fmt.Errorf("push: %w", inner), fault.Denied, "push: list s3://b: EOF"},
		{"joined", errors.Join(io.ErrClosedPipe, inner), fault.Denied, "io: read/write on closed pipe\nlist s3://b: EOF"},
		{"marked again", fault.Busy.Mark(inner), fault.Busy, "list s3://b: EOF"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if got := fault.Of(tc.err); got != tc.want {
				t.Errorf("Of = %v, want %v", got, tc.want)
			}
			if tc.err.Error() != tc.text {
				t.Errorf("text = %q, want %q", tc.err, tc.text)
			}
			if !errors.Is(tc.err, io.EOF) {
				t.Error("the cause is lost")
			}
		})
	}
	if err := fault.Busy.Mark(nil); err != nil {
		t.Errorf("Mark(nil) = %v", err)
	}
	if got := fault.Denied.String(); got != "WALE-1102" {
		t.Errorf("String = %q", got)
	}
}

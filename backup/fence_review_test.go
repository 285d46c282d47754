package backup

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"wal-e/chunkstore"
	"wal-e/internal/envelope"
	"wal-e/internal/runid"
	"wal-e/internal/storage"
	"wal-e/internal/storage/mem"
)

// TestFenceBesideDamage: an intent that was cut short is nobody's predecessor. It
// must not keep every host from pushing; the host's own dead run is still fenced.
func TestFenceBesideDamage(t *testing.T) {
	t.Parallel()
	b := mem.New(nil)
	refs := make([]chunkstore.Ref, 4)
	for i, host := range []string{"mine", "", "other", "mine"} {
		run, err := runid.New(time.Date(2026, 5, 1+i, 0, 0, 0, 0, time.UTC), nil)
		if err != nil {
			t.Fatal(err)
		}
		refs[i] = chunkstore.Ref{Name: fmt.Sprintf("base_00000001000000000000000%d_00000040", i+1), Run: run}
		data, err := envelope.Encode("intent", 1, chunkstore.Intent{HostID: host})
		if err != nil {
			t.Fatal(err)
		}
		if host == "" {
			data = data[:len(data)/2]
		}
		if err := storage.CreateBytes(t.Context(), b, refs[i].IntentKey(), data, nil); err != nil {
			t.Fatal(err)
		}
	}
	p := &pusher{cfg: PushConfig{Bucket: b}, log: slog.New(slog.DiscardHandler), state: &state{hostID: "mine"}}
	if err := p.fencePredecessors(t.Context()); err != nil {
		t.Fatalf("fencePredecessors = %v", err)
	}
	runs, err := chunkstore.Runs(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range runs {
		if mine := i == 0 || i == 3; r.Open() == mine {
			t.Errorf("run %s is open: %t, want %t", r.Ref, r.Open(), !mine)
		}
	}
}

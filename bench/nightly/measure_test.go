package nightly_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"wal-e/bench/nightly"
)

// What a command read and held counts, its children's too, and no one else's.
func TestMeasure(t *testing.T) {
	t.Parallel()
	const size = 8 << 20
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	out, cost, err := nightly.Measure(os.Args[0], os.Environ(), nil, "sh", "-c", "cat "+path+" >/dev/null; (head -c 64M /dev/zero | tail -c 1 >/dev/null); echo said")
	if err != nil || string(out) != "said\n" {
		t.Fatalf("Measure = %q, %v, want said", out, err)
	}
	if want := int64(size + 2*64<<20); cost.Read < want || cost.Read > want+1<<20 {
		t.Errorf("read %d bytes, want %d and what starting takes", cost.Read, want)
	}
	if cost.CPU <= 0 || cost.Wall <= 0 || cost.Peak <= 0 || cost.Peak > 200<<20 {
		t.Errorf("cost %+v, want time and memory", cost)
	}
	_, cost, err = nightly.Measure(os.Args[0], os.Environ(), nil, "sh", "-c", "head -c 300000000 /dev/zero | tail -c 300000000 >/dev/null")
	if err != nil || cost.Peak < 250e6 {
		t.Errorf("tail of 300 MB held %d bytes (%v), want more", cost.Peak, err)
	}
}

func TestMeasureFails(t *testing.T) {
	t.Parallel()
	_, _, err := nightly.Measure(os.Args[0], os.Environ(), nil, "sh", "-c", "echo reason >&2; exit 3")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || !strings.Contains(err.Error(), "reason") {
		t.Errorf("Measure = %v, want the exit status and the reason", err)
	}
	if _, _, err := nightly.Measure(os.Args[0], os.Environ(), nil, "/nonexistent/program"); err == nil || !strings.Contains(err.Error(), "/nonexistent/program") {
		t.Errorf("Measure of no program = %v, want an error that names it", err)
	}
}

// write makes files of a cluster.
func write(t *testing.T, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for path, content := range files {
		path = filepath.Join(dir, path)
		err := os.MkdirAll(filepath.Dir(path), 0o700)
		if err == nil {
			err = os.WriteFile(path, content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// page is one that compresses to hardly less.
func page(seed byte) []byte {
	p := make([]byte, 8192)
	x := uint32(seed) + 1
	for i := range p {
		x = x*1664525 + 1013904223
		p[i] = byte(x >> 24)
	}
	return p
}

func TestComputeFloor(t *testing.T) {
	t.Parallel()
	join := func(pages ...[]byte) []byte { return bytes.Join(pages, nil) }
	before := write(t, map[string][]byte{"base/1/1": join(page(1), page(2), page(3)), "base/1/2": join(page(4), page(5)), "base/1/3": page(6), "postmaster.opts": {1}})
	after := write(t, map[string][]byte{
		"base/1/1":        join(page(1), page(9), page(3)),                   // one page
		"base/1/2":        join(page(4), page(5), page(7), []byte{1, 2}),     // longer by one and a piece
		"base/1/3":        page(6),                                           // as it was
		"base/1/4":        join(make([]byte, 8192), page(6)),                 // new, whatever other files hold
		"postmaster.opts": {2}, "log/x": page(1), "pg_wal/.wal-e/x": page(2), // none of a backup's
	})
	got, err := nightly.ComputeFloor(before, after)
	if err != nil {
		t.Fatal(err)
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		t.Fatal(err)
	}
	pages := int64(len(enc.EncodeAll(join(page(9), page(7), []byte{1, 2}, make([]byte, 8192), page(6)), nil)))
	want := nightly.Floor{Pages: 5, Bytes: pages, Changed: 3*8192 + 3*8192 + 2 + 2*8192, Total: 9*8192 + 2}
	if got != want {
		t.Errorf("floor %+v, want %+v", got, want)
	}
	if got, err := nightly.ComputeFloor(after, after); err != nil || got.Pages != 0 || got.Bytes != 0 || got.Changed != 0 || got.Total != want.Total {
		t.Errorf("floor of no change %+v (%v), want nothing of %d bytes", got, err, want.Total)
	}
	if got, err := nightly.ComputeFloor("", after); err != nil || got.Pages != 10 || got.Changed != want.Total {
		t.Errorf("floor of the first night %+v (%v), want all 10 pages", got, err)
	}
}

func TestCompare(t *testing.T) {
	t.Parallel()
	files := map[string][]byte{"base/1/1": page(1), "PG_VERSION": []byte("15\n"), "postmaster.pid": {1}}
	want, err := nightly.Sums(write(t, files))
	if err != nil || len(want) != 2 {
		t.Fatalf("Sums found %d files (%v), want 2", len(want), err)
	}
	for name, change := range map[string]func(map[string][]byte){
		"":                               func(f map[string][]byte) { f["postmaster.pid"] = []byte{2} },
		"was not restored":               func(f map[string][]byte) { delete(f, "PG_VERSION") },
		"was restored as something":      func(f map[string][]byte) { f["base/1/1"] = page(2) },
		"was restored and not backed up": func(f map[string][]byte) { f["base/1/2"] = page(2) },
	} {
		restored := map[string][]byte{"base/1/1": page(1), "PG_VERSION": []byte("15\n")}
		change(restored)
		got, err := nightly.Sums(write(t, restored))
		if err != nil {
			t.Fatal(err)
		}
		if err := nightly.Compare(want, got); (err == nil) != (name == "") || err != nil && !strings.Contains(err.Error(), name) {
			t.Errorf("Compare = %v, want %q", err, name)
		}
	}
}

func TestSpreadOf(t *testing.T) {
	t.Parallel()
	if got := nightly.SpreadOf([]float64{5, 1, 3}); got != (nightly.Spread{Median: 3, Min: 1, Max: 5, N: 3}) {
		t.Errorf("SpreadOf = %+v", got)
	}
	if got := nightly.SpreadOf([]float64{4, 1, 2, 9}); got != (nightly.Spread{Median: 3, Min: 1, Max: 9, N: 4}) {
		t.Errorf("SpreadOf = %+v", got)
	}
	if got := nightly.SpreadOf(nil); !math.IsNaN(got.Median) || got.N != 0 {
		t.Errorf("SpreadOf nothing = %+v, want NaN", got)
	}
}

// The report has the figures that it was given, and plots are well-formed.
func TestResult(t *testing.T) {
	t.Parallel()
	r := nightly.Result{Machine: "a machine", Setup: "a setup", Runs: 3,
		Nights:   []nightly.Night{{Work: "first full", Floor: nightly.Floor{Bytes: 100e6}}, {Work: nightly.Random, Floor: nightly.Floor{Bytes: 2e6}}},
		Programs: []nightly.Program{{Name: nightly.Ours, Kept: true, Alone: true, Backup: "a | b"}, {Name: "other <&>", Kept: true, Alone: true}, {Name: "cp", Alone: true, Plain: true}}}
	for night := 1; night <= 2; night++ {
		for run := 1; run <= 3; run++ {
			for i, p := range r.Programs {
				cost := nightly.Cost{Wall: float64(10*run + i), CPU: 1, Peak: 50e6}
				r.Samples = append(r.Samples, nightly.Sample{Night: night, Tool: p.Name, Op: nightly.Backup, Run: run, Stored: int64(i+1) * 3e6, Cost: cost},
					nightly.Sample{Night: night, Tool: p.Name, Op: nightly.Restore, Run: run, Cost: cost})
			}
		}
	}
	dir := t.TempDir()
	if err := r.Write(dir); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| wal-e | 20.00 (10.00–30.00) | 1.00 (1.00–1.00) |", "`a \\| b`", "| floor | 100.0 | 102.0 |\n", "| other <&> | 6.0 | 12.0 |\n",
		"| stored MB, random updates, by the floor | 1.1 | 1.50 |", "| stored MB, random updates, by those that restore alone | 0.4 | 0.50 | other <&>: 3.00 to 6.00 |",
		"| wall s, random updates | 1.0 | 0.95 | other <&>: 20.00 to 21.00 |", "| wall s, restore of night 2, by a plain copy | 1.3 | 0.91 | cp: 20.00 to 22.00 |", "wal-e in any line: 50 MB",
	} {
		if !bytes.Contains(text, []byte(want)) {
			t.Errorf("the report lacks %q:\n%s", want, text)
		}
	}
	if again, err := nightly.Read(dir); err != nil || again.Markdown() != string(text) {
		t.Errorf("the report of what was read again differs (%v)", err)
	}
	plots, err := filepath.Glob(filepath.Join(dir, "*.svg"))
	if err != nil || len(plots) != 4 {
		t.Fatalf("%d plots (%v), want 4", len(plots), err)
	}
	for _, path := range plots {
		checkSVG(t, path)
	}
}

func checkSVG(t *testing.T, path string) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(content, []byte("NaN")) || bytes.Contains(content, []byte("Inf")) {
		t.Errorf("%s has a place that is none", filepath.Base(path))
	}
	d, points := xml.NewDecoder(bytes.NewReader(content)), 0
	for {
		token, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("%s: %v", filepath.Base(path), err)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "circle" {
			points++
		}
	}
	if points < 4 {
		t.Errorf("%s has %d points, want a plot", filepath.Base(path), points)
	}
}

package htmlreport_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"wal-e/internal/htmlreport"
)

var written = flag.String("write", "", "write the page of forty nights to this file, to look at it in a browser")

const gib = 1 << 30

// forty is an archive of forty nights with a fail-over, two gaps and a kept backup.
func forty() *htmlreport.Report {
	begin := time.Date(2026, 9, 1, 2, 0, 0, 0, time.UTC)
	at := func(days float64) time.Time { return begin.Add(time.Duration(days * 24 * float64(time.Hour))) }
	s := htmlreport.System{ID: "7421838103526743210", CostsOf: "base_000000020000002800000001_00000040"}
	logical := int64(0)
	for i := range 40 {
		b := htmlreport.Backup{
			Name: fmt.Sprintf("base_00000001000000%02X00000001_00000040", i), Run: fmt.Sprintf("r%d", i), Timeline: "1", Taken: at(float64(i)), Host: "db1",
			Logical: int64(300+3*i) * gib, Stored: int64(2+i*7%5) * gib / 2, Alone: int64(1+i%4) * gib / 4, Shared: int64(90+i) * gib,
		}
		switch {
		case i == 0:
			b.Stored = 90 * gib
		case i >= 27:
			b.Timeline = "2"
		}
		if i == 9 {
			b.Keep = "until 2027-01-01"
		}
		logical += b.Logical
		s.Backups = append(s.Backups, b)
	}
	s.Timelines = []htmlreport.Timeline{
		{ID: "1", Bytes: 40 * gib, Runs: []htmlreport.Span{{From: at(-.2), Until: at(12.2)}, {From: at(13.6), Until: at(20)}, {From: at(20.01), Until: at(26.7)}}, Gaps: []htmlreport.Gap{
			{Span: htmlreport.Span{From: at(12.2), Until: at(13.6)}, First: "000000010000000C00000021", Last: "000000010000000D0000000A", Segments: 233, Needed: true},
			{Span: htmlreport.Span{From: at(20), Until: at(20.01)}, First: "000000010000001400000007", Last: "000000010000001400000007", Segments: 1, Needed: true},
		}},
		{ID: "2", Origin: "left timeline 1 at 1A/C0000D8", Bytes: 21 * gib, Runs: []htmlreport.Span{{From: at(26.7), Until: at(39.6)}}},
	}
	s.Windows = []htmlreport.Span{{From: at(0), Until: at(12.2)}, {From: at(14), Until: at(20)}, {From: at(21), Until: at(39.6)}}
	for i, name := range []string{"shop", "analytics", "auth", "shared by all databases"} {
		s.Databases = append(s.Databases, htmlreport.Cost{Name: name, Bytes: 240 * gib >> (2 * i)})
	}
	for i, name := range []string{"shop: public.orders", "shop: public.order_lines", "shop: public.orders_customer_id_created_at_idx", "analytics: events.page_views_2026_09", "shop: pg_toast.pg_toast_16421", "", "auth: public.sessions"} {
		s.Relations = append(s.Relations, htmlreport.Cost{Name: name, Path: fmt.Sprintf("base/16384/%d", 16400+i), Bytes: 110 * gib >> i})
	}
	s.Restore = &htmlreport.Estimate{Backup: s.CostsOf, Took: 52 * time.Minute, Basis: "at the speed of the drill of 2026-10-05"}
	return &htmlreport.Report{
		Prefix: "s3://pg-archive/main", Program: "2.0.0", Made: at(39.7), Packs: 181 * gib, WAL: 61 * gib, Logical: logical, Growth: 3 * gib,
		Problems: []htmlreport.Problem{{"system 7421838103526743210: 233 segments are missing: 000000010000000C00000021 to 000000010000000D0000000A", "`wal-e wal-show` prints what there is; docs/runbooks/gap.md says what to do."}},
		Warnings: []htmlreport.Problem{{"the last verification of all backups is 36 days old", "Run `wal-e verify --all --wal` each week."}},
		Verified: &htmlreport.Verified{At: at(3), Host: "db1", Backups: 4, Packs: 800, ReadPacks: 40, Problems: 2, First: "chunks_006/packs/r3/000007: it is missing", WAL: true},
		Data:     &htmlreport.Data{Packs: 1200, NeverRead: 37, Oldest: at(1)},
		Systems:  []htmlreport.System{s},
		Drills: []htmlreport.Drill{
			{Backup: "base_000000020000002200000001_00000040@r34", System: s.ID, OK: true, Begun: at(34.2), Bytes: 402 * gib, Fetch: 47 * time.Minute, Recover: 4 * time.Minute, CheckedBy: "pg_amcheck"},
			{Backup: "base_000000010000001400000001_00000040@r20", System: s.ID, Problem: "query returned no row", Begun: at(20.4), Bytes: 360 * gib, Fetch: 44 * time.Minute, Recover: 3 * time.Minute},
		},
		Open:    []htmlreport.Push{{Backup: "base_000000020000002800000001_00000040@r40", Host: "db1", Since: at(39.69)}},
		Classic: []htmlreport.Classic{{Name: "base_000000010000000000000002_00000040", Stored: at(-30), Logical: -1}},
	}
}

func page(t *testing.T, r *htmlreport.Report) string {
	t.Helper()
	var b bytes.Buffer
	if err := htmlreport.Write(&b, r); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// wellFormed makes sure that all elements of a page are closed in their order.
func wellFormed(t *testing.T, text string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(text))
	d.Strict = false
	d.AutoClose, d.Entity = []string{"meta", "br"}, xml.HTMLEntity
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatalf("the page is malformed: %v", err)
		}
	}
}

// A page has every backup, gap, timeline and drill, loads nothing, and the same
// report makes the same page.
func TestPage(t *testing.T) {
	t.Parallel()
	r := forty()
	got := page(t, r)
	if *written != "" {
		if err := os.WriteFile(*written, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	wellFormed(t, got)
	for pattern, want := range map[string]int{
		`<line class="backup" `: 39, `<line class="backup kept" `: 1, `<g class="gap"><title>[^<]*</title><rect `: 2, `<g class="gap"><title>[^<]*</title><line `: 2, `class="stored beyond" `: 1, `<g class="wal">`: 4, `<g class="window">`: 3,
		`<rect class="stored( beyond)?" `: 40, `<rect class="logical" `: 40, `<tr id="r`: 40, `<b>Timeline `: 2, `missing</span>`: 2,
		`class="red">failed`: 1, `class="green">ok`: 1, `kept until 2027-01-01</span>`: 1, `left timeline 1 at 1A/C0000D8`: 2, `181\.0 GiB`: 1,
		`(?i)<script|<link|<img|<iframe|https?:|url\(|@import`: 0, `ZgotmplZ`: 0, `52 min`: 1, `base/16384/16405`: 1, `unknown</td>`: 1,
		`1 warning</h3>`: 1, `36 days old`: 1, `class="red">2 problems</span>, the first: chunks_006`: 1, `Of 1200 packs all but 37 were read`: 1,
	} {
		if n := len(regexp.MustCompile(pattern).FindAllString(got, -1)); n != want {
			t.Errorf("%s: %d times, want %d", pattern, n, want)
		}
	}
	// The gap of 1.4 days, 12.4 after the first WAL, lies where it is in 39.8 days and a hundredth of that on both sides.
	if !strings.Contains(got, `<title>missing: 233 segments, 000000010000000C00000021 to 000000010000000D0000000A</title><rect x="315.3" y="14" width="34.4" height="14"/>`) {
		t.Errorf("the gap isn't in its place: %s", regexp.MustCompile(`<title>missing: 233.*`).FindString(got))
	}
	if page(t, forty()) != got {
		t.Error("the same report made another page")
	}
}

// Whatever an archive holds is text on the page.
func TestPageEscapes(t *testing.T) {
	t.Parallel()
	const evil = `"'></title></svg></style><script>alert(1)</script>{{.}}`
	now := time.Date(2026, 9, 1, 2, 0, 0, 0, time.UTC)
	s := htmlreport.System{
		ID: evil, CostsOf: evil, Databases: []htmlreport.Cost{{evil, evil, 1}}, Relations: []htmlreport.Cost{{evil, evil, 1}, {"", evil, 1}},
		Backups:   []htmlreport.Backup{{Name: evil, Run: evil, Host: evil, Timeline: evil, Kind: evil, Taken: now, Keep: evil, Epoch: evil, Missing: 1, PageFailures: 1}},
		Timelines: []htmlreport.Timeline{{ID: evil, Origin: evil, Runs: []htmlreport.Span{{now, now}}, Gaps: []htmlreport.Gap{{Span: htmlreport.Span{From: now, Until: now}, First: evil, Last: evil + "2", Segments: 1}}}},
		Restore:   &htmlreport.Estimate{Backup: evil, Basis: evil},
	}
	got := page(t, &htmlreport.Report{
		Prefix: evil, Program: evil, Made: now, Notes: []string{evil}, Problems: []htmlreport.Problem{{evil, evil}}, Warnings: []htmlreport.Problem{{evil, evil}}, Verified: &htmlreport.Verified{Host: evil, Problems: 1, First: evil}, Systems: []htmlreport.System{s},
		Classic: []htmlreport.Classic{{Name: evil}}, Drills: []htmlreport.Drill{{Backup: evil, Problem: evil, CheckedBy: evil}}, Open: []htmlreport.Push{{Backup: evil, Host: evil, Stalled: true}},
	})
	wellFormed(t, got)
	if strings.Contains(got, "<script") || strings.Count(got, "</style>") != 1 || strings.Count(got, "</title></svg>") != 0 {
		t.Errorf("a name became markup:\n%s", got)
	}
	if n := strings.Count(got, "&lt;script&gt;alert(1)"); n < 20 {
		t.Errorf("hostile names stand %d times on the page", n)
	}
}

// An archive that holds nothing, and one that holds classic backups only, have a
// page, too.
func TestPageEmpty(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 9, 1, 2, 0, 0, 0, time.UTC)
	for name, r := range map[string]*htmlreport.Report{
		"empty":          {Prefix: "file://localhost/a", Made: now},
		"classic only":   {Made: now, Classic: []htmlreport.Classic{{Name: "base_000000010000000000000002_00000040", Stored: now, Logical: 5}}},
		"WAL only":       {Made: now, Systems: []htmlreport.System{{ID: "7", Timelines: []htmlreport.Timeline{{ID: "1", Runs: []htmlreport.Span{{now, now}}}}}}},
		"one backup":     {Made: now, Systems: []htmlreport.System{{ID: "7", Backups: []htmlreport.Backup{{Name: "b", Timeline: "1", Taken: now}}}}},
		"verified":       {Made: now, Verified: &htmlreport.Verified{At: now}, Data: &htmlreport.Data{Packs: 2, NeverRead: 2}},
		"nothing's time": {Made: now, Systems: []htmlreport.System{{ID: "7"}}},
	} {
		got := page(t, r)
		wellFormed(t, got)
		for _, bad := range []string{"NaN", "Inf", "0001-01-01", "ZgotmplZ", "%!"} {
			if strings.Contains(got, bad) {
				t.Errorf("%s: the page has %s", name, bad)
			}
		}
		if (name == "classic only") != strings.Contains(got, "Classic backups") || strings.Contains(got, "<figure class=\"card\">") != (name == "WAL only" || name == "one backup") {
			t.Errorf("%s: the page is\n%s", name, got)
		}
	}
}

// page.qtpl.go is what page.qtpl compiles to.
func TestGenerated(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "htmlreport") // whose name is that of the package
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("page.qtpl")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "page.qtpl"), source, 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "run", "github.com/valyala/quicktemplate/qtc@v1.8.0", "-file=page.qtpl")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("qtc: %v\n%s", err, out)
	}
	want, err := os.ReadFile(filepath.Join(dir, "page.qtpl.go"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("page.qtpl.go")
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Error("page.qtpl.go is not what page.qtpl compiles to: run go generate ./internal/htmlreport")
	}
}

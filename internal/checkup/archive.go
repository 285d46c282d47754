package checkup

import (
	"fmt"
	"strings"
	"time"
)

// ArchiveFacts are what is known of what a prefix holds, and of this host's own
// notes on it. An error stands for what couldn't be told.
type ArchiveFacts struct {
	Classic, Dedup bool // layouts that there are
	LayoutsErr     error

	Systems    []string // identifiers of the clusters that archive here
	SystemsErr error

	Backups    []Backup // valid ones
	BackupsErr error    // of those that aren't among them

	Open    []OpenPush
	OpenErr error

	NoSecond     string // why one damaged pack can spoil all backups; "" when there is a copy, or a backup that stands alone
	NoSecondTodo string
	SecondErr    error // why that can't be told

	State    string // folder of local state
	StateErr error  // why it can't be used
}

// A Backup is one that can be restored.
type Backup struct {
	Name    string
	Stopped time.Time
}

// An OpenPush has begun and not ended.
type OpenPush struct {
	Name  string
	Since time.Time // by the store's clock
}

// longOpen is when a push that goes on is taken for one that was killed, as
// --fence-after has it.
const longOpen = 24 * time.Hour

// Archive says what a prefix holds, and whether something in it wants care.
func Archive(f ArchiveFacts, now time.Time) Findings {
	l := &list{area: "archive"}
	l.layouts(f)
	if f.Dedup {
		l.systems(f)
		l.backupsAt(f, now)
		l.pushes(f, now)
		switch {
		case f.SecondErr != nil:
			l.add(Unknown, "copies", "the error names the request that failed", "%v", f.SecondErr)
		case f.NoSecond != "":
			l.add(Warning, "copies", f.NoSecondTodo, "%s", f.NoSecond)
		}
	}
	h := &list{area: "host"}
	h.state(f)
	return append(l.findings, h.findings...)
}

func (l *list) layouts(f ArchiveFacts) {
	const check = "layouts"
	switch {
	case f.LayoutsErr != nil:
		l.add(Unknown, check, "the error names the request that failed", "%v", f.LayoutsErr)
	case f.Classic && f.Dedup:
		l.add(OK, check, "", "wal-e's own; what classic WAL-E has stored is there, too, and can be restored")
	case f.Classic:
		l.add(OK, check, "", "classic WAL-E's, and so it stays: wal-push and backup-push write that (see wal-e help upgrade-layout)")
	case f.Dedup:
		l.add(OK, check, "", "wal-e's own")
	default:
		l.add(OK, check, "", "none: nothing was archived here yet")
	}
}

func (l *list) systems(f ArchiveFacts) {
	const check = "clusters"
	switch {
	case f.SystemsErr != nil:
		l.add(Failure, check, "without its configuration nothing can be pushed or restored: the error names the object", "%v", f.SystemsErr)
	case len(f.Systems) == 1:
		l.add(OK, check, "", "one archives here, with the system identifier %s", f.Systems[0])
	default:
		l.add(OK, check, "", "%d share the prefix, with the system identifiers %s", len(f.Systems), strings.Join(f.Systems, ", "))
	}
}

func (l *list) backupsAt(f ArchiveFacts, now time.Time) {
	const check = "backups"
	if f.BackupsErr != nil {
		l.add(Failure, check, "run wal-e verify --all, which says what each costs; take a base backup", "some can't be read: %v", f.BackupsErr)
	}
	if len(f.Backups) == 0 {
		l.add(Warning, check, "take one: wal-e backup-push PG_CLUSTER_DIRECTORY", "none, and WAL by itself restores nothing")
		return
	}
	newest := f.Backups[0]
	for _, b := range f.Backups {
		if b.Stopped.After(newest.Stopped) {
			newest = b
		}
	}
	l.add(OK, check, "", "%d; the newest is %s, of %s (%s ago)", len(f.Backups), newest.Name, newest.Stopped.UTC().Format(time.RFC3339), age(now.Sub(newest.Stopped)))
}

func (l *list) pushes(f ArchiveFacts, now time.Time) {
	const check = "open pushes"
	if f.OpenErr != nil {
		l.add(Unknown, check, "the error names the request that failed", "%v", f.OpenErr)
		return
	}
	var young, old []string
	for _, p := range f.Open {
		text := fmt.Sprintf("%s since %s", p.Name, p.Since.UTC().Format(time.RFC3339))
		if now.Sub(p.Since) > longOpen {
			old = append(old, text)
		} else {
			young = append(young, text)
		}
	}
	switch {
	case len(old) > 0:
		l.add(Warning, check, "if it isn't under way any more, end it with wal-e gc --abort-running: until then nothing that it may need is removed",
			"%s: longer than a push takes", strings.Join(old, ", "))
	case len(young) > 0:
		l.add(OK, check, "", "%s: under way, or killed; the next push of that host ends those that were", strings.Join(young, ", "))
	default:
		l.add(OK, check, "", "none")
	}
}

func (l *list) state(f ArchiveFacts) {
	const check = "state folder"
	if f.StateErr != nil {
		l.add(Warning, check, "let the user that PostgreSQL runs as write there, or set WALE_STATE_DIR to a folder that it may write to",
			"%s can't be used, so pushes read what they could remember: %v", f.State, f.StateErr)
		return
	}
	l.add(OK, check, "", "%s can be written to", f.State)
}

// age is a duration as people say it.
func age(d time.Duration) string {
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%.0f s", max(d, 0).Seconds())
	case d < 2*time.Hour:
		return fmt.Sprintf("%.0f min", d.Minutes())
	case d < 48*time.Hour:
		return fmt.Sprintf("%.0f h", d.Hours())
	}
	return fmt.Sprintf("%.0f days", d.Hours()/24)
}

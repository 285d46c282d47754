// Package checkup finds out, before the night does, whether an archive can be
// trusted: what a store keeps of the promises that storage.Bucket makes, what
// rules it has that would eat backups, and whether a server archives.
//
// A check looks; it changes nothing but for probes in the folder probe_006 of the
// prefix, which it removes again where it may. What it can't find out it says so:
// a check that passes for want of rights would be worse than none.
package checkup

import "fmt"

// A Status says how a finding is meant.
type Status string

// The statuses.
const (
	OK      Status = "ok"
	Warning Status = "warning" // works today
	Failure Status = "failure" // does not work, or will lose backups
	Unknown Status = "unknown" // could not be found out
)

// A Finding is what one check found.
type Finding struct {
	Area   string `json:"area"`  // what was looked at: storage, server, host
	Check  string `json:"check"` // in a few words
	Status Status `json:"status"`
	Found  string `json:"found"`
	Fix    string `json:"fix,omitempty"` // what to do; empty when all is well
}

// Findings are in the order in which they were made.
type Findings []Finding

// Worst returns Failure if there is one, else Warning if there is one or
// something that could not be found out, else OK.
func (f Findings) Worst() Status {
	worst := OK
	for _, one := range f {
		switch one.Status {
		case Failure:
			return Failure
		case Warning, Unknown:
			worst = Warning
		}
	}
	return worst
}

// Reached reports whether Storage, whose findings come first, could list the prefix:
// without that every other check of what is stored would say the same once more.
func (f Findings) Reached() bool { return len(f) > 0 && f[0].Status != Failure }

// A list collects findings of one area.
type list struct {
	area     string
	findings Findings
}

func (l *list) add(status Status, check, fix, format string, args ...any) {
	l.findings = append(l.findings, Finding{
		Area: l.area, Check: check, Status: status, Found: fmt.Sprintf(format, args...), Fix: fix,
	})
}

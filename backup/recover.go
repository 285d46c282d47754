package backup

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"wal-e/internal/fault"
	"wal-e/internal/postgres"
)

// RecoverConfig says how a restored cluster recovers when it is started.
// RestoreCommand is required by Fetch; the zero value of the rest recovers to
// the end of the WAL on the latest timeline, and then promotes.
type RecoverConfig struct {
	Target    Target
	Exclusive bool // stop before the target, not after it
	// Timeline is TimelineLatest, TimelineCurrent or a number; "" means latest.
	Timeline string
	Action   string // ActionPromote, ActionPause or ActionShutdown; "" means promote

	// RestoreCommand is written as it is. It must hold %f and %p, absolute
	// paths, and no secret.
	RestoreCommand string

	// Standby makes a standby instead. It follows all timelines, keeps
	// primary_conninfo, and goes on archiving.
	Standby bool
	// KeepArchiving leaves archive_mode alone. A copy that archives into the
	// prefix of the original collides with it.
	KeepArchiving bool

	// Timelines returns the timelines that have a history file in the archive,
	// in any order. Nil means that only the backup's own is known.
	Timelines func(ctx context.Context, system string) ([]postgres.Timeline, error)
	// History returns a history from the archive, or an error that wraps
	// storage.ErrNotExist.
	History func(ctx context.Context, system string, tl postgres.Timeline) (postgres.History, error)

	Zone *time.Location // of times that are told to people; nil means UTC
}

// Timelines that have no number.
const (
	TimelineLatest  = "latest"  // the highest that descends from the backup
	TimelineCurrent = "current" // the backup's own
)

// What happens at the target. Of a recovery to the end of WAL there is only one
// end: the server is promoted.
const (
	ActionPromote  = "promote"
	ActionPause    = "pause"
	ActionShutdown = "shutdown"
)

// check says what is wrong with r whatever the backup is.
func (r *RecoverConfig) check() error {
	if _, number := r.timelineNumber(); !number && !slices.Contains([]string{"", TimelineLatest, TimelineCurrent}, r.Timeline) {
		return fault.BadTarget.Errorf("target timeline %q: want latest, current or a number", r.Timeline)
	}
	if !slices.Contains([]string{"", ActionPromote, ActionPause, ActionShutdown}, r.Action) {
		return fault.BadTarget.Errorf("target action %q: want promote, pause or shutdown", r.Action)
	}
	if r.Standby && r.Target.Kind != TargetEnd {
		return fault.BadTarget.Errorf("a standby follows its primary and has no recovery target: leave one of the two away")
	}
	return nil
}

// checkFor says what is wrong with r for a server of that version.
func (r *RecoverConfig) checkFor(v postgres.Version) error {
	if err := r.check(); err != nil {
		return err
	}
	if !strings.Contains(r.RestoreCommand, "%f") || !strings.Contains(r.RestoreCommand, "%p") {
		return fault.BadTarget.Errorf("restore_command %q: want one with %%f and %%p", r.RestoreCommand)
	}
	if strings.ContainsAny(r.RestoreCommand, "\n\r\x00") {
		return fault.BadTarget.Errorf("restore_command must be a single line")
	}
	if r.Target.Kind == TargetLSN && v < postgres.V10 {
		return fault.BadTarget.Errorf("PostgreSQL 9.6 can't recover to an LSN: give a time, a transaction or a restore point")
	}
	return nil
}

func (r *RecoverConfig) timelineNumber() (postgres.Timeline, bool) {
	tl, err := postgres.ParseTimeline(r.Timeline)
	return tl, err == nil
}

func (r *RecoverConfig) action() string {
	if r.Action == "" {
		return ActionPromote
	}
	return r.Action
}

func (r *RecoverConfig) keepsArchiving() bool { return r.Standby || r.KeepArchiving }

// A Setting is a line of a configuration file.
type Setting struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// String returns the line as PostgreSQL reads it.
func (s Setting) String() string {
	return s.Name + " = '" + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(s.Value) + "'"
}

// A RecoveryReport says how a restored cluster will recover.
type RecoveryReport struct {
	Target   string `json:"target"`   // in words, times in UTC and local time
	Timeline string `json:"timeline"` // a number, or latest for a standby
	Action   string `json:"action"`   // at the target
	// Settings were written to File, relative to the data directory; those of
	// AutoSettings to postgresql.auto.conf where File is another (before 12).
	File         string    `json:"file"`
	Settings     []Setting `json:"settings"`
	AutoSettings []Setting `json:"auto_settings,omitempty"`
	Signal       string    `json:"signal_file,omitempty"` // "" before 12
}

// Files that recovery is set up with.
const (
	autoConf       = "postgresql.auto.conf"
	recoveryConf   = "recovery.conf"
	recoverySignal = "recovery.signal"
	standbySignal  = "standby.signal"
)

// report works out what is written for a server of that version. blind says
// that tablespaces are directories in pg_tblspc.
func (r *RecoverConfig) report(v postgres.Version, p route, blind bool) *RecoveryReport {
	rep := &RecoveryReport{
		Target: r.Target.Describe(r.Zone), Timeline: fmt.Sprint(p.timeline), Action: r.action(),
		File: autoConf, Signal: recoverySignal,
	}
	if r.Target.Kind == TargetEnd {
		rep.Action = ActionPromote
	}
	if r.Standby {
		rep.Target, rep.Timeline, rep.Action, rep.Signal = "none: a standby", TimelineLatest, "", standbySignal
	}
	common := r.commonSettings(v, blind)
	if v < postgres.V12 {
		rep.File, rep.Signal = recoveryConf, ""
		rep.AutoSettings = common
		if r.Standby {
			rep.Settings = append(rep.Settings, Setting{"standby_mode", "on"})
		}
		rep.Settings = append(rep.Settings, r.targetSettings(rep)...)
		return rep
	}
	rep.Settings = slices.Concat(r.blankSettings(), r.targetSettings(rep), common)
	return rep
}

// blankSettings are those that the restored configuration may have from
// another recovery, or from the life of a standby. Each must come before the
// target: an empty one after it makes PostgreSQL complain of several targets.
func (r *RecoverConfig) blankSettings() []Setting {
	var names []string
	own, _ := r.Target.setting()
	for _, name := range []string{
		"recovery_target", "recovery_target_lsn", "recovery_target_name", "recovery_target_time", "recovery_target_xid",
	} {
		if name != own.Name {
			names = append(names, name)
		}
	}
	if !r.Standby {
		names = append(names, "primary_conninfo", "primary_slot_name")
	}
	names = append(names, "recovery_end_command", "archive_cleanup_command")
	var blank []Setting
	for _, name := range names {
		blank = append(blank, Setting{name, ""})
	}
	if !r.Standby {
		blank = append(blank, Setting{"recovery_min_apply_delay", "0"})
	}
	return blank
}

func (r *RecoverConfig) targetSettings(rep *RecoveryReport) []Setting {
	list := []Setting{{"restore_command", r.RestoreCommand}, {"recovery_target_timeline", rep.Timeline}}
	target, ok := r.Target.setting()
	if !ok {
		return list
	}
	inclusive := "on"
	if r.Exclusive {
		inclusive = "off"
	}
	return append(list, Setting{"recovery_target_inclusive", inclusive}, Setting{"recovery_target_action", rep.Action}, target)
}

// commonSettings stand in postgresql.auto.conf in every version.
func (r *RecoverConfig) commonSettings(v postgres.Version, blind bool) []Setting {
	var list []Setting
	if blind && v >= postgres.V15 {
		list = append(list, Setting{"allow_in_place_tablespaces", "on"})
	}
	if !r.keepsArchiving() {
		list = append(list, Setting{"archive_mode", "off"})
	}
	return list
}

// Lines around what a fetch writes, so that the next one replaces it.
const (
	blockBegin = "# wal-e backup-fetch: recovery settings, begin"
	blockEnd   = "# wal-e backup-fetch: recovery settings, end"
)

// appendBlock returns conf with the settings at its end, in place of those that
// an earlier fetch wrote.
func appendBlock(conf []byte, about string, settings []Setting) []byte {
	var out strings.Builder
	within := false
	for line := range strings.Lines(string(conf)) {
		switch strings.TrimSpace(line) {
		case blockBegin:
			within = true
		case blockEnd:
			within = false
		default:
			if !within {
				out.WriteString(line)
			}
		}
	}
	if s := out.String(); s != "" && !strings.HasSuffix(s, "\n") {
		out.WriteByte('\n')
	}
	if len(settings) == 0 {
		return []byte(out.String())
	}
	fmt.Fprintf(&out, "%s\n# %s\n", blockBegin, about)
	for _, s := range settings {
		fmt.Fprintln(&out, s)
	}
	fmt.Fprintln(&out, blockEnd)
	return []byte(out.String())
}

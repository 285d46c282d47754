package gc

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"wal-e/internal/postgres"
)

// A Record is one line for people in the form of the classic program, whose
// texts scripts look for. Detail and Hint may be empty.
type Record struct{ Msg, Detail, Hint string }

const dryRunHint = "This is only a dry run -- no actual data is being deleted"

// StartRecord is the first record of a delete.
func StartRecord(dryRun bool) Record {
	if dryRun {
		return Record{Msg: "performing dry run of data deletion"}
	}
	return Record{Msg: "deleting data in the store"}
}

// KeyRecord says that an object is deleted. bucket is the URL of its prefix.
func KeyRecord(bucket, key string, everything, dryRun bool) Record {
	r := Record{Msg: "deleting " + keyKind(key, everything), Detail: "The key being deleted is " + bucket + "/" + key + "."}
	if dryRun {
		r.Hint = dryRunHint
	}
	return r
}

// keyKind is what the classic program calls an object.
func keyKind(key string, everything bool) string {
	isWAL := strings.HasPrefix(key, "wal_")
	name := key[strings.LastIndexByte(key, '/')+1:]
	switch {
	case everything && isWAL:
		return "part of wal logs"
	case everything:
		return "part of a base backup"
	case isWAL && strings.HasSuffix(strings.TrimSuffix(name, ".lzo"), ".backup"):
		return "a backup history file"
	case isWAL:
		return "a wal file"
	case strings.HasSuffix(name, ".outcome"), strings.HasSuffix(name, sentinelSuffix):
		return "a base backup sentinel file"
	case name == "extended_version.txt":
		return "a extended version metadata file" // as it always was
	}
	return "a base backup volume"
}

// SentinelKey is the object that makes the backup one.
func (b Backup) SentinelKey() string {
	if b.Classic {
		return "basebackups_005/" + b.Ref.Name + sentinelSuffix
	}
	return b.Ref.OutcomeKey()
}

// Records tells a plan: what is kept by which rule of a policy that counts, each
// backup that is deleted, and each that is kept though the policy would delete
// it, or kept with just its own WAL. bucket is the URL of the prefix.
func (p *Plan) Records(bucket string, dryRun bool) []Record {
	var records []Record
	if p.policy.keepsByAge() {
		records = append(records, p.summary(bucket))
	}
	for _, d := range p.Decisions {
		key := bucket + "/" + d.SentinelKey()
		switch {
		case !d.Keep:
			r := KeyRecord(bucket, d.SentinelKey(), p.policy.Everything, dryRun)
			r.Detail += "\n" + d.sentence()
			records = append(records, r)
		case d.OwnWAL:
			records = append(records, Record{
				Msg: "keeping a base backup with just its own wal files",
				Detail: fmt.Sprintf("The key being kept is %s.\n%s\nThe wal files being kept are %s to %s.",
					key, d.sentence(), d.firstSegment(), d.lastSegment()),
				Hint: d.keepHint(),
			})
		case d.Rule.protects():
			records = append(records, Record{
				Msg:    "keeping a base backup",
				Detail: fmt.Sprintf("The key being kept is %s.\n%s", key, d.sentence()),
				Hint:   d.keepHint(),
			})
		}
	}
	return records
}

// summary is what the classic program says of "retain".
func (p *Plan) summary(bucket string) Record {
	total, gone := len(p.Decisions), len(p.Deleted())
	hint := p.horizonHint(bucket)
	switch {
	case total == 0:
		return Record{Msg: "Not deleting any data.", Detail: "No existing base backups."}
	case gone == 0 && total == 1:
		return Record{Msg: "Retaining existing base backup.", Hint: hint}
	case gone == 0:
		return Record{Msg: fmt.Sprintf("Retaining all %d base backups.", total), Hint: hint}
	}
	msg := fmt.Sprintf("Deleting %d oldest base backups.", gone)
	if slices.ContainsFunc(p.Decisions[:gone], func(d Decision) bool { return d.Keep }) {
		msg = fmt.Sprintf("Deleting %d base backups.", gone)
	}
	return Record{Msg: msg, Detail: fmt.Sprintf("Found %d total base backups.", total), Hint: hint}
}

// horizonHint names, per system, the backup before whose start WAL is deleted.
func (p *Plan) horizonHint(bucket string) string {
	var hints []string
	for _, h := range p.Horizons {
		i := slices.IndexFunc(p.Decisions, func(d Decision) bool {
			return d.Keep && !d.OwnWAL && d.System == h.System && d.Start == h.From
		})
		if i >= 0 {
			hints = append(hints, "Deleting keys older than "+bucket+"/"+p.Decisions[i].SentinelKey()+".")
		}
	}
	return strings.Join(hints, "\n")
}

// sentence says when a backup was taken and what becomes of it.
func (d Decision) sentence() string {
	return fmt.Sprintf("It was taken %s and %s.", d.Taken.UTC().Format(time.RFC3339), d.Why)
}

func (d Decision) keepHint() string {
	if d.Rule != RuleMark {
		return ""
	}
	return "To release it run wal-e backup-mark " + d.name() + " --release"
}

func (b Backup) firstSegment() string {
	return postgres.SegmentAt(b.Timeline, b.Start, b.segmentSize()).Name(b.segmentSize())
}

func (b Backup) lastSegment() string {
	return postgres.SegmentBefore(b.Timeline, b.Stop, b.segmentSize()).Name(b.segmentSize())
}

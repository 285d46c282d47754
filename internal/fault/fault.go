// Package fault numbers the situations in which a user can find himself when a
// command fails. The number is what an error message ends with, what
// docs/troubleshooting.md has a section for and what wal-e explain prints.
//
// An error whose type or sentinel says already what it is needs nothing of this
// package: the command knows those. It is for errors that nobody branches on.
package fault

import (
	"errors"
	"fmt"
)

// A Kind is one such situation. Numbers are for ever: people search for them.
type Kind int

// String is what users see, such as WALE-1102.
func (k Kind) String() string { return fmt.Sprintf("WALE-%d", int(k)) }

// Errorf is fmt.Errorf of an error of this kind.
func (k Kind) Errorf(format string, args ...any) error {
	return &marked{kind: k, err: fmt.Errorf(format, args...)}
}

// Mark says that err, which keeps its text, is of this kind. Nil stays nil.
func (k Kind) Mark(err error) error {
	if err == nil {
		return nil
	}
	return &marked{kind: k, err: err}
}

type marked struct {
	kind Kind
	err  error
}

func (m *marked) Error() string { return m.err.Error() }
func (m *marked) Unwrap() error { return m.err }

// Of returns the kind that err was given last: what is outside knows more of the
// situation than what it wraps. It is 0 for an error that has none.
func Of(err error) Kind {
	var m *marked
	if errors.As(err, &m) {
		return m.kind
	}
	return 0
}

// How wal-e was called, and the host it runs on.
const (
	Other       Kind = 1000 // none of the others
	Usage       Kind = 1001 // the command line is wrong
	NoPrefix    Kind = 1002 // nobody said where the archive is
	BadSetting  Kind = 1003 // an option or variable has a value that is of no use
	LocalFile   Kind = 1004 // a file or folder of this host can't be read or written
	LocalSpace  Kind = 1005 // a volume of this host is full
	Busy        Kind = 1006 // another wal-e is at work on the same thing
	OutOfTime   Kind = 1007 // it took longer than the settings allow
	Interrupted Kind = 1008 // a signal ended it
	Defect      Kind = 1009 // wal-e itself is wrong
)

// Storage.
const (
	Absent      Kind = 1101 // an object isn't there
	Denied      Kind = 1102 // the store refuses a right
	Refused     Kind = 1103 // the store finds a request wrong: no such bucket, region, class
	Unreachable Kind = 1104 // the store doesn't answer, or not in time
	Untrusted   Kind = 1105 // its certificate isn't trusted
	Credentials Kind = 1106 // credentials are missing, over or wrong
	WeakStore   Kind = 1107 // the store doesn't promise what a deletion needs
	Unmounted   Kind = 1108 // the archive is empty or not there, and wasn't so before
	NameTaken   Kind = 1109 // another object has the name
	Unlike      Kind = 1110 // what arrived isn't what was sent
)

// What the archive holds.
const (
	Damaged      Kind = 1201 // an object isn't what was written
	LostData     Kind = 1202 // a pack that a backup needs is damaged or gone
	Newer        Kind = 1203 // it was written by a later version
	Problems     Kind = 1204 // verify found something
	OtherCluster Kind = 1205 // it is another cluster's
	Unclear      Kind = 1206 // which layout the archive has can't be told
)

// Taking a base backup.
const (
	NotCluster   Kind = 1301 // the directory is no data directory
	NoServer     Kind = 1302 // PostgreSQL can't be reached, or lost the session
	Rights       Kind = 1303 // the role may not take a backup
	NotArchiving Kind = 1304 // the server doesn't archive its WAL
	OtherServer  Kind = 1305 // the server isn't that of the directory
	Changed      Kind = 1306 // the cluster changed in a way that spoils the backup
	WALMissing   Kind = 1307 // the WAL of the backup isn't in the archive
	Fenced       Kind = 1308 // the push was declared dead, or what it needs was removed
	Running      Kind = 1309 // a server runs where none may, or wasn't shut down cleanly
	BadPages     Kind = 1310 // pages have wrong checksums
	Unstorable   Kind = 1311 // a file can't be part of a backup
	BadControl   Kind = 1312 // pg_control or another file of the server can't be understood
)

// Restoring.
const (
	NoBackup    Kind = 1401 // there is no such backup
	Ambiguous   Kind = 1402 // several clusters' backups are meant
	TargetInUse Kind = 1403 // the directory to restore to holds something
	OtherFetch  Kind = 1404 // it holds another unfinished fetch
	Tablespaces Kind = 1405 // where tablespaces go
	Owner       Kind = 1406 // whom the files belong to
	NoRoute     Kind = 1407 // no backup leads to the recovery target
	BadTarget   Kind = 1408 // the recovery settings don't fit
	Deleted     Kind = 1409 // the backup was deleted meanwhile
	NoEntry     Kind = 1410 // the backup has no such file
	Unarchived  Kind = 1411 // the directory to restore over has the only copy of WAL
)

// WAL.
const (
	NoWALFile   Kind = 1501 // the file to archive isn't there
	BadSegment  Kind = 1502 // the file isn't a whole WAL segment
	WALConflict Kind = 1503 // the archive has other bytes of that name
	WALOther    Kind = 1504 // the file is another cluster's
	WALGap      Kind = 1505 // WAL is missing in the archive
	WALWhose    Kind = 1506 // whose WAL is asked for can't be told
	WALDamaged  Kind = 1507 // a WAL object isn't what was archived
)

// Deleting.
const (
	Marked     Kind = 1601 // a mark or rule keeps what should go
	TooLate    Kind = 1602 // what was deleted can't come back
	LastResort Kind = 1603 // it would delete the only backups
	NotDeleted Kind = 1604 // the classic backups don't say what they need
)

// Encryption.
const (
	NoRecipient Kind = 1701 // nobody is named to encrypt to
	BadKey      Kind = 1702 // a key can't be used
	NoSecretKey Kind = 1703 // the private key isn't at hand
	NoHostKeys  Kind = 1704 // this host lacks the prefix's keys
	BadMessage  Kind = 1705 // what was encrypted is damaged or forged
	Required    Kind = 1706 // WALE_ENCRYPTION forbids it
	NoEpoch     Kind = 1707 // secrets of an epoch are gone, or several fit
)

// The classic layout.
const (
	NotClassic Kind = 1801 // it can't be done in, or with, the classic layout
	Incomplete Kind = 1802 // a classic backup lacks parts
	BadMember  Kind = 1803 // a classic object isn't what the original wrote
	NoImport   Kind = 1804 // it can't be imported
)

// Proving that the archive is good.
const (
	DrillFailed Kind = 1901 // a restored cluster doesn't work
	NoPrograms  Kind = 1902 // PostgreSQL's programs aren't on this host
	Attention   Kind = 1903 // check or status found what needs care
)

package logging

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
)

// A Facility is a syslog facility.
type Facility int

// User is the facility of programs that say nothing else.
const User Facility = 1

// ParseFacility parses the name of a facility, in any case.
func ParseFacility(name string) (Facility, bool) {
	names := map[string]Facility{
		"kern": 0, "user": User, "mail": 2, "daemon": 3, "auth": 4, "security": 4, "syslog": 5, "lpr": 6, "news": 7,
		"uucp": 8, "cron": 9, "authpriv": 10, "ftp": 11, "ntp": 12, "console": 14, "solaris-cron": 15,
		"local0": 16, "local1": 17, "local2": 18, "local3": 19, "local4": 20, "local5": 21, "local6": 22, "local7": 23,
	}
	f, ok := names[strings.ToLower(name)]
	return f, ok
}

// SyslogSockets are where a local syslog listens.
func SyslogSockets() []string { return []string{"/dev/log", "/var/run/log", "/var/run/syslog"} }

const (
	// sendTimeout bounds the wait for a syslog that doesn't read.
	sendTimeout = time.Second
	// maxDatagram is what a datagram may hold: systems take at least this much.
	maxDatagram = 60 << 10
)

// A Syslog sends records to a datagram socket, each as one datagram: priority,
// record, NUL. It connects for the first record. When that fails, or a syslog
// doesn't read, it is silent from then on; one that was started anew, which a push
// of many hours may see, is connected to again. It is used by one goroutine at a
// time.
type Syslog struct {
	facility Facility
	sockets  []string
	notes    io.Writer

	conn    net.Conn
	reached bool // it was there once
	gone    bool // it isn't asked any more
}

// NewSyslog returns a Syslog for the first of the sockets that exists. What
// people should know about a connection that fails goes to notes.
func NewSyslog(f Facility, sockets []string, notes io.Writer) *Syslog {
	return &Syslog{facility: f, sockets: sockets, notes: notes}
}

func (s *Syslog) send(level slog.Level, record string) {
	if s.gone {
		return
	}
	if len(record) > maxDatagram {
		record = record[:maxDatagram]
	}
	datagram := fmt.Sprintf("<%d>%s\x00", int(s.facility)<<3|severity(level), record)
	for range 2 { // one that was started anew lost the connection
		if s.conn == nil && !s.connect() {
			s.gone = !s.reached
			return
		}
		err := s.conn.SetWriteDeadline(time.Now().Add(sendTimeout))
		if err == nil {
			_, err = s.conn.Write([]byte(datagram))
		}
		if err == nil {
			return
		}
		_ = s.conn.Close() // nothing is buffered in it
		s.conn = nil
		if errors.Is(err, os.ErrDeadlineExceeded) {
			s.gone = true
			return
		}
	}
}

func (s *Syslog) connect() bool {
	path := ""
	for _, p := range s.sockets {
		// Some systems have a folder of that name.
		if info, err := os.Stat(p); err == nil && info.Mode()&os.ModeSocket != 0 {
			path = p
			break
		}
	}
	if path == "" {
		return false
	}
	conn, err := net.DialTimeout("unixgram", path, sendTimeout)
	if err != nil {
		if !s.reached && (errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.ECONNREFUSED)) {
			fmt.Fprintf(s.notes, "wal-e: nothing goes to syslog: %v\n", err)
		}
		return false
	}
	s.conn, s.reached = conn, true
	return true
}

// severity returns syslog's number for a level.
func severity(l slog.Level) int {
	switch {
	case l < slog.LevelInfo:
		return 7
	case l < slog.LevelWarn:
		return 6
	case l < slog.LevelError:
		return 4
	case l < LevelCritical:
		return 3
	}
	return 2
}

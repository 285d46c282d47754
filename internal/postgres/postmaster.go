package postgres

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"wal-e/internal/fault"
)

// A Postmaster is what postmaster.pid says of the server that runs, or ran, on a
// data directory (pidfile.h).
type Postmaster struct {
	PID        int
	DataDir    string
	Port       uint16
	SocketDir  string // the first one; may be empty
	ListenAddr string // the first one, "*" for all; may be empty
}

// ParsePostmasterPID parses postmaster.pid. A server that starts writes the lines
// from Port on later than the first: until then those are zero.
func ParsePostmasterPID(b []byte) (Postmaster, error) {
	lines := strings.SplitN(string(b), "\n", 8)
	line := func(i int) string {
		if i < len(lines) {
			return strings.TrimSpace(lines[i])
		}
		return ""
	}
	pid, err := strconv.ParseInt(line(0), 10, 32)
	if err != nil || pid == 0 {
		return Postmaster{}, fault.BadControl.Errorf("postgres: postmaster.pid begins with %.20q: want a process id", line(0))
	}
	if pid < 0 { // single-user mode
		pid = -pid
	}
	p := Postmaster{PID: int(pid), DataDir: line(1), SocketDir: line(4), ListenAddr: line(5)}
	if line(3) != "" {
		port, err := strconv.ParseUint(line(3), 10, 16)
		if err != nil {
			return Postmaster{}, fault.BadControl.Errorf("postgres: postmaster.pid has port %.20q", line(3))
		}
		p.Port = uint16(port)
	}
	return p, nil
}

// ReadPostmasterPID reads postmaster.pid of a data directory. Its error wraps
// os.ErrNotExist when there is none, so no server runs.
func ReadPostmasterPID(dir string) (Postmaster, error) {
	b, err := os.ReadFile(filepath.Join(dir, "postmaster.pid"))
	if err != nil {
		return Postmaster{}, err
	}
	return ParsePostmasterPID(b)
}

// address returns host and port for a connection from this machine, where the
// server has a socket or an address that is reachable here.
func (p Postmaster) address() (host string, ok bool) {
	if p.Port == 0 {
		return "", false
	}
	if filepath.IsAbs(p.SocketDir) {
		_, err := os.Stat(filepath.Join(p.SocketDir, fmt.Sprintf(".s.PGSQL.%d", p.Port)))
		return p.SocketDir, err == nil
	}
	switch p.ListenAddr {
	case "":
		return "", false
	case "*", "0.0.0.0", "::":
		return "localhost", true
	}
	return p.ListenAddr, true
}

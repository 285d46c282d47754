package main

import (
	"fmt"
	"log/slog"
	"os"
	"strings"

	"wal-e/internal/logging"
)

// logger returns the log that variables and --terse ask for. There always is
// one; what is wrong with the variables loadConfig reports.
func (a *app) logger() *slog.Logger {
	if a.log != nil {
		return a.log
	}
	c := logging.Config{PID: os.Getpid()}
	if a.flags.terse {
		c.Level = slog.LevelWarn
	}
	var err error
	if c.Format, err = logging.ParseFormat(a.env["WALE_LOG_FORMAT"]); err != nil {
		a.logErr = fmt.Errorf("WALE_LOG_FORMAT: %w", err)
	}

	list, set := a.env["WALE_LOG_DESTINATION"]
	if !set {
		list = "stderr,syslog"
	}
	var unknown []string
	for name := range strings.SplitSeq(list, ",") {
		switch name {
		case "stderr":
			c.Stderr = a.stderr
		case "syslog":
			c.Syslog = a.syslog()
		default:
			unknown = append(unknown, name)
		}
	}
	if c.Stderr == nil && c.Syslog == nil {
		// Without any destination, what matters is still to be seen.
		c.Stderr = a.stderr
		c.Level = slog.LevelWarn
	}
	a.log = logging.New(c)
	for _, name := range unknown {
		a.log.Warn("unknown log destination",
			"detail", fmt.Sprintf("WALE_LOG_DESTINATION: %q: want stderr or syslog, or both with a comma between.", name))
	}
	return a.log
}

func (a *app) syslog() *logging.Syslog {
	facility := logging.User
	if name, set := a.env["WALE_SYSLOG_FACILITY"]; set {
		f, ok := logging.ParseFacility(name)
		if ok {
			facility = f
		} else {
			fmt.Fprintln(a.stderr, "invalid syslog facility level specified")
		}
	}
	return logging.NewSyslog(facility, logging.SyslogSockets(), a.stderr)
}

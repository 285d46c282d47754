package progress_test

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// ownTerminal makes the standard error stream the terminal of the process.
func ownTerminal() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 2}
}

// stopOutput makes writes to a terminal wait.
func stopOutput(f *os.File) error {
	const off = 0 // TCOOFF
	return unix.IoctlSetInt(int(f.Fd()), unix.TCXONC, off)
}

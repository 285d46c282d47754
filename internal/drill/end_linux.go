package drill

import "syscall"

// endWithUs has the kernel shut the server down at once when this process dies,
// whatever it dies of.
func endWithUs(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGQUIT }

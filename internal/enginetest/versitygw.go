package enginetest

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// Versitygw starts a gateway that keeps objects as plain files.
func Versitygw(t testing.TB) *S3Server {
	t.Helper()
	addr := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	s := &S3Server{Addr: addr, AccessKey: "vgwadmin", SecretKey: "vgwsecret", Region: "us-east-1"}
	cmd := exec.Command(program(t, "versitygw", "bin/versitygw"), "--port", addr, "--iam-dir", t.TempDir(), "--quiet", "posix", t.TempDir())
	cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+s.AccessKey, "ROOT_SECRET_KEY="+s.SecretKey)
	s.Process = start(t, "versitygw", cmd, answers("http://"+addr+"/"))
	return s
}

package enginetest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const minioUser, minioSecret = "minioadmin", "minioadmin"

// minioEnv keeps MinIO to itself. _MINIO_SERVER_LOCAL makes a node of a cluster
// on 127.0.0.1 start in a container, too.
func minioEnv(addr string) []string {
	return append(os.Environ(),
		"MINIO_ROOT_USER="+minioUser, "MINIO_ROOT_PASSWORD="+minioSecret,
		"MINIO_UPDATE=off", "MINIO_BROWSER=off", "MINIO_CI_CD=1", "_MINIO_SERVER_LOCAL="+addr)
}

// MinIO starts a MinIO of one node. More variables may be given as NAME=VALUE.
func MinIO(t testing.TB, env ...string) *S3Server {
	t.Helper()
	return minio(t, "", env)
}

// MinIOWithTLS starts a MinIO that speaks HTTPS, with public.crt and private.key
// of a folder.
func MinIOWithTLS(t testing.TB, certificates string, env ...string) *S3Server {
	t.Helper()
	return minio(t, certificates, env)
}

func minio(t testing.TB, certificates string, env []string) *S3Server {
	t.Helper()
	addr := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	args := []string{"server", "--quiet", "--address", addr}
	s := &S3Server{Addr: addr, AccessKey: minioUser, SecretKey: minioSecret, Region: "us-east-1"}
	if certificates != "" {
		s.tls = true
		args = append(args, "--certs-dir", certificates)
	}
	cmd := exec.Command(program(t, "minio", "bin/minio"), append(args, t.TempDir())...)
	cmd.Env = append(minioEnv(addr), env...)
	ready := answers("http://"+addr+"/minio/health/live", 200)
	if s.tls {
		// Its certificate is the test's matter; it is up once a bucket can be looked for.
		ready = func(ctx context.Context) error {
			_, err := s.Client().ListBuckets(ctx, nil)
			return err
		}
	}
	s.Process = start(t, "minio", cmd, ready)
	return s
}

// A Cluster is a MinIO of several nodes; its S3Server is the first of them.
type Cluster struct {
	*S3Server
	Nodes []*Process
	again []func() // start a node once more
}

// MinIOCluster starts a MinIO of four nodes with one disk each, of which two may
// be lost for reading and one for writing.
func MinIOCluster(t testing.TB) *Cluster {
	t.Helper()
	const nodes = 4
	var addrs, disks []string
	for n := range nodes {
		addrs = append(addrs, fmt.Sprintf("127.0.0.1:%d", freePort(t)))
		disks = append(disks, "http://"+addrs[n]+filepath.Join(t.TempDir(), "disk"))
	}
	c := &Cluster{S3Server: &S3Server{Addr: addrs[0], AccessKey: minioUser, SecretKey: minioSecret, Region: "us-east-1"}}
	for n, addr := range addrs {
		run := func() *Process {
			cmd := exec.Command(program(t, "minio", "bin/minio"), append([]string{"server", "--quiet", "--address", addr}, disks...)...)
			cmd.Env = minioEnv(addr)
			return start(t, fmt.Sprintf("minio-%d", n), cmd, answers("http://"+addr+"/minio/health/live"))
		}
		c.Nodes = append(c.Nodes, run())
		c.again = append(c.again, func() { c.Nodes[n] = run() })
	}
	c.Process = c.Nodes[0]
	wait(t, "a MinIO of "+strings.Join(addrs, ", "), answers("http://"+addrs[0]+"/minio/health/cluster", 200))
	return c
}

// Restart starts a node that was killed.
func (c *Cluster) Restart(n int) { c.again[n]() }

// wait waits until ready returns nil.
func wait(t testing.TB, what string, ready func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for {
		err := ready(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s does not answer: %v", what, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

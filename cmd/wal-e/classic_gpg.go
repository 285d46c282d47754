package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"time"

	"wal-e/compat"
)

// gpgDecrypt runs gpg as classic WAL-E does, with the key ring and the agent of
// the user who runs this. It is a compat.Decrypt.
func gpgDecrypt(ctx context.Context, message io.Reader) (io.ReadCloser, error) {
	cmd := exec.CommandContext(ctx, "gpg", "-d", "-q", "--batch")
	g := &gpgReader{cmd: cmd, in: keptError{r: message}}
	cmd.Stdin = &g.in
	cmd.WaitDelay = 5 * time.Second
	cmd.Stderr = &g.stderr
	var err error
	if g.out, err = cmd.StdoutPipe(); err != nil {
		return nil, fmt.Errorf("start gpg: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start gpg, which decrypts: %w; install it, for example the package gnupg", err)
	}
	return g, nil
}

// A gpgReader reads what gpg decrypts. It ends only when gpg has ended well: until
// then gpg may still find that the message isn't authentic.
type gpgReader struct {
	cmd    *exec.Cmd
	in     keptError
	out    io.ReadCloser
	stderr limitedBuffer
	ended  bool
	once   sync.Once
	err    error // of gpg
}

func (g *gpgReader) Read(p []byte) (int, error) {
	if g.ended {
		return 0, cmp.Or(g.err, io.EOF)
	}
	n, err := g.out.Read(p)
	if err == io.EOF {
		g.ended = true
		return n, cmp.Or(g.wait(), io.EOF)
	}
	return n, err
}

func (g *gpgReader) wait() error {
	g.once.Do(func() {
		if err := g.cmd.Wait(); err != nil {
			g.err = fmt.Errorf("%w: gpg: %w: %s", compat.ErrUndecipherable, err, strings.TrimSpace(g.stderr.String()))
		}
		if g.in.err != nil {
			g.err = g.in.err // then gpg only saw an early end
		}
	})
	return g.err
}

// Close ends gpg if it still runs. That it ended badly then was our doing, or was
// told by Read.
func (g *gpgReader) Close() error {
	_ = g.cmd.Process.Kill()
	_ = g.wait()
	return nil
}

// A limitedBuffer keeps the first bytes written to it, and swallows the rest.
type limitedBuffer struct{ bytes.Buffer }

func (b *limitedBuffer) Write(p []byte) (int, error) {
	b.Buffer.Write(p[:min(len(p), max(0, 2000-b.Len()))])
	return len(p), nil
}

// A keptError is a reader that remembers with what error it ended.
type keptError struct {
	r   io.Reader
	err error
}

func (k *keptError) Read(p []byte) (int, error) {
	n, err := k.r.Read(p)
	if err != nil && err != io.EOF {
		k.err = err
	}
	return n, err
}

//go:build e2e

package main

import (
	"bytes"
	"context"
	"crypto/x509"
	_ "embed"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

//go:embed replace_header.py
var replaceHeader []byte

// mitmproxy is what people use who substitute headers in TLS without Atoll. It
// verifies the origin's certificate, as Atoll does.
type mitmproxy struct {
	dir  string
	cmd  *exec.Cmd
	addr string
	out  bytes.Buffer
	done chan struct{} // closed when it has ended
}

const mitmproxyPatience = 30 * time.Second // to start and to end

// startMitmproxy starts it on loopback in front of an origin that it trusts.
// With streamed set it passes bodies on as they come; otherwise it holds each
// until its end.
func startMitmproxy(ctx context.Context, origin *httptest.Server, streamed bool) (_ *mitmproxy, err error) {
	program := os.Getenv("ATOLL_BENCH_MITMDUMP")
	if program == "" {
		return nil, errors.New("ATOLL_BENCH_MITMDUMP names no mitmdump: `make bench` installs one")
	}
	m := &mitmproxy{done: make(chan struct{})}
	if m.dir, err = os.MkdirTemp("", "atoll-bench-"); err != nil {
		return nil, err
	}
	if m.addr, err = freeAddr(); err == nil {
		err = errors.Join(writePEM(m.file("origin.pem"), origin.Certificate()), os.WriteFile(m.file("replace_header.py"), replaceHeader, 0o600))
	}
	if err == nil {
		m.cmd = m.command(ctx, program, origin.URL, streamed)
		err = m.cmd.Start()
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(m.dir))
	}
	go func() {
		_ = m.cmd.Wait()
		close(m.done)
	}()
	if err := m.awaitStart(); err != nil {
		m.stop()
		return nil, fmt.Errorf("start mitmproxy: %w: %.2000s", err, m.out.String())
	}
	return m, nil
}

func (m *mitmproxy) file(name string) string { return filepath.Join(m.dir, name) }

func (m *mitmproxy) command(ctx context.Context, program, origin string, streamed bool) *exec.Cmd {
	host, port, _ := net.SplitHostPort(m.addr)
	options := []string{
		"confdir=" + m.dir, "ssl_verify_upstream_trusted_ca=" + m.file("origin.pem"), "http3=false",
		"flow_detail=0", "termlog_verbosity=warn", "placeholder=" + placeholder, "secret=" + secret,
	}
	if streamed {
		options = append(options, "stream_large_bodies=1")
	}
	args := []string{"--mode", "reverse:" + origin, "--listen-host", host, "--listen-port", port, "--scripts", m.file("replace_header.py")}
	for _, o := range options {
		args = append(args, "--set", o)
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &m.out, &m.out, mitmproxyPatience
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	return cmd
}

func writePEM(file string, c *x509.Certificate) error {
	return os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}), 0o600)
}

func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// awaitStart waits until it listens, which is after it has made its authority.
func (m *mitmproxy) awaitStart() error {
	for deadline := time.Now().Add(mitmproxyPatience); time.Now().Before(deadline); {
		if c, err := net.Dial("tcp", m.addr); err == nil {
			return c.Close()
		}
		select {
		case <-m.done:
			return errors.New("it has ended")
		case <-time.After(50 * time.Millisecond):
		}
	}
	return errors.New("it does not listen")
}

func (m *mitmproxy) stop() {
	_ = m.cmd.Process.Signal(unix.SIGTERM)
	<-m.done
	_ = os.RemoveAll(m.dir)
}

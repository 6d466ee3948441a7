//go:build e2e

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	_ "embed"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	openedSize = 256 << 20 // bytes
	openedRuns = 3
)

//go:embed replace_header.py
var replaceHeader []byte

// mitmproxy is what people use who substitute headers in TLS without Atoll. It
// verifies the origin's certificate, as Atoll does, and speaks HTTP/1.1 only.
type mitmproxy struct {
	dir  string
	cmd  *exec.Cmd
	addr string
	out  bytes.Buffer
	done chan struct{} // closed when it has ended
}

const mitmproxyPatience = 30 * time.Second // to start and to end

// startMitmproxy starts it as an HTTP proxy on loopback that trusts the
// origin. With streamed set it passes bodies on as they come; otherwise it
// holds each until its end.
func startMitmproxy(ctx context.Context, origin *x509.Certificate, streamed bool) (_ *mitmproxy, err error) {
	program := os.Getenv("ATOLL_BENCH_MITMDUMP")
	if program == "" {
		return nil, errors.New("ATOLL_BENCH_MITMDUMP names no mitmdump: `make bench` installs one")
	}
	m := &mitmproxy{done: make(chan struct{})}
	if m.dir, err = os.MkdirTemp("", "atoll-bench-"); err != nil {
		return nil, err
	}
	if m.addr, err = freeAddr(); err == nil {
		err = errors.Join(writePEM(m.file("origin.pem"), origin), os.WriteFile(m.file("replace_header.py"), replaceHeader, 0o600))
	}
	if err == nil {
		m.cmd = m.command(ctx, program, streamed)
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

func (m *mitmproxy) command(ctx context.Context, program string, streamed bool) *exec.Cmd {
	host, port, _ := net.SplitHostPort(m.addr)
	options := []string{
		"confdir=" + m.dir, "ssl_verify_upstream_trusted_ca=" + m.file("origin.pem"), "http2=false", "http3=false",
		"flow_detail=0", "termlog_verbosity=warn", "placeholder=" + placeholder, "secret=" + secret,
	}
	if streamed {
		options = append(options, "stream_large_bodies=1")
	}
	args := []string{"--listen-host", host, "--listen-port", port, "--scripts", m.file("replace_header.py")}
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

// visitor asks through the proxy, with the placeholder.
func (m *mitmproxy) visitor(origin string) (*visitor, error) {
	authority, err := os.ReadFile(m.file("mitmproxy-ca-cert.pem"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(authority) {
		return nil, errors.New("mitmproxy's authority is no certificate")
	}
	through := http.ProxyURL(&url.URL{Scheme: "http", Host: m.addr})
	return &visitor{&http.Client{Transport: transport(roots, through)}, origin, placeholder}, nil
}

func transport(roots *x509.CertPool, proxy func(*http.Request) (*url.URL, error)) *http.Transport {
	const ioSize = 64 << 10
	return &http.Transport{Proxy: proxy, TLSClientConfig: &tls.Config{RootCAs: roots}, ReadBufferSize: ioSize, WriteBufferSize: ioSize}
}

func straight(origin *httptest.Server) *visitor {
	roots := x509.NewCertPool()
	roots.AddCert(origin.Certificate())
	return &visitor{&http.Client{Transport: transport(roots, nil)}, origin.URL, secret}
}

// mitmproxyFigure measures what TLS that is opened, and one header replaced in
// it, costs with mitmproxy: both its ways, beside no proxy at all, all on
// loopback. The same of Atoll belongs into the column "Atoll" of these rows;
// newOrigin and startMitmproxy are for its figure, too.
func mitmproxyFigure(ctx context.Context, b *bench) error {
	origin := newOrigin()
	defer origin.Close()
	ways := []*way{{name: "direct", visitor: straight(origin)}}
	for _, name := range []string{"streamed", "buffered"} {
		m, err := startMitmproxy(ctx, origin.Certificate(), name == "streamed")
		if err != nil {
			return err
		}
		defer m.stop()
		v, err := m.visitor(origin.URL)
		if err != nil {
			return err
		}
		ways = append(ways, &way{name: name, visitor: v})
	}
	if err := inTurns(openedRuns, ways, func(w *way) error { return w.transfer(ctx) }); err != nil {
		return err
	}
	if err := inTurns(b.runs*5, ways, func(w *way) error { return w.ask(ctx) }); err != nil {
		return err
	}
	b.addOpened(ways)
	return nil
}

func inTurns(n int, ways []*way, do func(*way) error) error {
	for range n {
		for _, w := range ways {
			if err := do(w); err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
		}
	}
	return nil
}

// way is one way to the origin, and what was measured on it.
type way struct {
	name            string
	visitor         *visitor
	down, up, small []time.Duration
}

func (w *way) transfer(ctx context.Context) error {
	down, err := w.visitor.download(ctx, openedSize)
	if err != nil {
		return err
	}
	up, err := w.visitor.upload(ctx, openedSize)
	w.down, w.up = append(w.down, down), append(w.up, up)
	return err
}

func (w *way) ask(ctx context.Context) error {
	took, err := w.visitor.small(ctx)
	w.small = append(w.small, took)
	return err
}

// addOpened adds what was measured on the ways, of which the first has no
// proxy.
func (b *bench) addOpened(ways []*way) {
	var down, up, small []string
	direct := median(ways[0].small)
	for _, w := range ways {
		down = append(down, w.name+" "+rate(openedSize, median(w.down)))
		up = append(up, w.name+" "+rate(openedSize, median(w.up)))
		small = append(small, w.name+" +"+ms(median(w.small)-direct))
	}
	small[0] = "direct " + ms(direct)
	size := fmt.Sprintf("%d MiB through opened TLS", openedSize>>20)
	b.add("download "+size, "", "mitmproxy: "+strings.Join(down, ", "), "")
	b.add("upload "+size, "", "mitmproxy: "+strings.Join(up, ", "), "")
	b.add("small request through opened TLS, p50", "", "mitmproxy: "+strings.Join(small, ", "), "")
}

func median(d []time.Duration) time.Duration { return percentile(sorted(d), 50) }

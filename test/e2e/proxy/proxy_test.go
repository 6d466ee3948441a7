//go:build e2e

// Package proxy tests sandboxes whose connections go through the operator's
// proxy: what it is told, what it is never told, and that there is no way
// around it.
package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/atollhq/atoll/internal/gateway/upstream"
	"github.com/atollhq/atoll/test/e2e/harness"
)

const (
	password = "correct-horse-battery"
	fixed    = "fixed.atoll.test" // has an override, which wins over the proxy
)

var fixedAddr = netip.MustParseAddr("93.184.215.99")

func setup(t *testing.T, scheme string) (context.Context, *harness.Server, *harness.Conn, *network) {
	t.Helper()
	n := newNetwork(t, scheme != "http")
	direct, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := direct.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("direct\n"))
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { _ = direct.Close() })
	file := filepath.Join(t.TempDir(), "overrides.json")
	raw, err := json.Marshal(upstream.Overrides{
		Names: map[string][]netip.Addr{fixed: {fixedAddr}},
		Dial:  map[string]netip.AddrPort{fixedAddr.String(): netip.MustParseAddrPort(direct.Addr().String())},
	})
	if err == nil {
		err = os.WriteFile(file, raw, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	s := harness.New(t, "--host-overrides", file, "--resolvers", n.resolver.LocalAddr().String(),
		"--net-proxy", scheme+"://me:"+password+"@"+n.proxy.Addr().String())
	n.leadTo(t, s.Internet.Overrides())
	ctx := harness.Context(t, 3*harness.TestLimit)
	return ctx, s, s.MustCreate(ctx, t, nil), n
}

func TestProxy(t *testing.T) {
	for scheme, told := range map[string][]string{
		"http":    {harness.WebHost + ":443", harness.WebHost + ":80", "93.184.215.14:80"},
		"socks5h": {harness.WebHost + ":443", harness.WebHost + ":80", "93.184.215.14:80"},
		"socks5":  {"93.184.215.14:443", "93.184.215.14:80", "93.184.215.14:80"},
	} {
		t.Run(scheme, func(t *testing.T) {
			ctx, s, c, n := setup(t, scheme)
			for _, url := range []string{"https://" + harness.WebHost, "http://" + harness.WebHost, "http://93.184.215.14"} {
				if got := c.MustShell(ctx, t, "curl -4 -sS --max-time 60 "+url+"/hello"); got != "hello from outside\n" {
					t.Errorf("%s: %q", url, got)
				}
			}
			asked, questions := n.known()
			if diff := cmp.Diff(told, asked); diff != "" {
				t.Errorf("the proxy was told: %s", diff)
			}
			if scheme != "socks5" && len(questions) > 0 {
				t.Errorf("a resolver was asked for %q", questions)
			}
			if got := c.MustShell(ctx, t, "exec 3<>/dev/tcp/"+fixed+"/80; head -1 <&3"); got != "direct\n" {
				t.Errorf("override: %q", got)
			}
			wantNothingTold(ctx, t, c, n)
			_ = n.proxy.Close()
			before := len(s.Internet.Seen())
			if out, err := c.Shell(ctx, "curl -sS --max-time 10 http://"+harness.WebHost+"/hello"); err != nil || out.Success {
				t.Errorf("without the proxy: %+v %v", out, err)
			}
			if len(s.Internet.Seen()) > before {
				t.Error("without the proxy, something went around it")
			}
			wantNoPassword(t, s)
		})
	}
}

// wantNothingTold: what the guest may not reach, the proxy is not asked for.
func wantNothingTold(ctx context.Context, t *testing.T, c *harness.Conn, n *network) {
	t.Helper()
	before, _ := n.known()
	own := n.proxy.Addr().String()
	_, port, _ := net.SplitHostPort(own)
	targets := []string{own, "localhost:" + port, "10.87.0.1:" + port, "intranet", "2130706433:" + port, "0x7f.1:" + port}
	for _, a := range append(slices.Clone(harness.Forbidden), harness.HostAddrs()...) {
		targets = append(targets, netip.AddrPortFrom(a.WithZone(""), 80).String())
	}
	script := "for t in " + strings.Join(targets, " ") + "; do curl -sS --max-time 2 http://$t/ && echo got $t; done; true"
	if out := c.MustShell(ctx, t, script); strings.Contains(out, "got") {
		t.Errorf("answers: %s", out)
	}
	const udp = `python3 -c '
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(60)
s.connect(("93.184.215.15", 7))
try:
    s.send(b"x"); print(s.recv(10))
except OSError as e:
    print("refused", e)
'`
	if out := c.MustShell(ctx, t, udp); !strings.HasPrefix(out, "refused") || strings.Contains(out, "timed out") {
		t.Errorf("UDP: %s", out)
	}
	if after, _ := n.known(); len(after) > len(before) {
		t.Errorf("the proxy was asked for %q", after[len(before):])
	}
}

// wantNoPassword looks through all that the server has written.
func wantNoPassword(t *testing.T, s *harness.Server) {
	t.Helper()
	err := filepath.WalkDir(s.Dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() || filepath.Dir(path) == filepath.Dir(s.Program("atoll")) {
			return nil // of a sandbox's files, some go at any time
		}
		if raw, err := os.ReadFile(path); err == nil && bytes.Contains(raw, []byte(password)) {
			t.Errorf("%s holds the password", path)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

//go:build e2e

// Package network tests what a sandbox can reach, from inside, with the
// programs that people use. The internet is the harness's: behind every
// forbidden address stands a trap.
package network

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/atollhq/atoll/test/e2e/harness"
)

func setup(t *testing.T, flags ...string) (context.Context, *harness.Server, *harness.Conn) {
	t.Helper()
	s := harness.New(t, flags...)
	ctx := harness.Context(t, 2*harness.TestLimit)
	return ctx, s, s.MustCreate(ctx, t, nil)
}

func TestNames(t *testing.T) {
	ctx, _, c := setup(t)
	if out := c.MustShell(ctx, t, "getent ahostsv4 "+harness.WebHost); !strings.HasPrefix(out, "93.184.215.14 ") {
		t.Errorf("IPv4: %s", out)
	}
	if out := c.MustShell(ctx, t, "getent ahostsv6 "+harness.WebHost); !strings.HasPrefix(out, "2606:2800:21f:cb07::14 ") {
		t.Errorf("IPv6: %s", out)
	}
	if out, err := c.Shell(ctx, "getent hosts missing.atoll.test"); err != nil || out.Code != 2 {
		t.Errorf("a name that isn't there: %+v %v", out, err)
	}
	if out := c.MustShell(ctx, t, "getent hosts $(hostname) localhost"); !strings.Contains(out, "localhost") {
		t.Errorf("the machine's own names: %s", out)
	}
}

func TestWeb(t *testing.T) {
	ctx, s, c := setup(t)
	for script, want := range map[string]string{
		"curl -sS --max-time 60 http://web.atoll.test/hello":                                                                                     "hello from outside\n",
		"curl -sS --max-time 60 -L http://web.atoll.test/redirect":                                                                               "hello from outside\n",
		"curl -sS -4 --max-time 60 https://web.atoll.test/hello":                                                                                 "hello from outside\n",
		"curl -sS -6 --max-time 60 https://web.atoll.test/hello":                                                                                 "hello from outside\n",
		"wget -qO- --timeout=60 --tries=1 https://web.atoll.test/hello":                                                                          "hello from outside\n",
		"curl -sS --max-time 1200 https://web.atoll.test/bytes/20000000 | wc -c":                                                                 "20000000\n",
		"curl -sS --max-time 60 -o /dev/null -w '%{http_code}' http://web.atoll.test/status/404":                                                 "404",
		"head -c 3000000 /dev/zero | tr '\\0' a | curl -sS --max-time 120 --data-binary @- https://web.atoll.test/echo | jq -r '.body | length'": "3000000\n",
	} {
		if got := c.MustShell(ctx, t, script); got != want {
			t.Errorf("%s: %.200q, want %q", script, got, want)
		}
	}
	if seen := s.Internet.Seen(); len(seen) < 7 {
		t.Errorf("the outside saw %q only", seen)
	}
}

// The operator's extra root is trusted by everything that looks for roots, as
// every user, and an unknown one by nothing.
func TestExtraRoots(t *testing.T) {
	ctx, _, c := setup(t)
	programs := map[string]string{
		"curl":   "curl -fsS --max-time 60 https://%s/hello",
		"wget":   "wget -qO- --timeout=60 --tries=1 https://%s/hello",
		"python": `python3 -c 'import urllib.request; print(urllib.request.urlopen("https://%s/hello", timeout=60).read().decode(), end="")'`,
		"node":   `node -e 'fetch("https://%s/hello").then((r) => r.text()).then((t) => process.stdout.write(t)).catch((e) => { console.error(e.cause ?? e); process.exit(1); })'`,
		"deno":   `deno eval 'await Deno.stdout.write(new TextEncoder().encode(await (await fetch("https://%s/hello")).text()))'`,
		"git":    "git ls-remote https://%s/hello 2>&1 | grep -ci 'certificate' | sed 's/^0$/hello from outside/'",
		"sudo":   "sudo curl -fsS --max-time 60 https://%s/hello",
	}
	for name, script := range programs {
		t.Run(name, func(t *testing.T) {
			out, err := c.Shell(ctx, fmt.Sprintf(script, harness.WebHost))
			if err != nil || strings.TrimSpace(out.Stdout) != "hello from outside" {
				t.Errorf("trusted host: %+v %v", out, err)
			}
			out, err = c.Shell(ctx, fmt.Sprintf(script, harness.UntrustHost))
			if err != nil || strings.TrimSpace(out.Stdout) == "hello from outside" {
				t.Errorf("untrusted host: %+v %v", out, err)
			}
		})
	}
}

func TestEcho(t *testing.T) {
	ctx, _, c := setup(t)
	const udp = `python3 -c '
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(60)
for size in (1, 1400, 9000):
    s.sendto(b"x" * size, ("echo.atoll.test", 7))
    assert s.recv(65536) == b"x" * size
print("ok")
'`
	if out := c.MustShell(ctx, t, udp); out != "ok\n" {
		t.Errorf("UDP: %q", out)
	}
	const tcp = `python3 -c '
import socket, threading
s = socket.create_connection(("echo.atoll.test", 7), 60)
data = bytes(range(256)) * 8000
threading.Thread(target=lambda: (s.sendall(data), s.shutdown(socket.SHUT_WR))).start()
back = b""
while chunk := s.recv(65536):
    back += chunk
assert back == data, len(back)
print("ok")
'`
	if out := c.MustShell(ctx, t, tcp); out != "ok\n" {
		t.Errorf("TCP: %q", out)
	}
}

// refused asks for each address and port whether a guest gets through. Nobody
// answers datagrams.
const refused = `import concurrent.futures, json, socket, sys

def ask(target):
    address, port, kind = target
    s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    s.settimeout(float(sys.argv[2]) if kind == socket.SOCK_STREAM else 2)
    try:
        s.connect((address, port))
        s.send(b"GET / HTTP/1.0\r\n\r\n")
        return bool(s.recv(100))
    except OSError:
        return False
    finally:
        s.close()

targets = [(a, p, k) for a, p in json.loads(sys.argv[1]) for k in (socket.SOCK_STREAM, socket.SOCK_DGRAM)]
with concurrent.futures.ThreadPoolExecutor(32) as pool:
    got = pool.map(ask, targets)
print(json.dumps([[a, p, k == socket.SOCK_STREAM] for (a, p, k), yes in zip(targets, got) if yes]))
`

// probe returns what a guest got an answer from, over TCP within some time.
func probe(ctx context.Context, t *testing.T, c *harness.Conn, targets [][2]any, within time.Duration) string {
	t.Helper()
	list, err := json.Marshal(targets)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Call(ctx, "writeTextFile", map[string]any{"path": "probe.py", "content": refused}, nil); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(c.MustShell(ctx, t, fmt.Sprintf("python3 probe.py '%s' %g", list, within.Seconds())))
}

// silence is for how long nothing has to come from where nothing may.
const silence = 2 * time.Second

func TestForbiddenAddresses(t *testing.T) {
	ctx, s, c := setup(t)
	daemon := netip.MustParseAddrPort(strings.TrimPrefix(s.URL, "http://"))
	var targets [][2]any
	for _, a := range append(append([]netip.Addr{}, harness.Forbidden...), harness.HostAddrs()...) {
		targets = append(targets, [2]any{a.String(), 80})
	}
	for _, a := range harness.HostAddrs() {
		targets = append(targets, [2]any{a.String(), daemon.Port()})
	}
	// The gateway itself answers to names only.
	for _, p := range []int{22, 80, 443, int(daemon.Port())} {
		targets = append(targets, [2]any{"10.87.0.1", p}, [2]any{"fd00:a701::1", p})
	}
	if got := probe(ctx, t, c, targets, silence); got != "[]" {
		t.Errorf("answers came from %s", got)
	}
	for _, name := range []string{harness.RebindHost, harness.PrivateHost, "localhost", "0177.0.0.1", "2130706433", "0x7f.1"} {
		for _, p := range []string{"80", strconv.Itoa(int(daemon.Port()))} {
			if out, err := c.Shell(ctx, "curl -sS --max-time 3 http://"+name+":"+p+"/hello"); err != nil || out.Success {
				t.Errorf("%s:%s: %+v %v", name, p, out, err)
			}
		}
	}
	if trapped := s.Internet.Trapped(); len(trapped) != 0 {
		t.Errorf("arrived behind forbidden addresses: %q", trapped)
	}
	if out := c.MustShell(ctx, t, "curl -sS --max-time 60 http://web.atoll.test/hello"); out != "hello from outside\n" {
		t.Errorf("what is allowed does not work after it: %q", out)
	}
}

// Root in the guest owns its network card and still gets nowhere.
func TestForbiddenAddressesAsRoot(t *testing.T) {
	ctx, s, c := setup(t)
	c.MustShell(ctx, t, "sudo -n sh -c 'ip addr add 192.168.7.2/24 dev eth0; ip route add 169.254.0.0/16 dev eth0; ip route replace default via 10.87.0.1; true' 2>/dev/null; true")
	if got := probe(ctx, t, c, [][2]any{{"169.254.169.254", 80}, {"192.168.7.1", 80}, {"10.0.0.1", 80}}, silence); got != "[]" {
		t.Errorf("answers came from %s", got)
	}
	if trapped := s.Internet.Trapped(); len(trapped) != 0 {
		t.Errorf("arrived: %q", trapped)
	}
}

// An exception opens what it names: the proof that the refusals above are the
// policy's and that the traps work.
func TestException(t *testing.T) {
	s := harness.New(t, "--net-exceptions", "10.0.0.1/32")
	ctx := harness.Context(t, harness.TestLimit)
	c := s.MustCreate(ctx, t, nil)
	if got := probe(ctx, t, c, [][2]any{{"10.0.0.1", 80}, {"172.16.0.1", 80}}, harness.Patience); got != `[["10.0.0.1", 80, true]]` {
		t.Errorf("answers came from %s", got)
	}
	if trapped := s.Internet.Trapped(); len(trapped) != 1 || !strings.HasPrefix(trapped[0], "GET / ") {
		t.Errorf("the trap saw %q", trapped)
	}
	s.Internet.Forget()
}

func TestPortsThatNobodyListensOn(t *testing.T) {
	ctx, _, c := setup(t)
	out, err := c.Shell(ctx, "curl -sS --max-time 60 http://web.atoll.test:81/")
	if err != nil || out.Code != 7 {
		t.Errorf("want curl's code for a refused connection, have %+v %v", out, err)
	}
}

// Sandboxes have the same addresses and don't hear of each other.
func TestSandboxesDontReachEachOther(t *testing.T) {
	ctx, s, a := setup(t)
	b := s.MustCreate(ctx, t, nil)
	if _, err := a.Spawn(ctx, "python3", "-m", "http.server", "8000", "--bind", "::"); err != nil {
		t.Fatal(err)
	}
	a.MustShell(ctx, t, "until curl -sf -o /dev/null http://127.0.0.1:8000/; do sleep 0.1; done")
	own := strings.Fields(a.MustShell(ctx, t, "hostname -I"))
	if len(own) == 0 {
		t.Fatal("the sandbox has no address")
	}
	for _, address := range append(own, "10.87.0.1", "10.87.0.3") {
		if out, err := b.Shell(ctx, "curl -sS --max-time 2 http://"+net.JoinHostPort(address, "8000")+"/"); err != nil || out.Success {
			t.Errorf("%s: %+v %v", address, out, err)
		}
	}
}

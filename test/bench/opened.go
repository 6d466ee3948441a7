//go:build e2e

package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/client"
	"github.com/atollhq/atoll/internal/gateway/upstream"
)

const (
	openedSize = 256 << 20 // bytes
	openedRuns = 5
)

// The names and addresses by which the guest knows the origin and mitmproxy.
// The secret is for the first name, whose connections are opened.
var (
	openedHost   = "opened.example.com"
	endToEndHost = "direct.example.com"
	originAddr   = netip.MustParseAddrPort("93.184.215.78:443")
	proxyAddrs   = map[string]netip.AddrPort{"streamed": netip.MustParseAddrPort("93.184.215.79:443"), "buffered": netip.MustParseAddrPort("93.184.215.80:443")}
)

// openedFigure measures what TLS that is opened costs, with a placeholder that
// is replaced in a header and the value looked for in what comes back: from
// one guest and through one gateway, end to end, opened by the gateway, and
// end to end to mitmproxy, which replaces the same header.
func openedFigure(ctx context.Context, b *bench) error {
	origin := newOrigin()
	defer origin.Close()
	w, ways, end, err := newOpened(ctx, origin)
	defer end()
	if err != nil {
		return err
	}
	for _, protocol := range []string{"HTTP/1.1", "HTTP/2"} {
		if err := measureOpened(ctx, b, w.sandbox, protocol, ways); err != nil {
			return fmt.Errorf("%s: %w", protocol, err)
		}
		b.addOpened(protocol, ways)
	}
	return nil
}

func measureOpened(ctx context.Context, b *bench, s *client.Sandbox, protocol string, ways []*way) (err error) {
	for _, way := range ways {
		way.http2, way.down, way.up, way.work = protocol == "HTTP/2", nil, nil, 0
	}
	for range openedRuns {
		for _, way := range ways {
			if err := way.transfer(ctx, s); err != nil {
				return fmt.Errorf("%s: %w", way.name, err)
			}
		}
	}
	for _, way := range ways {
		if way.small, err = way.visit(ctx, s, visitSmall, b.runs*5); err != nil {
			return fmt.Errorf("%s: %w", way.name, err)
		}
	}
	return nil
}

// newOpened makes the sandbox and its ways to the origin. End frees what was
// made, also after an error.
func newOpened(ctx context.Context, origin *httptest.Server) (w *world, ways []*way, end func(), err error) {
	var undo []func()
	end = func() {
		for i := len(undo) - 1; i >= 0; i-- {
			undo[i]()
		}
	}
	at := netip.MustParseAddrPort(origin.Listener.Addr().String())
	reach := upstream.Overrides{
		Names: map[string][]netip.Addr{openedHost: {originAddr.Addr()}, endToEndHost: {originAddr.Addr()}},
		Dial:  map[string]netip.AddrPort{originAddr.String(): at},
	}
	roots := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: origin.Certificate().Raw})
	ways = []*way{
		{name: "end to end", url: "https://" + endToEndHost, token: secret},
		{name: "opened", url: "https://" + openedHost, token: placeholderOf},
	}
	for _, name := range []string{"streamed", "buffered"} {
		m, err := startMitmproxy(ctx, origin, name == "streamed")
		if err != nil {
			return nil, nil, end, err
		}
		undo = append(undo, m.stop)
		authority, err := os.ReadFile(m.file("mitmproxy-ca-cert.pem"))
		if err != nil {
			return nil, nil, end, err
		}
		roots = append(roots, authority...)
		reach.Dial[proxyAddrs[name].String()] = netip.MustParseAddrPort(m.addr)
		host := name + ".example.com"
		reach.Names[host] = []netip.Addr{proxyAddrs[name].Addr()}
		ways = append(ways, &way{name: "mitmproxy " + name, url: "https://" + host, token: placeholder, proxy: m.cmd.Process.Pid})
	}
	dir, err := os.MkdirTemp("", "atoll-bench-")
	if err != nil {
		return nil, nil, end, err
	}
	undo = append(undo, func() { _ = os.RemoveAll(dir) })
	file := filepath.Join(dir, "roots.pem")
	if err := os.WriteFile(file, roots, 0o600); err != nil {
		return nil, nil, end, err
	}
	w, err = newWorld(ctx, reach, client.CreateOptions{Secrets: map[string]api.Secret{
		"KEY": {Hosts: []string{openedHost}, Value: secret},
	}}, "--extra-roots", file)
	if err != nil {
		return nil, nil, end, err
	}
	undo = append(undo, w.close)
	shim, err := w.shim()
	if err != nil {
		return nil, nil, end, err
	}
	ways[0].proxy, ways[1].proxy = shim, shim
	return w, ways, end, installVisitor(ctx, w.sandbox)
}

// visitorFile is this program in the guest, where it visits the origin.
const visitorFile = "/home/app/visitor"

func installVisitor(ctx context.Context, s *client.Sandbox) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	program, err := os.ReadFile(self)
	if err != nil {
		return err
	}
	if err := s.FS.WriteFile(ctx, visitorFile, program, nil); err != nil {
		return err
	}
	return s.FS.Chmod(ctx, visitorFile, 0o755)
}

// What a visitor does.
const (
	visitDown  = "down"
	visitUp    = "up"
	visitSmall = "small"
)

// visit is what the visitor in the guest is told, in its environment.
type visit struct {
	URL, Token, What string
	Count            int
	HTTP2            bool
}

const (
	visitVariable = "ATOLL_BENCH_VISIT"
	placeholderOf = "$KEY" // the guest's own placeholder
)

// visitorMain is the guest's side: it prints the nanoseconds of each visit, as
// JSON, after one that isn't counted.
func visitorMain(told string) error {
	var v visit
	if err := json.Unmarshal([]byte(told), &v); err != nil {
		return err
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		return err
	}
	token := v.Token
	if token == placeholderOf {
		token = os.Getenv("KEY")
	}
	who := &visitor{&http.Client{Transport: transport(pool, v.HTTP2)}, v.URL, token}
	if _, err := who.small(context.Background()); err != nil {
		return err
	}
	took := make([]time.Duration, v.Count)
	for i := range took {
		if took[i], err = who.once(context.Background(), v.What); err != nil {
			return err
		}
	}
	return json.NewEncoder(os.Stdout).Encode(took)
}

func (v *visitor) once(ctx context.Context, what string) (time.Duration, error) {
	switch what {
	case visitDown:
		return v.download(ctx, openedSize)
	case visitUp:
		return v.upload(ctx, openedSize)
	case visitSmall:
		return v.small(ctx)
	}
	return 0, errors.New("nothing to do")
}

// ioSize is how much the visitor reads and writes at once, so that it costs
// little beside what is measured.
const ioSize = 512 << 10

func transport(roots *x509.CertPool, http2 bool) *http.Transport {
	if http2 {
		p := new(http.Protocols)
		p.SetHTTP2(true)
		return &http.Transport{Protocols: p, TLSClientConfig: &tls.Config{RootCAs: roots}}
	}
	return &http.Transport{ReadBufferSize: ioSize, WriteBufferSize: ioSize, DialTLSContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		raw, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		large := &largeWrites{Conn: raw, in: bufio.NewReaderSize(raw, ioSize)}
		conn := tls.Client(large, &tls.Config{RootCAs: roots, ServerName: host})
		return &flushed{conn, large}, conn.HandshakeContext(ctx)
	}}
}

// largeWrites joins the records of TLS that are written while it holds them.
type largeWrites struct {
	net.Conn
	in    *bufio.Reader
	holds bool
	held  []byte
}

func (l *largeWrites) Read(b []byte) (int, error) { return l.in.Read(b) }

func (l *largeWrites) Write(b []byte) (int, error) {
	if !l.holds {
		return l.Conn.Write(b)
	}
	l.held = append(l.held, b...)
	return len(b), nil
}

// flushed is TLS whose writes go out whole.
type flushed struct {
	*tls.Conn
	below *largeWrites
}

func (f *flushed) Write(b []byte) (int, error) {
	f.below.holds = true
	n, err := f.Conn.Write(b)
	f.below.holds = false
	if err == nil {
		_, err = f.below.Conn.Write(f.below.held)
	}
	f.below.held = f.below.held[:0]
	return n, err
}

// way is one way to the origin, and what was measured on it.
type way struct {
	name            string
	url, token      string
	http2           bool
	proxy           int // process that opens the connections, or carries them
	down, up, small []time.Duration
	work            time.Duration // of the proxy's processors, for all transfers
}

func (w *way) transfer(ctx context.Context, s *client.Sandbox) error {
	before, err := processorTime(w.proxy)
	if err != nil {
		return err
	}
	down, err := w.visit(ctx, s, visitDown, 1)
	if err != nil {
		return err
	}
	up, err := w.visit(ctx, s, visitUp, 1)
	if err != nil {
		return err
	}
	after, err := processorTime(w.proxy)
	w.down, w.up, w.work = append(w.down, down...), append(w.up, up...), w.work+after-before
	return err
}

// processorTime is what a process has used, all its threads together.
func processorTime(pid int) (time.Duration, error) {
	var ts unix.Timespec
	const perProcess = 2 // CPUCLOCK_SCHED; see clock_getcpuclockid(3)
	if err := unix.ClockGettime(int32(^pid<<3|perProcess), &ts); err != nil {
		return 0, fmt.Errorf("processor time of %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

func (w *way) visit(ctx context.Context, s *client.Sandbox, what string, count int) (took []time.Duration, err error) {
	told, err := json.Marshal(visit{URL: w.url, Token: w.token, What: what, Count: count, HTTP2: w.http2})
	if err != nil {
		return nil, err
	}
	out, err := s.Output(ctx, visitorFile, client.SpawnOptions{Env: map[string]string{visitVariable: string(told)}})
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(out.Stdout, &took); err != nil {
		return nil, fmt.Errorf("visit: %w: %.500s", err, out.Stderr)
	}
	return took, nil
}

// addOpened adds what was measured: Atoll is the second way, and what it is
// compared with are the first for times and the others for speeds.
func (b *bench) addOpened(protocol string, ways []*way) {
	size := strconv.Itoa(openedSize >> 20)
	for _, f := range []struct {
		name string
		of   func(*way) []time.Duration
	}{{"download", func(w *way) []time.Duration { return w.down }}, {"upload", func(w *way) []time.Duration { return w.up }}} {
		mine := median(f.of(ways[1]))
		for _, w := range []*way{ways[0], ways[2], ways[3]} {
			theirs := median(f.of(w))
			b.add(f.name+" of "+size+" MiB through opened TLS, "+protocol, rate(openedSize, mine), w.name+": "+rate(openedSize, theirs), fmt.Sprintf("%.2f (speed)", float64(theirs)/float64(mine)))
		}
	}
	perGB := func(w *way) float64 { return w.work.Seconds() / (2 * openedRuns * openedSize / 1e9) }
	for _, w := range []*way{ways[0], ways[2], ways[3]} {
		b.add("processor time of the proxy, opened TLS, "+protocol, fmt.Sprintf("%.2f s/GB", perGB(ways[1])),
			fmt.Sprintf("%s: %.2f s/GB", w.name, perGB(w)), fmt.Sprintf("%.2f (speed)", perGB(w)/perGB(ways[1])))
	}
	direct := median(ways[0].small)
	for _, w := range ways[1:] {
		b.add("small request, "+protocol+", added to "+ms(direct)+", p50", "", w.name+": +"+ms(median(w.small)-direct), "")
	}
}

func median(d []time.Duration) time.Duration { return percentile(sorted(d), 50) }

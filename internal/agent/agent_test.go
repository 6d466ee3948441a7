package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/agent/rpc/rpctest"
	"github.com/atollhq/atoll/internal/link"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeHost records what a kernel would be told.
type fakeHost struct {
	mu    sync.Mutex
	calls []string
	now   time.Time
	err   error
}

func (h *fakeHost) note(format string, args ...any) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls = append(h.calls, fmt.Sprintf(format, args...))
	return h.err
}

func (h *fakeHost) SetHostname(name string) error { return h.note("hostname %s", name) }
func (h *fakeHost) Now() time.Time                { return h.now }
func (h *fakeHost) SetTime(t time.Time) error     { return h.note("time %d", t.Unix()) }
func (h *fakeHost) Unmount(path string) error     { return h.note("unmount %s", filepath.Base(path)) }
func (h *fakeHost) CutNetwork() error             { return h.note("cut") }
func (h *fakeHost) AddEntropy(random []byte) error {
	return h.note("entropy %x", random)
}
func (h *fakeHost) Bind(source, target string) error {
	return h.note("bind %s %s", filepath.Base(source), filepath.Base(target))
}

func (h *fakeHost) told() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(h.calls, ", ")
}

func (h *fakeHost) Chown(path string, uid, gid int) error {
	return h.note("chown %s %d %d", filepath.Base(path), uid, gid)
}

func testConfig(home string) link.Config {
	return link.Config{
		Generation: 1, Hostname: "sbx-test", Home: home, User: "me",
		UserID: uint32(os.Getuid()), GroupID: uint32(os.Getgid()),
		Env: map[string]string{"FROM": "config"}, MaxMessage: 1 << 20,
	}
}

// shim is the other end of an agent's link in tests.
type shim struct {
	t       *testing.T
	session *link.Session
	control net.Conn
	done    chan error
	root    string
	host    *fakeHost
}

func start(t *testing.T) *shim {
	t.Helper()
	return startWith(t, Options{})
}

// startWith starts an agent with options of its own.
func startWith(t *testing.T, o Options) *shim {
	t.Helper()
	near, far := net.Pipe()
	s := &shim{t: t, done: make(chan error, 1), root: t.TempDir(), host: &fakeHost{now: time.Now()}}
	ctx, cancel := context.WithCancel(context.Background())
	o.Version, o.Root, o.Host = "1", s.root, s.host
	if freezer, ok := o.Freezer.(*fakeFreezer); ok {
		freezer.shim = s
	}
	go func() { s.done <- Run(ctx, far, o) }()
	s.open(near, 1)
	t.Cleanup(func() {
		_ = s.session.Close()
		if o.Next != nil {
			cancel() // nobody says that there will be no other session
		}
		select {
		case err := <-s.done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(rpctest.Patience):
			t.Error("Run does not return")
		}
		cancel()
	})
	return s
}

// open begins a session.
func (s *shim) open(near net.Conn, generation uint32) {
	s.t.Helper()
	var err error
	if s.session, err = link.Open(s.t.Context(), near, generation); err != nil {
		s.t.Fatal(err)
	}
	s.control = nil
}

func (s *shim) dial(kind link.Kind, header any) net.Conn {
	s.t.Helper()
	conn, err := s.session.Dial(s.t.Context(), kind, header)
	if err != nil {
		s.t.Fatal(err)
	}
	return conn
}

func (s *shim) configure(cfg link.Config) link.Ready {
	s.t.Helper()
	return s.tell(func(w io.Writer) error { return link.SendControl(w, cfg) })
}

func (s *shim) update(u link.Update) link.Ready {
	s.t.Helper()
	return s.tell(func(w io.Writer) error { return link.SendUpdate(w, u) })
}

func (s *shim) tell(send func(io.Writer) error) link.Ready {
	s.t.Helper()
	if s.control == nil {
		s.control = s.dial(link.KindControl, struct{}{})
	}
	if err := send(s.control); err != nil {
		s.t.Fatal(err)
	}
	var ready link.Ready
	if err := link.ReceiveControl(s.control, &ready); err != nil {
		s.t.Fatal(err)
	}
	return ready
}

// home is a directory below the guest's root that is also a real path, so
// that processes can start in it.
func (s *shim) home() string {
	s.t.Helper()
	home := s.t.TempDir()
	if err := os.MkdirAll(filepath.Join(s.root, home), 0o755); err != nil {
		s.t.Fatal(err)
	}
	return home
}

func TestServesCallsOnceConfigured(t *testing.T) {
	s := start(t)
	early := rpctest.On(t, s.dial(link.KindRPC, link.RPCHeader{}))
	wait := early.Go("envGet", map[string]string{"key": "FROM"})
	if ready := s.configure(testConfig(s.home())); ready != (link.Ready{Version: "1"}) {
		t.Fatalf("got %+v", ready)
	}
	var value string
	if err := wait(&value); err != nil || value != "config" {
		t.Errorf("got %q, %v", value, err)
	}
	if ready := s.configure(testConfig("/")); ready.Error == "" {
		t.Error("a second configuration is accepted")
	}
	var r api.SpawnResult
	params := map[string]any{"command": "echo", "args": []string{"hi"}, "stdout": "piped", "stderr": "null"}
	if err := early.Call("spawn", params, &r); err != nil {
		t.Fatal(err)
	}
	if err := early.Call("processWait", map[string]int{"pid": r.PID}, nil); err != nil {
		t.Error(err)
	}
	if out, err := early.Stream(*r.StdoutStreamID).All(); err != nil || string(out) != "hi\n" {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestUpdate(t *testing.T) {
	s := start(t)
	if ready := s.update(link.Update{Env: map[string]string{"A": "b"}}); ready.Error == "" {
		t.Error("an update before the configuration is accepted")
	}
	s.configure(testConfig(s.home()))
	update := link.Update{Env: map[string]string{"FROM": "update", "LATE": "yes", "PIP_CERT": "/mine"}, ExtraRoots: certificate}
	if ready := s.update(update); ready != (link.Ready{Version: "1"}) {
		t.Fatalf("got %+v", ready)
	}
	var env map[string]string
	if err := rpctest.On(t, s.dial(link.KindRPC, link.RPCHeader{})).Call("envToObject", struct{}{}, &env); err != nil {
		t.Fatal(err)
	}
	if env["FROM"] != "update" || env["LATE"] != "yes" || env["NODE_EXTRA_CA_CERTS"] == "" || env["PIP_CERT"] != "/mine" {
		t.Errorf("the environment is %v", env)
	}
	const bundle = "etc/ssl/certs/ca-certificates.crt"
	if got, err := os.ReadFile(filepath.Join(s.root, bundle)); err != nil || !strings.Contains(string(got), certificate) {
		t.Errorf("bundle: %q, %v", got, err)
	}
	if ready := s.update(link.Update{Env: map[string]string{"A=B": "c"}}); ready.Error == "" {
		t.Error("a variable that is none is accepted")
	}
}

// TestRootsLeaveTheClientsVariables: also where they come after them, and an
// update without roots changes none.
func TestRootsLeaveTheClientsVariables(t *testing.T) {
	s := start(t)
	cfg := testConfig(s.home())
	cfg.Env["SSL_CERT_FILE"] = "/mine"
	cfg.ExtraRoots = certificate
	s.configure(cfg)
	for _, update := range []link.Update{{ExtraRoots: certificate}, {Env: map[string]string{"A": "b"}}} {
		if ready := s.update(update); ready.Error != "" {
			t.Fatal(ready.Error)
		}
	}
	var env map[string]string
	if err := rpctest.On(t, s.dial(link.KindRPC, link.RPCHeader{})).Call("envToObject", struct{}{}, &env); err != nil {
		t.Fatal(err)
	}
	if env["SSL_CERT_FILE"] != "/mine" || env["CURL_CA_BUNDLE"] == "" {
		t.Errorf("the environment is %v", env)
	}
}

func TestRefusesBadConfig(t *testing.T) {
	s := start(t)
	for _, change := range []func(*link.Config){
		func(c *link.Config) { c.Hostname = "a b" },
		func(c *link.Config) { c.Home = "relative" },
		func(c *link.Config) { c.Nameservers = []string{"x\noptions"} },
	} {
		cfg := testConfig("/home")
		change(&cfg)
		if ready := s.configure(cfg); ready.Error == "" {
			t.Errorf("%+v is accepted", cfg)
		}
	}
}

func TestOldGenerationIsRefused(t *testing.T) {
	s := start(t)
	cfg := testConfig(s.home())
	cfg.Generation = 2
	s.configure(cfg)
	conn := s.dial(link.KindRPC, link.RPCHeader{}) // of generation 1
	_ = conn.SetReadDeadline(time.Now().Add(rpctest.Patience))
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
}

func TestDial(t *testing.T) {
	s := start(t)
	s.configure(testConfig(s.home()))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	served := make(chan struct{})
	go func() {
		defer close(served)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		_, _ = io.CopyN(conn, conn, 5)
		_ = conn.Close()
	}()
	port := uint16(listener.Addr().(*net.TCPAddr).Port)
	conn := s.dial(link.KindDial, link.DialHeader{Port: port})
	_, _ = conn.Write([]byte("hello"))
	if got, err := io.ReadAll(conn); err != nil || string(got) != "hello" {
		t.Errorf("got %q, %v", got, err)
	}
	<-served
	_ = listener.Close()
	if got, err := io.ReadAll(s.dial(link.KindDial, link.DialHeader{Port: port})); err != nil || len(got) != 0 {
		t.Errorf("refused dial: got %q, %v", got, err)
	}
}

func TestPersonalise(t *testing.T) {
	root := t.TempDir()
	host := &fakeHost{now: time.Unix(1000, 0), err: errors.New("not permitted")}
	cfg := testConfig("/home/app")
	cfg.Nameservers = []string{"10.0.0.1", "fd00::1"}
	cfg.TimeUnixNs = time.Unix(5000, 0).UnixNano()
	if err := os.MkdirAll(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/nowhere/resolv.conf", filepath.Join(root, "etc/resolv.conf")); err != nil {
		t.Fatal(err)
	}
	env, err := personalise(root, host, cfg, slog.New(slog.DiscardHandler))
	if err != nil || len(env) != 0 {
		t.Fatalf("got %v, %v", env, err)
	}
	if got, want := strings.Join(host.calls, ", "), "time 5000, unmount tmp, unmount agent, hostname sbx-test"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for name, want := range map[string]string{
		"etc/hostname":    "sbx-test\n",
		"etc/resolv.conf": "nameserver 10.0.0.1\nnameserver fd00::1\n",
	} {
		if got, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(got) != want {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
	host.err, cfg.UserID = nil, cfg.UserID+1
	if _, err := personalise(root, host, cfg, slog.New(slog.DiscardHandler)); err != nil {
		t.Error(err)
	}
	if got, want := host.calls[len(host.calls)-1], fmt.Sprintf("chown app %d %d", cfg.UserID, cfg.GroupID); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// certificate is one, as text. Whether it can be used is not the agent's
// matter.
const certificate = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"

func TestLater(t *testing.T) {
	if got := later(1000, 5*time.Microsecond); got != 6000 {
		t.Errorf("a time told 5 µs ago is %d", got)
	}
	if got := later(0, time.Second); got != 0 {
		t.Errorf("an unknown time is %d", got)
	}
}

package shim

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/agent/rpc/rpctest"
	"github.com/atollhq/atoll/internal/gateway/names"
	"github.com/atollhq/atoll/internal/gateway/policy"
	"github.com/atollhq/atoll/internal/gateway/secret"
	"github.com/atollhq/atoll/internal/link"
	"github.com/atollhq/atoll/internal/machine"
	"github.com/atollhq/atoll/internal/machine/fake"
	"github.com/atollhq/atoll/internal/shim/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = time.Minute

// certificate is what the fake gateway's authority has. Trusting it is the
// agent's matter.
const certificate = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"

// fakeGateway records what it is told.
type fakeGateway struct {
	mu      sync.Mutex
	calls   []string
	allow   *policy.List
	ceiling *policy.List
	secrets *secret.Set
	names   names.State // that it continues
}

func (g *fakeGateway) note(call string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.calls = append(g.calls, call)
}

func (g *fakeGateway) Attach(nic machine.NIC) error { g.note("attach"); return nic.File.Close() }
func (g *fakeGateway) Detach()                      { g.note("detach") }
func (g *fakeGateway) Close() error                 { return nil }
func (g *fakeGateway) Names() names.State {
	return names.State{Next: 1, Names: []names.Named{{Name: "a.test", Slot: 1}}}
}

func (g *fakeGateway) ContinueNames(st names.State) error {
	g.note("names")
	g.mu.Lock()
	defer g.mu.Unlock()
	g.names = st
	return nil
}
func (g *fakeGateway) CAPEM() string { return certificate }

func (g *fakeGateway) SetPolicy(allow, ceiling *policy.List) {
	g.note("policy")
	g.mu.Lock()
	defer g.mu.Unlock()
	g.allow, g.ceiling = allow, ceiling
}

func (g *fakeGateway) SetSecrets(s *secret.Set) {
	g.note("secrets")
	g.mu.Lock()
	defer g.mu.Unlock()
	g.secrets = s
}

func (g *fakeGateway) known() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.calls)
}

// fakeAudit counts.
type fakeAudit struct{ opened, closed int }

func (a *fakeAudit) Open() error  { a.opened++; return nil }
func (a *fakeAudit) Close() error { a.closed++; return nil }

// guestKernel is the machine's kernel as far as the agent changes it.
type guestKernel struct{}

func (guestKernel) SetHostname(string) error     { return nil }
func (guestKernel) Now() time.Time               { return time.Now() }
func (guestKernel) SetTime(time.Time) error      { return nil }
func (guestKernel) Chown(string, int, int) error { return nil }
func (guestKernel) Unmount(string) error         { return nil }
func (guestKernel) Bind(string, string) error    { return nil }
func (guestKernel) AddEntropy([]byte) error      { return nil }
func (guestKernel) CutNetwork() error            { return nil }

// running is a shim whose machine runs the real agent.
type running struct {
	t       *testing.T
	shim    *Shim
	gateway *fakeGateway
	root    string // of the guest's files
	audit   fakeAudit
	driver  *driver
	guest   *guest
	cancel  context.CancelFunc
}

func run(t *testing.T, change func(*wire.Spec)) *running {
	t.Helper()
	r := prepared(t, change)
	r.start()
	return r
}

// prepared is a shim that doesn't run yet. If it is to continue from another
// sandbox, its guest is a copy of one that personal was given to.
func prepared(t *testing.T, change func(*wire.Spec)) *running {
	t.Helper()
	dir, err := os.MkdirTemp("", "shim-") // t.TempDir's path may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r := &running{t: t, gateway: &fakeGateway{}, root: t.TempDir()}
	r.guest = newGuest(t, r.root)
	r.driver = &driver{Driver: fake.New(r.guest.start), ice: r.guest.ice}
	r.driver.Restored = r.guest.restore
	spec := wire.Spec{ID: "sbx", Dir: dir, Image: file, Agent: file, ExtraRoots: "# no certificate"}
	if change != nil {
		change(&spec)
	}
	r.shim = New(spec, Parts{
		Driver: r.driver, Gateway: r.gateway, Log: slog.New(slog.DiscardHandler),
		Audit: &r.audit,
	})
	if spec.Origin != nil {
		r.guest.clone(link.Config{
			Generation: spec.Origin.Generation, SandboxID: spec.Origin.SandboxID, Home: "/", UserID: uint32(os.Getuid()), GroupID: uint32(os.Getgid()),
			MaxMessage: 1 << 20, Env: map[string]string{"GREETING": "hello", "API_KEY": "the parent's"},
		})
	}
	return r
}

func (r *running) start() {
	r.t.Helper()
	reader, writer := io.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	ended := make(chan error, 1)
	go func() { ended <- r.shim.Run(ctx, writer) }()
	r.t.Cleanup(func() {
		cancel()
		select {
		case <-ended:
		case <-time.After(patience):
			r.t.Error("the shim does not end")
		}
	})
	var started wire.Started
	if err := wire.Read(bufio.NewReader(reader), &started); err != nil || started.Error != "" {
		r.t.Fatalf("start: %v %s", err, started.Error)
	}
}

// ask sends one request.
func (r *running) ask(req wire.Request) (wire.Reply, net.Conn) {
	r.t.Helper()
	conn, err := net.Dial("unix", r.shim.layout.Socket())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	var reply wire.Reply
	if err := wire.Write(conn, req); err != nil {
		r.t.Fatal(err)
	}
	if err := wire.Read(bufio.NewReader(conn), &reply); err != nil {
		r.t.Fatal(err)
	}
	return reply, conn
}

// environment is what the guest's processes get.
func (r *running) environment() map[string]string {
	r.t.Helper()
	header, err := json.Marshal(link.RPCHeader{MaxMessage: 1 << 20})
	if err != nil {
		r.t.Fatal(err)
	}
	reply, conn := r.ask(wire.Request{Op: wire.OpOpen, Kind: link.KindRPC, Header: header})
	if reply.Error != "" {
		r.t.Fatal(reply.Error)
	}
	var env map[string]string
	if err := rpctest.On(r.t, conn).Call("envToObject", struct{}{}, &env); err != nil {
		r.t.Fatal(err)
	}
	return env
}

func (r *running) policy(change *wire.SetPolicy) api.NetworkPolicy {
	r.t.Helper()
	reply, _ := r.ask(wire.Request{Op: wire.OpPolicy, Policy: change})
	if reply.Error != "" || reply.Policy == nil {
		r.t.Fatalf("policy: %+v", reply)
	}
	return *reply.Policy
}

const value = "correct horse battery staple"

func personal() wire.Personal {
	return wire.Personal{
		Env: map[string]string{"GREETING": "hello"}, AllowNet: &[]string{"*.example.com"}, Ceiling: []string{"*.example.com", "*.example.org"},
		Secrets: wire.Secrets{"API_KEY": {Hosts: []string{"api.example.com"}, Value: value}},
	}
}

func described() api.NetworkPolicy {
	return api.NetworkPolicy{
		AllowNet: &[]string{"*.example.com"}, Ceiling: []string{"*.example.com", "*.example.org"},
		Secrets: []api.NetworkSecret{{Name: "API_KEY", Hosts: []string{"api.example.com"}}},
	}
}

// check holds a sandbox against personal.
func (r *running) check() {
	r.t.Helper()
	env := r.environment()
	if env["GREETING"] != "hello" || env["API_KEY"] == "" || env["API_KEY"] != r.gateway.secrets.Env()["API_KEY"] {
		r.t.Errorf("the guest's environment is %v", env)
	}
	if diff := cmp.Diff(described(), r.policy(nil)); diff != "" {
		r.t.Error(diff)
	}
	if r.audit.opened != 1 {
		r.t.Errorf("the audit was opened %d times", r.audit.opened)
	}
	if !strings.HasSuffix(r.shim.guestRoots(), certificate) {
		r.t.Error("the guest does not trust the gateway's authority")
	}
	r.wantNoValue()
}

// wantNoValue: nothing that the guest or a file shows holds a value.
func (r *running) wantNoValue() {
	r.t.Helper()
	for _, dir := range []string{r.root, r.shim.layout.Dir} {
		err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() {
				return err
			}
			raw, err := os.ReadFile(path)
			if strings.Contains(string(raw), value) {
				r.t.Errorf("%s holds the value", path)
			}
			return err
		})
		if err != nil {
			r.t.Error(err)
		}
	}
	for name, v := range r.environment() {
		if strings.Contains(v, value) {
			r.t.Errorf("the variable %s holds the value", name)
		}
	}
	if r.shim.spec.Secrets != nil {
		r.t.Error("the specification still holds the secrets")
	}
}

// TestMachineGetsAllOfTheImage: the driver decides which files it needs. The
// root stays the file that it was, for forks as well, when another one gets its
// name.
func TestMachineGetsAllOfTheImage(t *testing.T) {
	file := filepath.Join(t.TempDir(), "erofs")
	write := func(text string) {
		if err := errors.Join(os.WriteFile(file+".new", []byte(text), 0o600), os.Rename(file+".new", file)); err != nil {
			t.Fatal(err)
		}
	}
	write("first")
	hold := func(from *wire.Origin) *Shim {
		s := New(wire.Spec{ID: "sbx", Image: file, Kernel: "/i/vmlinuz", Modules: "/i/modules", Origin: from}, Parts{
			Driver: fake.New(nil), Gateway: &fakeGateway{}, Log: slog.New(slog.DiscardHandler),
		})
		if err := s.holdImage(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.image.Close() })
		return s
	}
	s := hold(nil)
	write("second")
	child, stranger := hold(&wire.Origin{Image: s.imagePath()}), hold(nil)
	for want, of := range map[string][]*Shim{"first": {s, child}, "second": {stranger}} {
		for _, s := range of {
			image := s.machineSpec().Image
			if got, err := os.ReadFile(image.File); err != nil || string(got) != want || image.Kernel != "/i/vmlinuz" || image.Modules != "/i/modules" {
				t.Errorf("image %+v: %q (%v); want %q", image, got, err, want)
			}
		}
	}
}

func TestPersonalFromTheStart(t *testing.T) {
	r := run(t, func(s *wire.Spec) { s.Personal = personal() })
	if diff := cmp.Diff([]string{"secrets", "policy", "attach"}, r.gateway.known()); diff != "" {
		t.Errorf("the network was not in place before the machine: %s", diff)
	}
	r.check()
	if reply, _ := r.ask(wire.Request{Op: wire.OpConfigure, Personal: &wire.Personal{}}); reply.Error == "" {
		t.Error("a sandbox was configured again")
	}
	r.check()
}

func TestSpareIsConfiguredLate(t *testing.T) {
	r := run(t, func(s *wire.Spec) { s.Spare = true })
	if len(r.gateway.allow.Entries()) != 0 || r.gateway.allow == nil || r.audit.opened != 0 {
		t.Errorf("a spare may reach %v, its audit was opened %d times", r.gateway.allow, r.audit.opened)
	}
	if reply, _ := r.ask(wire.Request{Op: wire.OpPolicy, Policy: &wire.SetPolicy{}}); reply.Error == "" {
		t.Error("a spare was opened")
	}
	own := personal()
	if reply, _ := r.ask(wire.Request{Op: wire.OpConfigure, Personal: &own}); reply.Error != "" {
		t.Fatal(reply.Error)
	}
	r.check()
	if reply, _ := r.ask(wire.Request{Op: wire.OpConfigure, Personal: &wire.Personal{}}); reply.Error == "" {
		t.Error("a spare was configured twice")
	}
	r.check()
}

// What the guest did is on disk before anybody hears of its end.
func TestAuditIsClosedBeforeTheEnd(t *testing.T) {
	r := run(t, func(s *wire.Spec) { s.Personal = personal() })
	if reply, _ := r.ask(wire.Request{Op: wire.OpStop, Reason: api.StopKilled}); reply.Exit == nil || r.audit.closed != 1 {
		t.Errorf("%+v, the audit was closed %d times", reply, r.audit.closed)
	}
}

func TestSpareThatFailsStaysClosed(t *testing.T) {
	for name, own := range map[string]*wire.Personal{
		"nothing":   nil,
		"list":      {AllowNet: &[]string{""}},
		"ceiling":   {Ceiling: []string{""}},
		"secret":    {Secrets: wire.Secrets{"K": {Value: value}}},
		"collision": {Env: map[string]string{"K": "v"}, Secrets: wire.Secrets{"K": {Hosts: []string{"example.com"}, Value: value}}},
		"variable":  {Env: map[string]string{"A=B": "v"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := run(t, func(s *wire.Spec) { s.Spare = true })
			reply, _ := r.ask(wire.Request{Op: wire.OpConfigure, Personal: own})
			if reply.Error == "" || strings.Contains(reply.Error, value) {
				t.Errorf("reply %+v", reply)
			}
			if r.gateway.allow == nil || len(r.gateway.allow.Entries()) != 0 {
				t.Error("the spare is open")
			}
		})
	}
}

func TestPolicyOfALiveSandbox(t *testing.T) {
	r := run(t, func(s *wire.Spec) { s.Personal, s.Gateway.Strict = personal(), true })
	want := described()
	want.Strict = true
	for _, allow := range []*[]string{{}, nil, {"api.example.com:443"}} {
		want.AllowNet = allow
		if diff := cmp.Diff(want, r.policy(&wire.SetPolicy{AllowNet: allow})); diff != "" {
			t.Error(diff)
		}
		if (r.gateway.allow == nil) != (allow == nil) || r.gateway.ceiling == nil {
			t.Errorf("the gateway has %v below %v", r.gateway.allow, r.gateway.ceiling)
		}
	}
	if reply, _ := r.ask(wire.Request{Op: wire.OpPolicy, Policy: &wire.SetPolicy{AllowNet: &[]string{""}}}); reply.Error == "" {
		t.Error("a list that is none is accepted")
	}
	if diff := cmp.Diff(want, r.policy(nil)); diff != "" {
		t.Error(diff)
	}
}

func TestOpenSandboxTrustsNoAuthority(t *testing.T) {
	r := run(t, nil)
	if strings.Contains(r.shim.guestRoots(), certificate) {
		t.Error("the authority is trusted without need")
	}
	if diff := cmp.Diff(api.NetworkPolicy{}, r.policy(nil)); diff != "" {
		t.Error(diff)
	}
}

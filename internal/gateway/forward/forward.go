// Package forward carries the guest's TCP connections and UDP flows to where
// they are allowed to go.
//
// Every connection and flow is decided before anything of it leaves, by the
// address that is then dialed. A refused connection is reset while the guest
// still waits for its handshake; an allowed one is first dialed and only then
// accepted, so that the guest sees a dead destination as such.
//
// Terms: up is the end towards the world, guest the other; a flow is a pair
// of UDP ends that lives until it has been idle for a while.
//
// Concurrency: a connection has two goroutines, one for each direction, and
// so has a flow. All belong to the Forwarder, whose Close cuts what is open
// and waits for them. An idle connection holds no buffer.
package forward

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/atollhq/atoll/internal/gateway/audit"
	"github.com/atollhq/atoll/internal/gateway/policy"
	"github.com/atollhq/atoll/internal/gateway/upstream"
)

const (
	dialTimeout = 30 * time.Second
	flowIdle    = 60 * time.Second // RFC 4787 asks for more than two minutes of a NAT; a sandbox isn't one
)

// Config describes a forwarder.
type Config struct {
	// Decide answers at once; it is called for each connection and flow.
	Decide func(policy.Query) policy.Decision
	// Name returns the name that an address stands for in this sandbox, and
	// whether it is a virtual one. A virtual address without a name leads
	// nowhere.
	Name func(netip.Addr) (name string, virtual bool)
	// Resolve returns the addresses of a name that may be dialed.
	Resolve func(ctx context.Context, name string) ([]netip.Addr, error)
	// Dial connects to exactly the given address. Its connections have
	// CloseWrite where the protocol has it.
	Dial func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error)

	// Named connects to the names that it takes, without their addresses. It
	// may be nil.
	Named upstream.NameDialer

	// Inspect says how much of a TCP connection is read. UDP flows to what is
	// to be opened are refused, so that clients of QUIC turn to TCP.
	Inspect func(policy.Query) Inspection
	// Reserved reports whether a host may be reached by its name only, because
	// connections to it are opened.
	Reserved func(name string, port uint16) bool
	Opener   Opener
	Audit    audit.Log

	MaxTCP int // connections at a time, being set up included
	MaxUDP int // flows at a time
	Log    *slog.Logger
}

// Forwarder carries one sandbox's traffic.
type Forwarder struct {
	cfg  Config
	ctx  context.Context // ends with Close
	stop context.CancelFunc

	conns atomic.Int64 // open TCP connections
	calm  *time.Timer  // runs after a burst of them; see leave

	mu     sync.Mutex // guards the following
	closed bool
	flows  map[*flow]struct{}
	links  map[*link]struct{}
	work   sync.WaitGroup // Add only with mu held and closed false
}

// New makes a forwarder.
func New(cfg Config) *Forwarder {
	ctx, stop := context.WithCancel(context.Background())
	f := &Forwarder{cfg: cfg, ctx: ctx, stop: stop, flows: make(map[*flow]struct{}), links: make(map[*link]struct{})}
	f.calm = time.AfterFunc(calmAfter, f.giveBack)
	f.calm.Stop()
	return f
}

// Close cuts everything open and waits.
func (f *Forwarder) Close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.stop()
	f.work.Wait()
	f.calm.Stop()
}

// begin counts a piece of work in; its end calls f.work.Done. After Close it
// returns false.
func (f *Forwarder) begin() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	f.work.Add(1)
	return true
}

// allowed decides and notes the decision.
func (f *Forwarder) allowed(q policy.Query, rec *record) bool {
	d := f.cfg.Decide(q)
	rec.Rule = d.Rule
	if d.Allow && q.Proto == policy.UDP && f.cfg.Inspect(q).Open {
		d.Allow, rec.Rule = false, ruleQUIC
	}
	if d.Allow {
		rec.Decision = audit.Allow
	}
	return d.Allow
}

// The rules that the forwarder adds to the policy's.
const (
	ruleTooMany = "too many connections"
	ruleUnknown = "an address that stands for no name"
	ruleQUIC    = "UDP is refused where TLS is opened"
)

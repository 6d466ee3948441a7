package sandbox

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/link"
	"github.com/atollhq/atoll/internal/machine"
)

// CodeShimEnded is the code of Attach's error for a shim that wrote down why
// it ended. It never reaches a client.
const CodeShimEnded = "SHIM_ENDED"

// Launcher starts shims and finds running ones again. Its methods may be
// called concurrently.
type Launcher interface {
	// Launch starts a shim and its machine and returns when the agent
	// answered. On failure, and when ctx ends first, nothing is left behind.
	// After it returned, ctx has no influence.
	Launch(ctx context.Context, spec ShimSpec) (Shim, error)

	// Attach finds the running shim of a sandbox after the daemon restarted.
	// The error is errs.NotFound when no live shim answers. If the shim ended
	// in order, the error's code is CodeShimEnded and its message the stop
	// reason.
	Attach(ctx context.Context, id string) (Shim, error)

	// Cleanup frees whatever a dead shim left. It is idempotent.
	Cleanup(ctx context.Context, id string) error

	// Leftovers returns the ids of the sandboxes that have a directory on
	// disk, live or not.
	Leftovers(ctx context.Context) ([]string, error)
}

// Shim is the daemon's view of one running sandbox's shim. Its methods may be
// called concurrently.
type Shim interface {
	// OpenRPC opens a stream to the agent that carries JSON-RPC messages in
	// link frames. The caller closes it.
	OpenRPC(ctx context.Context, h link.RPCHeader) (net.Conn, error)

	// Configure turns the shim of a spare into a sandbox's. It returns when
	// network, secrets and environment are in place; nothing but the agent has
	// run in the machine by then. It can be called once; a shim for which it
	// failed is of no use any more.
	Configure(ctx context.Context, p Personal) error

	// Policy returns what the sandbox may reach.
	Policy(ctx context.Context) (api.NetworkPolicy, error)

	// SetPolicy replaces the allow-list, which is valid, and cuts the
	// connections that are no longer allowed; nil is no list.
	SetPolicy(ctx context.Context, allow *[]string) (api.NetworkPolicy, error)

	// Exited delivers one value when the machine or the shim itself ended,
	// for whatever reason.
	Exited() <-chan ShimExit

	// Stop ends the machine, politely at first, and the shim. The reason is
	// one of api.Stop…. It returns when everything is freed, is idempotent
	// and also works on a shim that has died.
	Stop(ctx context.Context, reason string) error
}

// ShimExit is the end of a shim or its machine.
type ShimExit struct {
	Reason string // api.StopOOM, api.StopCrashed or api.StopKilled
	Detail string // for the log; bounded, may hold guest text
}

// ShimSpec is everything a shim needs to know. It holds secrets: whoever
// carries it writes it nowhere but to the shim.
type ShimSpec struct {
	ID       string
	Driver   string // name of the machine driver: "gvisor"
	Hostname string

	Image       machine.Image
	MemoryBytes int64
	DiskBytes   int64
	CPUs        int
	MaxPIDs     int64

	MaxMessage int // bytes in one message from a client

	Personal
	Spare bool // Personal is empty and comes with Configure; until then nothing is reachable

	Exceptions    []netip.Prefix   // addresses that are reachable although always refused
	Resolvers     []netip.AddrPort // upstream DNS servers; empty is the host's
	HostOverrides string           // path of the operator's host overrides, see package upstream
	ExtraRootsPEM string           // certificates that guest and gateway trust beside their own
	Strict        bool             // TLS is opened for every host
	Proxy         Proxy            // what connections go through; empty is none
	AuditMaxBytes int64            // of one audit file; 0 keeps no audit
}

// Personal is what one client's sandbox has of its own.
type Personal struct {
	Env      map[string]string // added to the environment of every process
	AllowNet *[]string         // see Spec
	Ceiling  []string          // the operator's list for this organisation; empty is none
	Secrets  *Secrets
}

// Proxy is the URL of an HTTP or SOCKS5 proxy. It may hold a password: it
// shows itself only when it is converted to a string.
type Proxy string

// Format implements fmt.Formatter.
func (p Proxy) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, p.shown()) }

// LogValue implements slog.LogValuer.
func (p Proxy) LogValue() slog.Value { return slog.StringValue(p.shown()) }

func (p Proxy) shown() string {
	if p == "" {
		return ""
	}
	return hidden
}

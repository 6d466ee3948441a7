package sandbox

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/gateway/names"
	"github.com/atollhq/atoll/internal/link"
	"github.com/atollhq/atoll/internal/machine"
)

// CodeShimEnded is the code of Attach's error for a shim that wrote down why
// it ended. It never reaches a client.
const CodeShimEnded = "SHIM_ENDED"

// Codes of what a shim refuses or can't do.
const (
	// CodePaused: a stream was asked for while the machine stands still, or a
	// fork while it is on disk. It never reaches a client: the sandbox is
	// resumed first.
	CodePaused = "PAUSED"
	// CodeCannotPause and CodeCannotFork: the machine's driver lacks the power.
	CodeCannotPause = "CANNOT_PAUSE"
	CodeCannotFork  = "CANNOT_FORK"
	// CodeSaveFailed: the machine could not be written down, and goes on.
	CodeSaveFailed = "SAVE_FAILED"
	// CodeTooManyForks: the sandbox is being forked as often as it may at once.
	CodeTooManyForks = "TOO_MANY_FORKS"
)

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

	// Status says whether the machine runs, and what it used.
	Status(ctx context.Context) (ShimStatus, error)

	// Pause returns when the machine stands still. To disk, its memory is
	// written down and given back, and its streams end; it is no error if it
	// stands still already, but a suspended machine stays suspended. When it
	// fails the machine goes on as before.
	Pause(ctx context.Context, toDisk bool) (Paused, error)

	// Resume returns when the machine runs again and its agent knows. It is no
	// error if it ran. A machine that can't be restored ends as crashed.
	Resume(ctx context.Context) error

	// Fork writes down the machine as it is, for other sandboxes to continue
	// from. A running machine goes on after a moment, a paused one stays so; one
	// that is on disk has to be resumed first. The caller closes the fork when its children run; it ends with
	// the shim, too.
	Fork(ctx context.Context) (*Fork, error)

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

// Power says whether a sandbox's machine runs.
type Power string

// The states of a machine.
const (
	PowerRunning   Power = "running"
	PowerPaused    Power = "paused"    // it stands still, in memory
	PowerSuspended Power = "suspended" // it is on disk
)

// ShimStatus is how a sandbox's machine is.
type ShimStatus struct {
	Power   Power
	CPUTime time.Duration // of the machine, earlier lives of a suspended one included

	// CopyBytes is about what a copy of the machine takes in memory; of a
	// suspended one, what was written; 0 if that isn't known.
	CopyBytes int64
}

// Paused is what a pause took.
type Paused struct {
	Bytes      int64         // written to disk
	StoodStill time.Duration // until the call returned, or the machine went on
}

// Origin is what a forked sandbox continues from. It is valid while its Fork
// is open.
type Origin struct {
	SandboxID  string // of the parent
	Snapshot   machine.Snapshot
	Generation uint32      // the highest that the parent's link had
	Image      string      // path of the parent's descriptor of its image
	Names      names.State // what the virtual addresses that its guest knows stand for
}

// Fork is a sandbox written down for others to continue from. It holds the
// parent's secrets.
type Fork struct {
	Origin   Origin
	personal Personal
	release  func() error
	closed   sync.Once
}

// NewFork returns a fork that calls release, which may be nil, when it is
// closed.
func NewFork(o Origin, p Personal, release func() error) *Fork {
	return &Fork{Origin: o, personal: p, release: release}
}

// Personal returns what a child has of its own: the parent's variables, lists
// as they are now, and secrets. Each call's result belongs to one child.
func (f *Fork) Personal() Personal {
	p := f.personal
	p.Env = maps.Clone(p.Env)
	p.Secrets = NewSecrets(maps.Clone(p.Secrets.Specs()))
	return p
}

// Close frees the saved machine and forgets the secrets. Children that have
// started don't need it any more. It is idempotent.
func (f *Fork) Close() (err error) {
	f.closed.Do(func() {
		f.personal.Secrets.Drop()
		if f.release != nil {
			err = f.release()
		}
	})
	return err
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
	Origin *Origin // set for a fork: what it continues from; its sizes and image are the parent's

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

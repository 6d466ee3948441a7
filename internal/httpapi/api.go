package httpapi

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/auth"
	"github.com/atollhq/atoll/internal/obs"
	"github.com/atollhq/atoll/internal/sandbox"
)

// Sandboxes is what the API asks of the sandbox manager.
type Sandboxes interface {
	Create(ctx context.Context, org string, spec sandbox.Spec) (*sandbox.Client, error)
	Connect(ctx context.Context, org, id string) (*sandbox.Client, error)
	Kill(ctx context.Context, org, id string) error
	MayExtend(ctx context.Context, org, id string, want time.Time) error
	Extend(ctx context.Context, org, id string, want time.Time) (time.Time, error)
	Network(ctx context.Context, org, id string) (api.NetworkPolicy, error)
	SetNetwork(ctx context.Context, org, id string, allow *[]string) (api.NetworkPolicy, error)
	Pause(ctx context.Context, org, id string, toDisk bool) (api.PauseResult, error)
	Resume(ctx context.Context, org, id string) error
	Fork(ctx context.Context, org, id string, spec sandbox.ForkSpec) ([]api.Sandbox, error)
	MaySetIdle(ctx context.Context, org, id string, change sandbox.IdleChange) error
	SetIdle(ctx context.Context, org, id string, change sandbox.IdleChange) (after string, toDisk bool, err error)
	AuditFiles(ctx context.Context, org, id string) (sandbox.AuditFiles, error)
	Get(ctx context.Context, org, id string) (api.Sandbox, error)
	List(ctx context.Context, org string, f sandbox.Filter) ([]api.Sandbox, error)
}

// Authenticator finds out who a request acts for.
type Authenticator interface {
	Authenticate(ctx context.Context, token, org string) (auth.Identity, error)
}

// Auditor records what was done by whom. It must not block.
type Auditor interface{ Record(obs.Event) }

// Options of the API. All are needed.
type Options struct {
	Sandboxes Sandboxes
	Auth      Authenticator
	Audit     Auditor
	Metrics   *obs.Metrics
	Log       *slog.Logger

	Limits     sandbox.Limits
	MaxMessage int64         // bytes in one message from a client
	DeadAfter  time.Duration // a client without sign of life is disconnected
	Version    string
}

// New returns the handler of all routes.
func New(o Options) http.Handler {
	a := &server{Options: o, in: o.Metrics.Traffic("in"), out: o.Metrics.Traffic("out")}
	return a.handler(a.routes())
}

type server struct {
	Options
	in, out obs.Traffic
}

// Timeouts and limits of the HTTP server that serves the handler.
const (
	HeaderTimeout  = 10 * time.Second
	IdleTimeout    = 2 * time.Minute
	MaxHeaderBytes = 1 << 20 // so that a configuration that is too large gets a sentence, not only a status

	maxBody       = 64 << 10
	bodyTimeout   = 10 * time.Second // for all of a body to arrive
	answerTimeout = 30 * time.Second // for the caller to take an answer
)

package shim

import (
	"crypto/x509"
	"fmt"
	"log/slog"
	"sync"

	"github.com/atollhq/atoll/internal/gateway"
	"github.com/atollhq/atoll/internal/gateway/audit"
	"github.com/atollhq/atoll/internal/gateway/intercept"
	"github.com/atollhq/atoll/internal/gateway/upstream"
	"github.com/atollhq/atoll/internal/shim/wire"
)

// NewGateway makes the sandbox's gateway on the host's network. A nil record
// keeps no audit.
func NewGateway(spec wire.Spec, record audit.Log, log *slog.Logger) (*gateway.Gateway, error) {
	roots := sync.OnceValues(func() (*x509.CertPool, error) { return upstreamRoots(spec.ExtraRoots) })
	up, err := newUpstream(spec, roots)
	if err != nil {
		return nil, fmt.Errorf("make gateway: %w", err)
	}
	return gateway.New(gateway.Config{
		Network: wire.Network(), Exceptions: spec.Gateway.Exceptions, Upstream: up, TCPOnly: spec.Gateway.Proxy != "",
		Roots: roots, Strict: spec.Gateway.Strict, Audit: record, Log: log,
	})
}

// newUpstream is the way to the world: the host's network or the operator's
// proxy, but for what the operator overrides.
func newUpstream(spec wire.Spec, roots intercept.Roots) (gateway.Upstream, error) {
	cfg, host := spec.Gateway, &upstream.Host{Nameservers: spec.Gateway.Resolvers}
	var up gateway.Upstream = host
	if cfg.Proxy != "" {
		pool, err := roots()
		if err != nil {
			return nil, err
		}
		if up, err = upstream.NewProxy(cfg.Proxy, pool, host); err != nil {
			return nil, err
		}
	}
	if cfg.OverridesFile == "" {
		return up, nil
	}
	overrides, err := upstream.ReadOverrides(cfg.OverridesFile)
	if err != nil {
		return nil, err
	}
	return &upstream.Redirect{Overrides: overrides, Next: up}, nil
}

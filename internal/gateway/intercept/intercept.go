// Package intercept reads HTTP on behalf of the policy and the secrets: in
// plain text, and inside TLS where a secret or strict mode asks for it.
package intercept

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net"
	"net/netip"

	"github.com/atollhq/atoll/internal/gateway/audit"
	"github.com/atollhq/atoll/internal/gateway/policy"
	"github.com/atollhq/atoll/internal/gateway/secret"
)

// Dest is where a guest's connection goes.
type Dest struct {
	Name string     // in normal form; empty when only the address is known
	Addr netip.Addr // that Up is connected to
	Port uint16
}

// Config describes an interceptor.
type Config struct {
	CA      *CA
	Secrets *secret.Set    // nil for none
	Roots   *x509.CertPool // for upstream certificates; nil is the host's
	// Decide judges each request again: the policy may have changed since the
	// connection began.
	Decide func(policy.Query) policy.Decision
	// Dial opens another connection to a destination, already judged.
	Dial  func(ctx context.Context, d Dest) (net.Conn, error)
	Audit audit.Log
	Log   *slog.Logger
}

// Interceptor reads connections. Its methods may be called concurrently.
type Interceptor struct{}

// New makes an interceptor.
func New(cfg Config) *Interceptor { panic("not built") }

// CA is a sandbox's certificate authority. Its key is nowhere but in memory.
type CA struct{}

// NewCA makes an authority.
func NewCA() (*CA, error) { panic("not built") }

// PEM is its certificate, for the guest's trust store.
func (c *CA) PEM() string { panic("not built") }

// ServeTLS ends the guest's TLS and speaks HTTP/1.1 or HTTP/2 on both sides. The
// guest's ClientHello is still unread in guest; alpn is what it offers. Up is
// connected and unused. Both are closed when it returns, which it does when the
// connection or ctx ends.
func (i *Interceptor) ServeTLS(ctx context.Context, guest, up net.Conn, d Dest, alpn []string) {
	panic("not built")
}

// ServeHTTP reads plain HTTP/1.1, or HTTP/2 when it begins with its preface.
// Otherwise it is like ServeTLS.
func (i *Interceptor) ServeHTTP(ctx context.Context, guest, up net.Conn, d Dest) {
	panic("not built")
}

// Package doctor examines a host: what it can do for Atoll, what it cannot,
// and how to mend it. It exists so that a failed start can be explained before
// it happens.
//
// A check looks and never changes anything. Fatal means that no sandbox can
// run; a warning means that something is slower, smaller or missing. Checks
// run one after the other in one goroutine, each bounded in time.
package doctor

import (
	"context"
	"net/netip"
	"time"

	"github.com/atollhq/atoll/internal/config"
	"github.com/atollhq/atoll/internal/layout"
)

// Status values.
const (
	OK   = "ok"
	Warn = "warn"
	Fail = "fail"
)

// Check is one finding. The names are stable.
type Check struct {
	Name   string `json:"name"`
	Status string `json:"status"`
	Detail string `json:"detail"`           // what was found
	Remedy string `json:"remedy,omitempty"` // what to do about it
}

func ok(detail string) Check            { return Check{Status: OK, Detail: detail} }
func warn(detail, remedy string) Check  { return Check{Status: Warn, Detail: detail, Remedy: remedy} }
func fail(detail, remedy string) Check  { return Check{Status: Fail, Detail: detail, Remedy: remedy} }
func (c Check) named(name string) Check { c.Name = name; return c }

// Host is what is examined. Paths can be moved for tests.
type Host struct {
	Root    string       // of the host's files, normally "/"
	Data    layout.Data  // the server's data directory
	Image   layout.Image // the image that sandboxes get
	Listen  string       // the server's listen address
	Network config.Network
	UID     int
	BinDirs []string // where atoll's own programs are looked for
	// Settings is what is wrong with the server's settings, which are its
	// defaults then.
	Settings error
	// Ping asks a running server for an answer.
	Ping func(context.Context) error
}

// checkTimeout bounds each check.
const checkTimeout = 5 * time.Second

// Run makes all checks, in the order in which they are worth mending.
func Run(ctx context.Context, h Host) []Check {
	checks := []struct {
		name string
		run  func(context.Context) Check
	}{
		{"root", h.root},
		{"settings", h.settings},
		{"kernel", h.kernel},
		{"tun", h.tun},
		{"namespaces", h.namespaces},
		{"cgroups", h.cgroups},
		{"binaries", h.binaries},
		{"image", h.image},
		{"build-tools", h.buildTools},
		{"disk", h.disk},
		{"memory", h.memory},
		{"virtualisation", h.virtualisation},
		{"network", h.network},
		{"server", h.server},
	}
	out := make([]Check, 0, len(checks))
	for _, c := range checks {
		ctx, cancel := context.WithTimeout(ctx, checkTimeout)
		out = append(out, c.run(ctx).named(c.name))
		cancel()
	}
	return out
}

// Healthy reports whether nothing fatal was found.
func Healthy(checks []Check) bool {
	for _, c := range checks {
		if c.Status == Fail {
			return false
		}
	}
	return true
}

// listenAddr reads a listen address; ok is false for one without an IP.
func listenAddr(s string) (netip.AddrPort, bool) {
	a, err := netip.ParseAddrPort(s)
	return a, err == nil
}

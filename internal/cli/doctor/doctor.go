// Package doctor examines a host: what it can do for Atoll, what it cannot,
// and how to mend it. It exists so that a failed start can be explained before
// it happens.
//
// A check looks and never changes anything, but for a trial, which is made only
// when it is asked for and removes what it made. Fatal means that no sandbox can
// run; a warning means that something is slower, smaller or missing. Checks
// run one after the other in one goroutine, each bounded in time.
package doctor

import (
	"context"
	"net/netip"
	"time"

	"github.com/atollhq/atoll/internal/config"
	"github.com/atollhq/atoll/internal/isolation"
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
	Root      string       // of the host's files, normally "/"
	Data      layout.Data  // the server's data directory
	Image     layout.Image // the image that sandboxes get
	Listen    string       // the server's listen address
	Isolation string       // the server's setting
	Network   config.Network
	UID       int
	BinDirs   []string // where atoll's own programs are looked for
	// Settings is what is wrong with the server's settings, which are the
	// defaults then.
	Settings error
	// Ping asks a running server for an answer.
	Ping func(context.Context) error
	// Examine says what the host offers to microVMs.
	Examine func(context.Context) isolation.Host
	// Try boots a microVM; nil if that was not asked for.
	Try func(context.Context) (time.Duration, error)
}

const (
	checkTimeout = 5 * time.Second // for each check
	trialTimeout = 2 * time.Minute // for a boot, on a busy host without KVM
)

// Run makes all checks, in the order in which they are worth mending.
func Run(ctx context.Context, h Host) []Check {
	type check struct {
		name string
		run  func(context.Context) Check
	}
	checks := []check{
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
		{"qemu", h.qemu},
		{"isolation", h.isolation},
		{"network", h.network},
		{"server", h.server},
	}
	if h.Try != nil {
		checks = append(checks, check{"trial", h.trial})
	}
	out := make([]Check, 0, len(checks))
	for _, c := range checks {
		limit := checkTimeout
		if c.name == "trial" {
			limit = trialTimeout
		}
		ctx, cancel := context.WithTimeout(ctx, limit)
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

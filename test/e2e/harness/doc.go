//go:build e2e

// Package harness gives end-to-end tests a real server: `atoll serve` with
// real shims and machines, on a fake internet, with a small client of its own
// for the raw protocol.
//
// Nothing that runs here can send a packet off the host: every server is
// started with host overrides of which everything that is not one of the
// test's own listeners on 127.0.0.1 is unreachable. The addresses that no
// sandbox may reach are overridden too, towards traps that record whoever
// gets through: without them a hole in the policy would stay unseen.
//
// The client does not use package client on purpose: a mistake shared by
// server and SDK would hide itself.
//
// A Server, its Internet and a Conn may be used by many goroutines. Whoever
// starts a Server closes it; Close ends and frees all its sandboxes, also
// those that outlived their daemon.
package harness

// Package agent is the program inside a machine: it serves the calls of the
// sandbox's clients over the link to the shim.
//
// The first stream of a link is the control stream. Its first message
// personalises the machine (host name, clock, DNS, trust store, user); only
// then are client connections and port dials served. When the link ends the
// agent's work is over, and with it, as it is PID 1, the machine.
//
// An Agent owns a goroutine per stream and waits for all of them before Run
// returns. It imports nothing of the host.
package agent

// Package agent is the program inside a machine: it serves the calls of the
// sandbox's clients over the link to the shim.
//
// A link carries one session after the other: a machine that was saved and
// restored, or continues as another sandbox, has a new one. The first stream
// of a session is the control stream. In the machine's first, its first
// message personalises the machine (host name, clock, DNS, trust store, user);
// in later ones it says that the machine was resumed, and perhaps as whom.
// Only then are client connections and port dials served, with the session's
// generation. What clients hold ends with the session; processes go on. When
// there will be no other session the agent's work is over, and with it, as it
// is PID 1, the machine.
//
// Before a machine with a kernel of its own is saved for others, the shim has
// the agent stop all processes of the guest. In those others they go on as the
// last step of the resumption.
//
// An Agent owns a goroutine per stream and waits for all of them before Run
// returns. It imports nothing of the host.
package agent

// Package sandbox is the domain: what a sandbox is, when one may start, how
// long it lives and why it ends.
//
// A Spec is a validated request. The Manager turns it into a running sandbox
// by storing a row and launching a shim, and keeps one supervisor goroutine
// per live sandbox, which alone decides that the sandbox ends. A Client is one
// connection to a sandbox; the primary client is the one that created it, and
// its end is the end of a sandbox with the lifetime "session".
//
// States go one way: creating, running, stopping, stopped. What must survive
// a crash of the daemon is in the store before the next step is taken. A
// running sandbox's machine runs or stands still, in memory or on disk: that is
// its Power, which goes to and fro.
//
// Concurrency: Manager.mu guards the set of live sandboxes and the counts;
// box.mu guards one sandbox's clients, lifetime and power. When both are
// needed, Manager.mu is taken first. Neither is held during a wait. What takes
// time with one sandbox's machine takes turns by power.changing, and the
// supervisor waits for it before the sandbox is forgotten.
package sandbox

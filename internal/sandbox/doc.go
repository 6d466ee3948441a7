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
// a crash of the daemon is in the store before the next step is taken.
//
// Concurrency: Manager.mu guards the set of live sandboxes and the counts;
// box.mu guards one sandbox's clients and lifetime. When both are needed,
// Manager.mu is taken first. Neither is held during a wait.
package sandbox

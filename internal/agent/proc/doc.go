// Package proc runs the processes of a sandbox and keeps its environment.
//
// A Manager belongs to the whole sandbox: a process that one connection
// started can be waited for or ended by any other, and goes on when its
// connection is gone. Every process leads a session and process group of its
// own, so that a signal reaches what it started too.
//
// The agent is PID 1, so every orphan becomes its child. One reaper waits for
// all children and hands each status to the process it belongs to; it takes
// the same lock as a start, so that no status is lost in between and no
// signal goes to a number that was given to somebody else.
package proc

// Package oom ends the largest process before the machine runs out of memory.
//
// The host bounds a machine's memory from outside; at that bound the whole
// machine dies. A Watcher keeps the guest below it: when what is free falls
// under a reserve, it ends one process, and the one who waits for it learns
// why. It looks rarely while much is free and often when little is, so that
// an idle machine costs nothing and a fast one is caught in time.
//
// A Watcher is one goroutine's.
package oom

// Package fs is the guest agent's file API: the methods behind sandbox.fs and
// FsFile of the SDKs, with the semantics of Deno's own functions and of
// @std/fs.
//
// Why it is more than a thin layer over package os: the agent is root in the
// guest, the calls must act as the user app. Every operation that the kernel
// checks against a user (open, mkdir, chown, …) therefore runs on a worker: an
// operating system thread of its own whose effective user, group and groups
// are app's and which never runs anything else. A handful of workers serves
// all connections, which also bounds the threads that slow disks can hold.
//
// Terms. A worker is such a thread, the pool is all of them. A job is one
// short run of system calls on a worker. A file is an open descriptor with the
// way to read and write it: files that the runtime can poll (pipes, terminals)
// are waited for without a worker, all others are read and written by jobs. A
// handle is a file that a client holds by number.
//
// Concurrency. All methods may run at once. Handles belong to a connection and
// are closed with it. The walks that stream their results run in goroutines
// which end when the stream's reader goes away or the connection closes. A job
// never waits for a client: content that arrives as a stream is awaited
// outside of the pool.
package fs

// Package deno runs Deno inside the sandbox: programs (spawnDeno), evaluation
// sessions (spawnDenoRepl, denoReplEval, denoReplCall, denoReplClose) and the
// question whether a program serves HTTP yet (denoHttpWait).
//
// Terms
//
//   - program: an entrypoint, or code that a client sent. Sent code is run by
//     `deno eval`, which treats it as a file in the working directory:
//     relative imports, deno.json and stack traces are those of such a file,
//     and stdin stays the client's.
//   - watcher: a program under `deno run --watch`. Every (re)start of the
//     program runs a one-line preload module that writes to a FIFO; each
//     write after the first is one restart notification.
//   - session: a `deno repl --json` process. It speaks its protocol on
//     descriptor 3, so the three standard streams are the evaluated code's.
//   - endpoint: a TCP address on which a process or one of its descendants
//     listens, found in /proc.
//
// Concurrency: a Service is safe for concurrent use. One session evaluates
// one request at a time, in the order of arrival. Every goroutine ends with
// the process that it belongs to, or with the call that waits.
package deno

// Package rpc serves JSON-RPC 2.0 over one link stream: the calls of one
// client connection, and byte streams in both directions.
//
// A Registry maps method names to functions; it is filled once and then only
// read. Serve runs one Conn. Its reader goroutine handles stream
// notifications and aborts in the order of arrival, so that stream data is
// never reordered; every call runs in a goroutine of its own and answers when
// it is done. Writers share one lock; a slow client blocks them, which is the
// backpressure that bounds memory.
//
// An OutStream carries bytes to the client, an InStream from it. What a
// client sends faster than it is consumed is kept in memory up to a bound,
// then in an unlinked temporary file up to another, and only beyond that does
// the reader stop: a call that ends a process is never stuck behind the data
// which that process doesn't read.
package rpc

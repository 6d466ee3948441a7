// Package client is the Go SDK of Atoll: it creates sandboxes on a server,
// connects to them and runs code in them. It exists so that the CLI and other
// programs share one implementation of the wire protocol; it imports the wire
// types, a WebSocket library and nothing else.
//
//	c, err := client.New(client.Options{})
//	sb, err := c.Sandboxes.Create(ctx, client.CreateOptions{})
//	defer sb.Close()
//	out, err := sb.Output(ctx, "echo", client.SpawnOptions{Args: []string{"hi"}})
//
// # Terms
//
// A Client talks to one server with one token. A Sandbox is one WebSocket
// connection to one sandbox; the connection that created a sandbox is its
// primary client, and a sandbox without a timeout ends when that connection
// does. A stream is a sequence of binary messages inside the connection: a
// process's output, a response body, a directory walk.
//
// # Concurrency
//
// All methods may be called from several goroutines. Each connection has two
// goroutines: one reads, one writes. Both end with Sandbox.Close.
//
// Streams share the connection and the protocol has no flow control of its
// own. Each inbound stream is buffered up to 4 MiB; when its consumer falls
// further behind, the whole connection waits for it, and with it every other
// call of the same Sandbox. So read every stream that was asked for, or close
// it; connect a second time to be independent of a slow consumer.
//
// # Errors
//
// Failures of the HTTP surface are *APIError. Failures inside a sandbox are
// *Error, which answers errors.Is(err, fs.ErrNotExist) and its siblings.
// Malformed calls are *api.RPCError. After the connection ended, every call
// returns *CloseError.
package client

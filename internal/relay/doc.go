// Package relay carries JSON-RPC messages between one client's WebSocket and
// one link stream to the agent.
//
// Messages pass through in pieces of at most link.MaxFrame bytes, so that a
// file of a hundred megabytes never stands in the daemon's memory. There is no
// queue: whoever reads slowly slows the other side of the same connection and
// nobody else. Three things end here and don't pass: the text "ping", which is
// answered with "pong"; binary messages, which are refused; and messages over
// the limit.
//
// Before anything goes to the agent a Guard is asked, which may hold it up
// until the agent can take it: a sandbox that is paused is resumed first.
//
// A connection has four goroutines, all owned by Run: one per direction, one
// that answers pings, and the caller's, which decides when and why it ends.
// Neither reading nor writing has a deadline of its own; the caller's
// goroutine closes what shows no life any more.
package relay

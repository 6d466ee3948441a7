// Package audit is the record of what a sandbox did, or tried to do, on the
// network.
//
// There is one Record for each connection and flow, for each request on a
// connection that the gateway reads, and for each refused name. A record holds
// names, addresses and numbers, never contents: no header, no body, no query
// string, no value of a secret. What it takes from the guest (names, methods,
// paths) is as the guest sent it, before any placeholder is replaced, and is
// bounded in length.
package audit

import (
	"net/netip"
	"time"
)

// Kind is what a record is about.
type Kind string

// The kinds of record.
const (
	Connection Kind = "connection" // a TCP connection or a UDP flow, recorded when it ends
	Request    Kind = "request"    // an HTTP request, recorded when its response ends
	Name       Kind = "name"       // a DNS question that was refused
	Lost       Kind = "lost"       // Count records with this decision that were not kept, because there were too many
)

// Values of Record.Decision.
const (
	Allow  = "allow"
	Refuse = "refuse"
)

// Record is one line of the audit.
type Record struct {
	Time     time.Time  `json:"time"`    // when it began
	Sandbox  string     `json:"sandbox"` // id, set by the log
	Kind     Kind       `json:"kind"`
	Name     string     `json:"name,omitempty"` // of the destination, where it is known
	Addr     netip.Addr `json:"addr,omitzero"`  // that was dialed, or would have been
	Port     uint16     `json:"port,omitempty"`
	Protocol string     `json:"protocol,omitempty"` // "tcp", "udp", "dns", "tls", "http/1.1", "h2", "websocket"
	Method   string     `json:"method,omitempty"`
	Path     string     `json:"path,omitempty"`   // without the query
	Status   int        `json:"status,omitempty"` // of the response
	Sent     int64      `json:"sent,omitempty"`   // bytes from the guest; of a request, its body's
	Received int64      `json:"received,omitempty"`
	Millis   int64      `json:"ms,omitempty"`      // how long it took
	Decision string     `json:"decision"`          // Allow or Refuse
	Rule     string     `json:"rule"`              // which rule decided, or why it failed
	Secrets  []string   `json:"secrets,omitempty"` // names of the secrets that were used
	Note     string     `json:"note,omitempty"`    // what else is worth knowing, e.g. "placeholder of NAME left as it is"
	Count    int        `json:"count,omitempty"`   // of records that differ in nothing but time and amounts and that this one stands for, when more than one; then Sent and Received are sums and Millis is the longest
}

// Log takes records. Add may be called concurrently and doesn't block on the
// network; it sets Sandbox, and Time where it is zero.
type Log interface {
	Add(Record)
}

// Discard is a Log that keeps nothing.
type Discard struct{}

// Add implements Log.
func (Discard) Add(Record) {}

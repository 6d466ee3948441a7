package api

import (
	"net/netip"
	"time"
)

// AuditRecord is one line of what a sandbox did, or tried to do, on the
// network. Its text is what the sandbox sent.
type AuditRecord struct {
	Time     time.Time  `json:"time"` // when it began
	Sandbox  string     `json:"sandbox"`
	Kind     string     `json:"kind"`           // one of Audit…
	Name     string     `json:"name,omitempty"` // of the destination, where it is known
	Addr     netip.Addr `json:"addr,omitzero"`  // that was dialed, or would have been
	Port     uint16     `json:"port,omitempty"`
	Protocol string     `json:"protocol,omitempty"` // "tcp", "udp", "dns", "tls", "http/1.1", "h2", "websocket"
	Method   string     `json:"method,omitempty"`
	Path     string     `json:"path,omitempty"`   // without the query
	Status   int        `json:"status,omitempty"` // of the response
	Sent     int64      `json:"sent,omitempty"`   // bytes from the sandbox; of a request, its body's
	Received int64      `json:"received,omitempty"`
	Millis   int64      `json:"ms,omitempty"`      // how long it took
	Decision string     `json:"decision"`          // AuditAllow or AuditRefuse
	Rule     string     `json:"rule"`              // which rule decided, or why it failed
	Secrets  []string   `json:"secrets,omitempty"` // names of the secrets that were used
	Note     string     `json:"note,omitempty"`
	Count    int        `json:"count,omitempty"` // of like records that this one stands for, when more than one
}

// Kinds of AuditRecord.
const (
	AuditConnection = "connection" // a TCP connection or a UDP flow, recorded when it ends
	AuditRequest    = "request"    // an HTTP request, recorded when its response ends
	AuditName       = "name"       // a DNS question that was refused
	AuditLost       = "lost"       // Count records that were dropped, because there were too many
)

// Values of AuditRecord.Decision.
const (
	AuditAllow  = "allow"
	AuditRefuse = "refuse"
)

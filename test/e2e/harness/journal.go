//go:build e2e

package harness

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// Arrival is something that reached the fake internet.
type Arrival struct {
	At   string // which of its hosts: one of the At constants
	What string // in text, bytes quoted
}

func (a Arrival) String() string { return a.At + " " + a.What }

// Where things arrive.
const (
	AtAPI      = "api"      // the API host: requests and the names in its TLS hellos
	AtEvil     = "evil"     // the host that nobody may reach: every byte
	AtRaw      = "raw"      // a host that takes everything: every byte
	AtResolver = "resolver" // public resolvers, which are not the gateway's: every byte
	AtDNS      = "dns"      // the gateway's own resolver: questions
	AtMail     = "mail"     // words and names of TLS hellos
	AtDB       = "db"       // likewise
)

// Request is a request to the API host as it was received.
type Request struct {
	Method, Target, Host, Proto string
	SNI                         string // of its connection; empty without TLS
	Header, Trailer             http.Header
	Body                        []byte
}

// String is the request as text, with everything that it carries.
func (r Request) String() string {
	var out strings.Builder
	fmt.Fprintf(&out, "%s %s %s host=%s sni=%s\n", r.Method, r.Target, r.Proto, r.Host, r.SNI)
	_ = r.Header.Write(&out) // a Builder never fails
	fmt.Fprintf(&out, "\n%s\n", decoded(r))
	_ = r.Trailer.Write(&out)
	return out.String()
}

// decoded is a request's body without its content coding.
func decoded(r Request) []byte {
	if r.Header.Get("Content-Encoding") != "gzip" {
		return r.Body
	}
	z, err := gzip.NewReader(bytes.NewReader(r.Body))
	if err != nil {
		return r.Body
	}
	plain, err := io.ReadAll(io.LimitReader(z, maxBytes))
	if err != nil {
		return r.Body
	}
	return plain
}

// journal is what has arrived, in order.
type journal struct {
	mu       sync.Mutex // guards the following
	entries  []*entry
	requests []Request
}

// entry is an arrival, which grows where it is a stream.
type entry struct {
	at, what string
	stream   []byte
	isStream bool
}

func (j *journal) note(at, format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.entries = append(j.entries, &entry{at: at, what: fmt.Sprintf(format, args...)})
}

// begin notes a stream and returns what appends to it. A stream that has no
// bytes has arrived, too.
func (j *journal) begin(at, what string) (more func([]byte)) {
	e := &entry{at: at, what: what, isStream: true}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.entries = append(j.entries, e)
	return func(b []byte) {
		j.mu.Lock()
		defer j.mu.Unlock()
		e.stream = append(e.stream, b...)
	}
}

func (j *journal) request(r Request) {
	j.note(AtAPI, "%s %s%s %s", r.Method, r.Host, r.Target, r.Proto)
	j.mu.Lock()
	defer j.mu.Unlock()
	j.requests = append(j.requests, r)
}

// asked reports whether a host of the API server has had a request.
func (j *journal) asked(host string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.ContainsFunc(j.requests, func(r Request) bool { return r.Host == host })
}

// Mark is a place in what arrives.
type Mark struct{ entries, requests int }

// Mark is the place after what has arrived so far.
func (n *Internet) Mark() Mark {
	n.log.mu.Lock()
	defer n.log.mu.Unlock()
	return Mark{len(n.log.entries), len(n.log.requests)}
}

// Arrivals returns what has arrived since a mark.
func (n *Internet) Arrivals(since Mark) []Arrival {
	n.log.mu.Lock()
	defer n.log.mu.Unlock()
	var out []Arrival
	for _, e := range n.log.entries[since.entries:] {
		a := Arrival{e.at, e.what}
		if e.isStream {
			a.What += fmt.Sprintf(" %q", e.stream)
		}
		out = append(out, a)
	}
	return out
}

// Requests returns the API host's requests since a mark.
func (n *Internet) Requests(since Mark) []Request {
	n.log.mu.Lock()
	defer n.log.mu.Unlock()
	return slices.Clone(n.log.requests[since.requests:])
}

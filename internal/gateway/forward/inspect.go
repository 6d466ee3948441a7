package forward

import (
	"context"
	"net"
	"net/netip"

	"github.com/atollhq/atoll/internal/gateway/policy"
	"github.com/atollhq/atoll/internal/gateway/sniff"
)

// Inspection is how much of a connection the gateway reads.
type Inspection struct {
	Look bool // the first bytes are looked at
	Open bool // TLS is opened, and what can't be read is refused; needs Look
}

// Opened is a connection whose contents the gateway reads.
type Opened struct {
	Query policy.Query
	Addr  netip.Addr   // that Up is connected to
	Guest net.Conn     // begins with what was looked at
	Up    net.Conn     // to the destination
	Kind  sniff.Kind   // TLS, HTTP1 or HTTP2
	Hello *sniff.Hello // of TLS
	// Redial connects to the same destination once more.
	Redial func(context.Context) (net.Conn, error)
}

// Opener serves connections whose contents the gateway reads. Open returns
// when the connection has ended, which it does when ctx ends. It closes both
// ends.
type Opener interface {
	Open(ctx context.Context, o Opened) Outcome
}

// Outcome is what became of an opened connection.
type Outcome struct {
	Rule string // why it was refused; empty when it was served
	Note string // for the audit
}

// The rules about what a connection says inside.
const (
	ruleUnsafe    = "not a protocol that can be told apart"
	ruleNoName    = "TLS without a host name"
	ruleOtherName = "TLS for another host"
	ruleEncrypted = "TLS with an encrypted host name"
	ruleAmbiguous = "the server spoke before the client of HTTP or TLS"
	ruleOpaque    = "nothing but HTTP where connections are opened"
	ruleByAddress = "a secret's host, reached by address"
	ruleTooMuch   = "too much that looks like TLS"
)

// refusal is an error that cuts a connection: the rule that says so.
type refusal string

func (r refusal) Error() string { return string(r) }

// judge applies the rules to what a connection begins with.
func (s *session) judge(kind sniff.Kind, hello *sniff.Hello) error {
	switch kind {
	case sniff.TLS:
		return s.judgeHello(hello)
	case sniff.HTTP1, sniff.HTTP2:
		return nil // each request is judged by whoever opens the connection
	case sniff.Unsafe:
		return refusal(ruleUnsafe)
	}
	if s.look.Open {
		return refusal(ruleOpaque)
	}
	return nil
}

// judgeHello wants the hello to name the host that was asked for. Of opened
// connections the gateway itself is the server, which reads no encrypted
// hello.
func (s *session) judgeHello(hello *sniff.Hello) error {
	switch {
	case s.query.Name == "":
		return s.judgeByAddress(hello)
	case hello.Name == "" && !s.look.Open:
		return refusal(ruleNoName)
	case hello.Name != "" && hello.Name != s.query.Name:
		return s.refuseName(ruleOtherName, hello.Name)
	case hello.Encrypted && !s.look.Open:
		return refusal(ruleEncrypted)
	}
	return nil
}

// judgeByAddress judges a hello to an address that was allowed, whatever it
// serves. A secret's host would be read by nobody there.
func (s *session) judgeByAddress(hello *sniff.Hello) error {
	if hello.Name != "" && s.reserved(hello.Name, s.query.Port) {
		return s.refuseName(ruleByAddress, hello.Name)
	}
	return nil
}

// refuseName also tells the audit which name it was.
func (s *session) refuseName(rule, name string) error {
	s.note = "for " + name
	return refusal(rule)
}

// opens reports whether somebody else serves the connection.
func (s *session) opens(kind sniff.Kind) bool {
	return kind == sniff.HTTP1 || kind == sniff.HTTP2 || kind == sniff.TLS && s.look.Open
}

// watched is the guest's side of a connection that is passed on. Two things
// must not follow later: HTTP, when the first line was passed on before its
// end, and TLS for another host, also in the second hello that a server may
// ask for (RFC 8446, HelloRetryRequest).
type watched struct {
	end
	session *session
	line    []byte // while the kind is undecided
	hellos  sniff.Watcher
}

func (w *watched) next() (*buffer, int, error) {
	buf, n, err := w.end.next()
	if n > 0 {
		if refused := w.look(buf.bytes[:n]); refused != nil {
			return buf, 0, refused
		}
	}
	return buf, n, err
}

func (w *watched) look(b []byte) error {
	if w.line != nil {
		w.line = append(w.line, b...)
		switch kind, _ := sniff.Classify(w.line); kind {
		case sniff.HTTP1, sniff.HTTP2:
			return refusal(ruleAmbiguous)
		case sniff.Unsafe:
			return refusal(ruleUnsafe)
		case sniff.Opaque, sniff.TLS:
			w.line = nil
		}
	}
	hellos, ok := w.hellos.Next(b)
	if !ok {
		return refusal(ruleTooMuch)
	}
	for _, hello := range hellos {
		if err := w.session.judgeLater(hello); err != nil {
			return err
		}
	}
	return nil
}

// judgeLater judges a hello after words in clear, where clients often leave
// the name out.
func (s *session) judgeLater(hello *sniff.Hello) error {
	switch {
	case s.query.Name == "":
		return s.judgeByAddress(hello)
	case hello.Name != "" && hello.Name != s.query.Name:
		return s.refuseName(ruleOtherName, hello.Name)
	case hello.Encrypted:
		return refusal(ruleEncrypted)
	}
	return nil
}

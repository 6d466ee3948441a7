package forward

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/atollhq/atoll/internal/gateway/policy"
	"github.com/atollhq/atoll/internal/gateway/sniff"
)

// session is an accepted connection and its dialed counterpart.
//
// What the server says is passed on at once, unless the connection can only be
// opened. What the guest says is held back until it is clear what it is going
// to be.
type session struct {
	query policy.Query
	look  Inspection
	// reserved reports whether a host may be reached by its name only.
	reserved func(name string, port uint16) bool
	guest    side
	up       side
	open     func(ctx context.Context, guest net.Conn, kind sniff.Kind, hello *sniff.Hello) Outcome
	note     string       // for the audit; set by what reads from the guest
	sent     atomic.Int64 // bytes from the guest
	gotten   atomic.Int64 // bytes from the world

	mu     sync.Mutex // guards the following
	spoken bool       // the server has said something, or ended
	taken  bool       // nothing more is copied from the server
}

// side is an end that can also be read as a connection.
type side interface {
	end
	net.Conn
}

// run copies in both directions until both have ended. The end of one
// direction is passed on and leaves the other one open; an error, or the end
// of ctx, cuts both sides with a reset. The result is a refusal when a rule
// has cut them, and the cause when ctx has.
func (s *session) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, s.cut)
	defer stop()
	var back sync.WaitGroup
	if !s.look.Open {
		back.Go(func() {
			if err := s.fromUp(); err != nil {
				s.cut()
			}
		})
	}
	err := s.fromGuest(ctx, back.Wait)
	if err != nil {
		s.cut()
	}
	back.Wait()
	_ = s.guest.Close()
	_ = s.up.Close()
	if _, refused := err.(refusal); !refused && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func (s *session) cut() {
	s.guest.Abort()
	s.up.Abort()
}

// fromUp copies what the server says.
func (s *session) fromUp() error {
	if !s.look.Look {
		return pump(s.guest, s.up, &s.gotten)
	}
	buf, n, err := s.up.next()
	if !s.speak(err) {
		release(buf)
		return nil
	}
	return pump(s.guest, &resumed{s.up, buf, n, err}, &s.gotten)
}

// speak notes that the server has spoken, unless it was only interrupted. It
// returns whether what it said is passed on.
func (s *session) speak(err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spoken = s.spoken || !s.taken || !isTimeout(err)
	return !s.taken
}

// take makes the server's side free for somebody else to read.
func (s *session) take(settled func()) error {
	s.mu.Lock()
	s.taken = true
	s.mu.Unlock()
	_ = s.up.SetReadDeadline(longAgo)
	settled()
	if s.spoken {
		return refusal(ruleAmbiguous)
	}
	return s.up.SetReadDeadline(time.Time{})
}

var longAgo = time.Unix(1, 0)

// fromGuest copies what the guest says, or has the connection opened. Settled
// waits until nobody reads from the server.
func (s *session) fromGuest(ctx context.Context, settled func()) error {
	if !s.look.Look {
		return pump(s.up, s.guest, &s.sent)
	}
	head, kind, hello, err := s.begin()
	if err != nil && err != io.EOF {
		return err
	}
	if err := s.judge(kind, hello); err != nil {
		return err
	}
	if s.opens(kind) {
		if err := s.take(settled); err != nil {
			return err
		}
		out := s.open(ctx, &opening{Conn: s.guest, head: head, sent: &s.sent, gotten: &s.gotten}, kind, hello)
		if s.note = out.Note; out.Rule != "" {
			return refusal(out.Rule)
		}
		return nil
	}
	return s.passOn(head, kind, err)
}

// passOn sends what was held back and copies what follows.
func (s *session) passOn(head []byte, kind sniff.Kind, ended error) error {
	src := &watched{end: s.guest, session: s}
	if kind == sniff.Undecided {
		src.line = []byte{}
	}
	if err := src.look(head); err != nil {
		return err
	}
	if _, err := s.up.Write(head); err != nil {
		return err
	}
	s.sent.Add(int64(len(head)))
	if ended != nil {
		return s.up.CloseWrite()
	}
	return pump(s.up, src, &s.sent)
}

// begin reads from the guest until it is clear what the connection is. The
// words of a line stay undecided when the guest waits for an answer to them
// or sends no more; then the error is io.EOF.
func (s *session) begin() (head []byte, kind sniff.Kind, hello *sniff.Hello, err error) {
	defer func() { _ = s.guest.SetReadDeadline(time.Time{}) }()
	part := make([]byte, 4<<10)
	var began time.Time
	for {
		n, err := s.guest.Read(part)
		head = append(head, part[:n]...)
		if kind, hello = sniff.Classify(head); kind != sniff.Undecided {
			return head, kind, hello, nil
		}
		if n > 0 && began.IsZero() {
			began = time.Now()
		}
		if err != nil {
			return head, kind, nil, s.unfinished(head, err)
		}
		_ = s.guest.SetReadDeadline(began.Add(patience(head)))
	}
}

// unfinished is what to do about a head that doesn't go on: nil passes it on.
func (s *session) unfinished(head []byte, err error) error {
	waits := isTimeout(err)
	switch {
	case (waits || err == io.EOF) && sniff.BeginsTLS(head):
		return refusal(ruleUnsafe)
	case waits && len(head) > 0:
		return nil
	}
	return err
}

// isTimeout recognises a deadline's end on either side.
func isTimeout(err error) bool {
	e, ok := errors.AsType[net.Error](err)
	return ok && e.Timeout()
}

const (
	headTimeout = 30 * time.Second // for a hello, once its first byte is here
	quiet       = time.Second      // after which an unfinished line is passed on
)

func patience(head []byte) time.Duration {
	if sniff.BeginsTLS(head) {
		return headTimeout
	}
	return quiet
}

// resumed is an end of which one read has been done already.
type resumed struct {
	end
	buf *buffer
	n   int
	err error
}

func (r *resumed) next() (*buffer, int, error) {
	if r.buf == nil && r.err == nil {
		return r.end.next()
	}
	buf, n, err := r.buf, r.n, r.err
	r.buf, r.err = nil, nil
	return buf, n, err
}

// opening is the guest's side of a connection that somebody else serves.
type opening struct {
	net.Conn
	head         []byte // to be read first
	sent, gotten *atomic.Int64
}

func (o *opening) Read(b []byte) (n int, err error) {
	if len(o.head) > 0 {
		n = copy(b, o.head)
		o.head = o.head[n:]
	} else {
		n, err = o.Conn.Read(b)
	}
	o.sent.Add(int64(n))
	return n, err
}

func (o *opening) Write(b []byte) (int, error) {
	n, err := o.Conn.Write(b)
	o.gotten.Add(int64(n))
	return n, err
}

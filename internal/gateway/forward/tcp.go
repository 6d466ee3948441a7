package forward

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/atollhq/atoll/internal/gateway/netstack"
	"github.com/atollhq/atoll/internal/gateway/policy"
	"github.com/atollhq/atoll/internal/gateway/sniff"
)

// The guest decides how many connections it opens and what it leaves unread,
// so their buffers share a budget: the first few may grow as the stack sees
// fit, each later one gets a smaller part.
const (
	bufferBudget  = 32 << 20 // bytes
	freelyGrowing = 8        // connections, each with some 7 MiB at most: the stack's buffers and two large ones
	minBuffer     = 64 << 10 // bytes, one large segment
)

// bufferFor returns the bound for the nth open connection's buffers, or 0 for
// no bound but the stack's own.
func bufferFor(n int64) int {
	if n <= freelyGrowing {
		return 0
	}
	return max(minBuffer, int(bufferBudget/(2*n)))
}

// poolFor returns where the nth open connection takes its buffers from.
func poolFor(n int64) *pool {
	if n <= freelyGrowing {
		return large
	}
	return small
}

// HandleTCP implements netstack.Handler. It returns when the connection ends.
func (f *Forwarder) HandleTCP(syn *netstack.Syn) {
	if !f.begin() {
		syn.Drop()
		return
	}
	defer f.work.Done()
	open := f.conns.Add(1)
	defer f.leave()
	q, err := f.query(policy.TCP, syn.Dest())
	rec := newRecord(q)
	defer func() { rec.end(f.cfg.Audit) }()
	if err != nil || !f.allowed(q, rec) {
		rec.Rule = cmp.Or(rec.Rule, ruleUnknown)
		syn.Refuse()
		return
	}
	if open > int64(f.cfg.MaxTCP) {
		rec.fail(refusal(ruleTooMany))
		syn.Refuse()
		return
	}
	ctx, done := f.enroll(q)
	defer done()
	up, err := f.dial(q, rec)
	if err != nil {
		syn.Refuse()
		return
	}
	guest, err := syn.Accept(bufferFor(open))
	if err != nil {
		_ = up.Close()
		return
	}
	s := f.newSession(q, rec.Addr, guest, up, poolFor(open))
	rec.fail(s.run(ctx))
	rec.Note = cmp.Or(s.note, rec.Note)
	rec.Sent, rec.Received = s.sent.Load(), s.gotten.Load()
}

// calmAfter is more than what the stack keeps an ended connection for.
const calmAfter = 5 * time.Second

// leave counts a connection out. When most of a burst is over, what it needed
// is given back to the host, which otherwise takes minutes: an idle process
// collects its garbage rarely.
func (f *Forwarder) leave() {
	if f.conns.Add(-1) == freelyGrowing {
		f.calm.Reset(calmAfter)
	}
}

func (f *Forwarder) giveBack() {
	if f.conns.Load() > freelyGrowing {
		return
	}
	runtime.GC() // after the second collection nothing is left in pools
	debug.FreeOSMemory()
}

func (f *Forwarder) newSession(q policy.Query, addr netip.Addr, guest *netstack.Conn, up net.Conn, from *pool) *session {
	world := newUpEnd(up, from)
	s := &session{query: q, look: f.cfg.Inspect(q), reserved: f.cfg.Reserved, guest: &guestEnd{guest, from}, up: world}
	s.open = func(ctx context.Context, guest net.Conn, kind sniff.Kind, hello *sniff.Hello) Outcome {
		return f.cfg.Opener.Open(ctx, Opened{
			Query: q, Addr: addr, Guest: guest, Up: &batched{upEnd: world}, Kind: kind, Hello: hello, Redial: f.redial(ctx, q, from),
		})
	}
	return s
}

// redial connects once more for as long as the connection that it is for is
// allowed, which is until its context ends.
func (f *Forwarder) redial(allowed context.Context, q policy.Query, from *pool) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		if allowed.Err() != nil {
			return nil, allowed.Err()
		}
		conn, _, err := f.dialEach(ctx, q)
		if err != nil {
			return nil, err
		}
		return &batched{upEnd: newUpEnd(conn, from)}, nil
	}
}

// end is one side of a relay.
type end interface {
	// next waits for bytes and returns them in a buffer from the pool, which
	// the caller gives back. After the last byte it returns io.EOF.
	next() (buf *buffer, n int, err error)
	Write(b []byte) (int, error)
	CloseWrite() error
	Close() error
	Abort()
}

// pump copies from src to dst until src ends, and counts the bytes.
func pump(dst, src end, count *atomic.Int64) error {
	for {
		buf, n, err := src.next()
		var lost error
		if n > 0 {
			_, lost = dst.Write(buf.bytes[:n])
			count.Add(int64(n))
		}
		release(buf)
		switch {
		case lost != nil:
			return lost
		case errors.Is(err, io.EOF):
			return dst.CloseWrite()
		case err != nil:
			return err
		}
	}
}

// guestEnd is the guest's side of a TCP relay.
type guestEnd struct {
	*netstack.Conn
	from *pool
}

func (g *guestEnd) next() (*buffer, int, error) {
	g.AwaitRead()
	return readInto(g, g.from)
}

// upEnd is the world's side of a TCP relay.
type upEnd struct {
	net.Conn
	wait func() (*buffer, int, error)
	raw  syscall.RawConn // nil for a connection without a descriptor
}

func newUpEnd(c net.Conn, from *pool) *upEnd {
	return &upEnd{Conn: c, wait: reader(c, true, from), raw: rawOf(c)}
}

func (u *upEnd) next() (*buffer, int, error) { return u.wait() }

func (u *upEnd) Write(b []byte) (int, error) {
	if u.raw == nil {
		return u.Conn.Write(b)
	}
	return writeRaw(u.raw, b)
}

// CloseWrite passes the guest's end of stream on, where the connection has a
// way to say it; a connection without stays open until its other end closes.
func (u *upEnd) CloseWrite() error {
	if c, ok := u.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}

// Abort closes with a reset where the connection is TCP.
func (u *upEnd) Abort() {
	if c, ok := u.Conn.(interface{ SetLinger(sec int) error }); ok {
		_ = c.SetLinger(0)
	}
	_ = u.Close()
}

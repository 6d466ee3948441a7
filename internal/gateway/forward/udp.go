package forward

import (
	"cmp"
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/atollhq/atoll/internal/gateway/audit"
	"github.com/atollhq/atoll/internal/gateway/netstack"
	"github.com/atollhq/atoll/internal/gateway/policy"
)

// flow is one UDP conversation.
type flow struct {
	guest        *netstack.Flow
	query        policy.Query
	record       *record      // told to the audit at the end
	sent, gotten atomic.Int64 // bytes
	last         atomic.Int64 // time of the last datagram either way, in Unix nanoseconds

	mu     sync.Mutex // guards the following
	up     net.Conn   // nil until dialed
	closed bool
}

// HandleUDP implements netstack.Handler. When the table is full, the flow
// that has been idle for longest makes room.
func (f *Forwarder) HandleUDP(d *netstack.Datagram) bool {
	q, err := f.query(policy.UDP, d.Dest())
	rec := newRecord(q)
	if err != nil || !f.allowed(q, rec) {
		rec.Rule = cmp.Or(rec.Rule, ruleUnknown)
		rec.end(f.cfg.Audit)
		return false
	}
	if !f.begin() {
		return true
	}
	guest, err := d.Flow()
	if err != nil {
		f.work.Done()
		return true
	}
	fl := &flow{guest: guest, query: q, record: rec}
	fl.touch()
	f.enlist(fl)
	go func() {
		defer f.work.Done()
		defer f.delist(fl)
		defer fl.report(f.cfg.Audit)
		f.carry(fl)
	}()
	return true
}

func (f *Forwarder) enlist(fl *flow) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.flows) >= f.cfg.MaxUDP {
		oldest := f.oldestLocked()
		delete(f.flows, oldest)
		oldest.close()
	}
	f.flows[fl] = struct{}{}
}

func (f *Forwarder) delist(fl *flow) {
	f.mu.Lock()
	delete(f.flows, fl)
	f.mu.Unlock()
}

func (f *Forwarder) oldestLocked() (oldest *flow) {
	for fl := range f.flows {
		if oldest == nil || fl.last.Load() < oldest.last.Load() {
			oldest = fl
		}
	}
	return oldest
}

// carry dials and copies datagrams until the flow is idle, fails, or the
// forwarder closes.
func (f *Forwarder) carry(fl *flow) {
	defer fl.close()
	ctx, done := f.enroll(fl.query)
	defer done()
	stop := context.AfterFunc(ctx, fl.close)
	defer stop()
	up, err := f.dial(fl.query, fl.record)
	if err != nil || !fl.setUp(up) {
		return
	}
	var back sync.WaitGroup
	back.Go(func() {
		defer fl.close()
		fl.fromUp(up)
	})
	fl.fromGuest(up)
	back.Wait()
}

func (fl *flow) touch() { fl.last.Store(time.Now().UnixNano()) }

func (fl *flow) idleFor() time.Duration {
	return time.Duration(time.Now().UnixNano() - fl.last.Load())
}

func (fl *flow) report(log audit.Log) {
	fl.record.Sent, fl.record.Received = fl.sent.Load(), fl.gotten.Load()
	fl.record.end(log)
}

// setUp keeps the dialed connection, unless the flow was closed meanwhile.
func (fl *flow) setUp(up net.Conn) bool {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	if fl.closed {
		_ = up.Close()
		return false
	}
	fl.up = up
	return true
}

// close ends both ends. It is idempotent.
func (fl *flow) close() {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	if fl.closed {
		return
	}
	fl.closed = true
	_ = fl.guest.Close()
	if fl.up != nil {
		_ = fl.up.Close()
	}
}

func (fl *flow) fromGuest(up net.Conn) {
	defer fl.close()
	for {
		fl.guest.AwaitRead()
		buf, n, err := readInto(fl.guest, packets)
		if err == nil {
			fl.touch()
			_, _ = up.Write(buf.bytes[:n]) // lost, like any datagram
			fl.sent.Add(int64(n))
		}
		release(buf)
		if err != nil {
			return
		}
	}
}

func (fl *flow) fromUp(up net.Conn) {
	next := reader(up, false, packets)
	for {
		_ = up.SetReadDeadline(time.Now().Add(flowIdle - fl.idleFor() + time.Second))
		buf, n, err := next()
		if err == nil {
			fl.touch()
			_, _ = fl.guest.Write(buf.bytes[:n])
			fl.gotten.Add(int64(n))
		}
		release(buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if fl.idleFor() >= flowIdle {
				return
			}
		case err != nil:
			return
		}
	}
}

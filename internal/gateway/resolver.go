package gateway

import (
	"context"
	"sync"

	"github.com/atollhq/atoll/internal/gateway/dns"
	"github.com/atollhq/atoll/internal/gateway/netstack"
)

// resolver connects the stack with the DNS server and owns the goroutines
// that queries run in.
type resolver struct {
	server *dns.Server
	ctx    context.Context // ends with stop
	cancel context.CancelFunc
	conns  chan struct{} // one element per TCP connection

	mu      sync.Mutex // guards the following
	stopped bool
	work    sync.WaitGroup // Add only with mu held and stopped false
}

func newResolver(server *dns.Server, maxConns int) *resolver {
	ctx, cancel := context.WithCancel(context.Background())
	return &resolver{server: server, ctx: ctx, cancel: cancel, conns: make(chan struct{}, maxConns)}
}

func (r *resolver) begin() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return false
	}
	r.work.Add(1)
	return true
}

func (r *resolver) stop() {
	r.mu.Lock()
	r.stopped = true
	r.mu.Unlock()
	r.cancel()
}

func (r *resolver) wait() { r.work.Wait() }

// serveUDP answers one query in a goroutine. With too many in flight it is
// lost, and the guest asks again.
func (r *resolver) serveUDP(d *netstack.Datagram) {
	msg, ok := d.Payload()
	if !ok {
		return
	}
	release, ok := r.server.TryAcquire()
	if !ok {
		return
	}
	if !r.begin() {
		release()
		return
	}
	reply := d.Reply()
	go func() {
		defer r.work.Done()
		defer release()
		if answer := r.server.Answer(r.ctx, msg, true); answer != nil {
			_ = reply(answer)
		}
	}()
}

// serveTCP answers the queries on one connection.
func (r *resolver) serveTCP(syn *netstack.Syn) {
	select {
	case r.conns <- struct{}{}:
		defer func() { <-r.conns }()
	default:
		syn.Refuse()
		return
	}
	if !r.begin() {
		syn.Drop()
		return
	}
	defer r.work.Done()
	conn, err := syn.Accept(dnsBuffer)
	if err != nil {
		return
	}
	defer conn.Close()
	defer context.AfterFunc(r.ctx, conn.Abort)()
	_ = r.server.ServeStream(r.ctx, conn) // its end is the guest's business
}

const dnsBuffer = 128 << 10 // bytes each way: the largest answer fits

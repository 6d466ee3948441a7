package netstack

import (
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/waiter"
)

const readable = waiter.ReadableEvents | waiter.EventHUp | waiter.EventErr

// readiness tells when an endpoint has something to read, so that a reader
// takes a buffer only then: a thousand idle connections hold none.
type readiness struct {
	ep       tcpip.Endpoint
	queue    *waiter.Queue
	stopped  chan struct{} // closed by stop
	stopOnce *sync.Once
}

func newReadiness(ep tcpip.Endpoint, queue *waiter.Queue) readiness {
	return readiness{ep: ep, queue: queue, stopped: make(chan struct{}), stopOnce: new(sync.Once)}
}

// await returns when a read would not block, or after stop.
func (r readiness) await() {
	if r.ep.Readiness(readable) != 0 {
		return
	}
	entry, ready := waiter.NewChannelEntry(readable)
	r.queue.EventRegister(&entry)
	defer r.queue.EventUnregister(&entry)
	if r.ep.Readiness(readable) != 0 {
		return
	}
	select {
	case <-ready:
	case <-r.stopped:
	}
}

// stop ends await for good. It is idempotent.
func (r readiness) stop() { r.stopOnce.Do(func() { close(r.stopped) }) }

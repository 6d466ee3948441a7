package intercept

import (
	"net"
	"sync"
	"testing"

	"github.com/atollhq/atoll/internal/gateway/forward"
)

// TestRequestsAtTheEnd has requests begin while their connection ends, as
// HTTP/2's do: each is waited for, or does not begin.
func TestRequestsAtTheEnd(t *testing.T) {
	for range 200 {
		near, far := net.Pipe()
		up, world := net.Pipe()
		c := newConnection(&Interceptor{}, forward.Opened{Guest: near, Up: up})
		var guest sync.WaitGroup
		for range 8 {
			guest.Go(func() {
				for c.begin() {
					c.requests.Done()
				}
			})
		}
		c.close()
		if c.begin() {
			t.Fatal("a request began after the end")
		}
		guest.Wait()
		_, _ = far.Close(), world.Close()
	}
}

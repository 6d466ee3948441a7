package deno

import (
	"context"
	"net/netip"
	"time"
)

// The pace of looking for a server: often at first, as most programs serve
// within a second, then rarely, as most that don't by then never will. A look
// at a sandbox without any listening socket reads two small files.
const (
	firstLook  = 5 * time.Millisecond
	slowestYet = time.Second
)

// nextLook lengthens the pause to a quarter of the time waited so far.
func nextLook(waited time.Duration) time.Duration {
	return min(max(waited/4, firstLook), slowestYet)
}

// awaitEndpoint waits until the process or one of its descendants listens.
// It returns false when exited is closed first.
func awaitEndpoint(ctx context.Context, proc procFS, pid int, exited <-chan struct{}) (netip.AddrPort, bool, error) {
	start := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-exited:
			return netip.AddrPort{}, false, nil
		case <-ctx.Done():
			return netip.AddrPort{}, false, context.Cause(ctx)
		case <-timer.C:
		}
		if isClosed(exited) {
			continue // the number may be somebody else's by now
		}
		if addr, ok := endpoint(proc, pid); ok {
			return addr, true, nil
		}
		timer.Reset(nextLook(time.Since(start)))
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

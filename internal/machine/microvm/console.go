package microvm

import (
	"io"
	"time"

	"github.com/atollhq/atoll/internal/machine/process"
)

const (
	tailBytes = 4 << 10               // kept of what QEMU and the guest's kernel print
	drainRest = 20 * time.Millisecond // between reads, so that a guest that floods its console keeps nobody busy
)

// drain reads a console to its end, which is QEMU's, and closes it and
// drained.
func drain(r io.ReadCloser, to *process.Tail, drained chan<- struct{}) {
	defer close(drained)
	defer func() { _ = r.Close() }()
	buf := make([]byte, tailBytes)
	for {
		n, err := r.Read(buf)
		_, _ = to.Write(buf[:n])
		if err != nil {
			return
		}
		if n == len(buf) {
			time.Sleep(drainRest)
		}
	}
}

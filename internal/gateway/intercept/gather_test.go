package intercept

import (
	"bytes"
	"crypto/rand"
	"io"
	"net"
	"testing"
	"time"
)

// What was written before the end arrives, whoever sets deadlines.
func TestGatheringWritesWhatWaits(t *testing.T) {
	sent := make([]byte, 3*gatherSize+1)
	_, _ = rand.Read(sent)
	for _, size := range []int{1, 1000, 16 << 10, len(sent)} {
		a, b := net.Pipe()
		g := gather(a)
		go func() {
			for rest := sent; len(rest) > 0; {
				n := min(size, len(rest))
				if _, err := g.Write(rest[:n]); err != nil {
					t.Errorf("write: %v", err)
					break
				}
				rest = rest[n:]
				if size == 1 && len(sent)-len(rest) > 5000 {
					break
				}
			}
			_ = g.SetDeadline(time.Unix(1, 0))
			_ = g.SetWriteDeadline(time.Unix(1, 0))
			_ = g.Close()
		}()
		got, err := io.ReadAll(b)
		if err != nil || !bytes.HasPrefix(sent, got) || len(got) < min(len(sent), 5000) || size > 1 && len(got) != len(sent) {
			t.Errorf("pieces of %d: %d of %d bytes, %v", size, len(got), len(sent), err)
		}
		<-g.done
	}
}

// A reader that is gone ends writes, and a closed connection takes none.
func TestGatheringErrors(t *testing.T) {
	a, b := net.Pipe()
	g := gather(a)
	_ = b.Close()
	for {
		if _, err := g.Write(make([]byte, 1000)); err != nil {
			break
		}
	}
	<-g.done
	a, b = net.Pipe()
	g = gather(a)
	written := make(chan error)
	go func() {
		_, err := g.Write(make([]byte, 10*gatherSize)) // nobody reads
		written <- err
	}()
	_, _ = io.ReadFull(b, make([]byte, 10))
	_ = g.Close()
	if err := <-written; err == nil {
		t.Error("a write that nobody reads succeeded")
	}
	_ = b.Close()
	<-g.done
	if _, err := g.Write([]byte("x")); err == nil {
		t.Error("wrote after the end")
	}
}

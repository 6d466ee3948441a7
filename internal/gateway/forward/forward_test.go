package forward

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/atollhq/atoll/internal/gateway/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pipeEnd is an end made of net.Pipe, which has no half-close.
type pipeEnd struct {
	*upEnd
	aborted chan struct{}
}

func newPipeEnd() (end *pipeEnd, far net.Conn) {
	near, far := net.Pipe()
	return &pipeEnd{newUpEnd(near, small), make(chan struct{}, 4)}, far
}

func (p *pipeEnd) Abort() {
	p.aborted <- struct{}{}
	p.upEnd.Abort()
}

func TestRelayEndsWithItsContext(t *testing.T) {
	guest, g := newPipeEnd()
	up, u := newPipeEnd()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		_ = (&session{guest: guest, up: up}).run(ctx)
		close(done)
	}()
	go func() { _, _ = g.Write([]byte("hello")) }()
	if _, err := io.ReadFull(u, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	cancel()
	<-done
	if len(guest.aborted) == 0 || len(up.aborted) == 0 {
		t.Error("ended without a reset")
	}
	_, _ = g.Close(), u.Close()
}

// A server can ask a client for its hello once more. That one must not name
// another host either.
func TestSecondHelloForAnotherHost(t *testing.T) {
	guest, g := newPipeEnd()
	up, u := newPipeEnd()
	first, second := helloFor(t, "a.test"), helloFor(t, "b.test")
	s := &session{query: policy.Query{Proto: policy.TCP, Name: "a.test", Port: 443}, look: Inspection{Look: true}, guest: guest, up: up}
	done := make(chan error, 1)
	go func() { done <- s.run(t.Context()) }()
	go func() {
		_, _ = g.Write(first)
		_, _ = g.Write(second)
	}()
	arrived, _ := io.ReadAll(u) // ends with the pipe
	if err := <-done; err != refusal(ruleOtherName) {
		t.Errorf("cut because of %v", err)
	}
	if !bytes.Equal(arrived, first) {
		t.Errorf("%d bytes arrived, want the first hello's %d", len(arrived), len(first))
	}
	_, _ = g.Close(), u.Close()
}

// helloFor is what a TLS client sends first.
func helloFor(t *testing.T, name string) []byte {
	t.Helper()
	client, server := net.Pipe()
	done := make(chan struct{})
	go func() {
		_ = tls.Client(client, &tls.Config{ServerName: name}).Handshake()
		close(done)
	}()
	buf := make([]byte, 4<<10)
	n, err := server.Read(buf)
	_, _ = client.Close(), server.Close()
	<-done
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n]
}

func TestRelayErrorCutsBothSides(t *testing.T) {
	guest, g := newPipeEnd()
	up, u := newPipeEnd()
	_ = up.SetWriteDeadline(time.Unix(1, 0)) // every write fails
	done := make(chan struct{})
	go func() {
		_ = (&session{guest: guest, up: up}).run(t.Context())
		close(done)
	}()
	_, _ = g.Write([]byte("x"))
	<-done
	if _, err := g.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("guest: %v", err)
	}
	if _, err := u.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("up: %v", err)
	}
}

func TestBufferFor(t *testing.T) {
	if got := bufferFor(1); got != 0 {
		t.Errorf("first connection: %d", got)
	}
	last, sum := 1<<30, 0
	for n := int64(freelyGrowing + 1); n <= 4096; n++ {
		b := bufferFor(n)
		if b > last || b < minBuffer {
			t.Fatalf("connection %d: %d after %d", n, b, last)
		}
		last, sum = b, sum+2*b
	}
	if sum > 1<<30 {
		t.Errorf("4096 connections may hold %d bytes", sum)
	}
}

func TestReaderDistinguishesEmptyDatagramFromEnd(t *testing.T) {
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	d, err := net.Dial("udp", c.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := c.WriteTo(nil, d.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	buf, n, err := reader(d, false, packets)()
	release(buf)
	if n != 0 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
	_ = d.SetReadDeadline(time.Now().Add(time.Millisecond))
	if _, _, err := reader(d, false, packets)(); err == nil {
		t.Error("no error after the deadline")
	}
}

func TestReaderReportsSocketErrors(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	newUpEnd(b, small).Abort()
	buf, _, err := reader(a, true, small)()
	release(buf)
	if !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("got %v", err)
	}
}

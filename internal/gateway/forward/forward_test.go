package forward

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"testing/synctest"
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

func TestMemoryIsGivenBackAfterABurst(t *testing.T) {
	collections := func() uint32 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.NumForcedGC
	}
	synctest.Test(t, func(t *testing.T) {
		f := New(Config{})
		defer f.Close()
		f.conns.Store(freelyGrowing)
		f.leave()
		before := collections()
		<-time.After(2 * calmAfter)
		if collections() != before {
			t.Error("collected after a few connections")
		}
		f.conns.Store(freelyGrowing + 1)
		f.leave()
		<-time.After(2 * calmAfter)
		if collections() == before {
			t.Error("nothing was collected after a burst")
		}
	})
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

// tcpPair is a connection between sockets.
func tcpPair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a, b
}

func TestReaderReportsSocketErrors(t *testing.T) {
	a, b := tcpPair(t)
	newUpEnd(b, small).Abort()
	buf, _, err := reader(a, true, small)()
	release(buf)
	if !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("got %v", err)
	}
}

func TestWriteMoreThanASocketHolds(t *testing.T) {
	a, b := tcpPair(t)
	_ = a.(*net.TCPConn).SetWriteBuffer(64 << 10)
	sent := make([]byte, 8<<20)
	for i := range sent {
		sent[i] = byte(i >> 10)
	}
	gotten := make(chan []byte)
	go func() {
		got, _ := io.ReadAll(b)
		gotten <- got
	}()
	up := newUpEnd(a, small)
	if n, err := up.Write(sent); n != len(sent) || err != nil {
		t.Errorf("wrote %d of %d bytes, %v", n, len(sent), err)
	}
	_ = up.CloseWrite()
	if !bytes.Equal(<-gotten, sent) {
		t.Error("other bytes arrived")
	}
}

func TestWriteEnds(t *testing.T) {
	a, b := tcpPair(t)
	up := newUpEnd(a, small)
	_ = a.SetWriteDeadline(longAgo)
	if _, err := up.Write([]byte{1}); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after the deadline: %v", err)
	}
	_ = a.SetWriteDeadline(time.Time{})
	newUpEnd(b, small).Abort()
	_, _ = a.Read(make([]byte, 1)) // waits for the reset
	if _, err := up.Write([]byte{1}); !errors.Is(err, unix.EPIPE) {
		t.Errorf("after a reset: %v", err)
	}
}

// TestNoRedialOnceRefused: a request that is under way when the list changes
// makes no new connection, however late it hears of the change.
func TestNoRedialOnceRefused(t *testing.T) {
	allowed := true
	far, near := net.Pipe()
	defer far.Close()
	f := New(Config{
		Decide: func(policy.Query) policy.Decision { return policy.Decision{Allow: allowed} },
		Dial:   func(context.Context, string, netip.AddrPort) (net.Conn, error) { return near, nil },
	})
	defer f.Close()
	q := policy.Query{Proto: policy.TCP, Addr: netip.MustParseAddr("192.0.2.1"), Port: 443}
	ctx, done := f.enroll(q)
	defer done()
	redial := f.redial(ctx, q, small)
	if c, err := redial(t.Context()); err != nil || c == nil {
		t.Fatalf("%v, %v", c, err)
	}
	allowed = false
	f.Reconsider()
	if _, err := redial(t.Context()); err == nil {
		t.Error("connected once more")
	}
}

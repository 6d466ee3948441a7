package rpc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/atollhq/atoll/internal/link"
)

// FuzzConn sends lines as messages: whatever they are, the connection ends in
// good order and what it says is in frames.
func FuzzConn(f *testing.F) {
	f.Add([]byte(`{"method":"$sandbox.stream.start","params":{"streamId":1}}
{"id":1,"method":"hash","params":{"streamId":1}}
{"method":"$sandbox.stream.enqueue","params":{"streamId":1,"data":"QUJD"}}
{"method":"$sandbox.stream.end","params":{"streamId":1}}
{"id":2,"method":"abort","params":{"abortId":1}}`))
	f.Add([]byte(`{"method":"$sandbox.stream.error","params":{"streamId":1,"error":"x"}}
{"method":"$sandbox.stream.cancel","params":{"streamId":1,"reason":null}}
{"id":null,"method":"hang","params":{"abortId":1}}
[]
{`))
	reg := echoRegistry()
	limits := Limits{MaxMessage: 4096, StreamMemory: 64, ConnMemory: 128, StreamSpill: 256, Streams: 3, Calls: 4, ClaimWait: time.Millisecond, SpillDir: f.TempDir()}
	f.Fuzz(func(t *testing.T, script []byte) {
		near, far := net.Pipe()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = Serve(ctx, far, link.RPCHeader{MaxMessage: 300}, reg, slog.New(slog.DiscardHandler), limits)
		}()
		read := make(chan struct{})
		go func() {
			defer close(read)
			frames := link.NewFrameReader(near)
			for {
				b, err := frames.ReadMessage(1 << 20)
				if err != nil {
					return
				}
				// An error's answer may be longer than the limit by its own overhead only.
				if len(b) > 1000 {
					t.Errorf("message of %d bytes", len(b))
				}
			}
		}()
		for line := range bytes.Lines(script) {
			if bytes.Contains(line, []byte("bytes")) { // allocates as much as it is told
				continue
			}
			_ = near.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)) // its reader may rightly wait
			if link.WriteMessage(near, bytes.TrimRight(line, "\n")) != nil {
				break
			}
		}
		cancel()
		<-done
		_ = near.Close()
		<-read
	})
}

// BenchmarkOutStream measures what a process's output takes from Write to
// the other side of a link.
func BenchmarkOutStream(b *testing.B) {
	near, far := socketPair(b)
	var agent *link.Session
	opened := make(chan error, 1)
	go func() {
		var err error
		agent, err = link.Serve(far)
		opened <- err
	}()
	shim, err := link.Open(b.Context(), near, 1)
	if err = errors.Join(err, <-opened); err != nil {
		b.Fatal(err)
	}
	defer func() { _ = shim.Close(); _ = agent.Close() }()
	data := make([]byte, 64<<10)
	reg := NewRegistry()
	Register(reg, "open", func(_ context.Context, c *Conn, _ struct{}) (Null, error) {
		s := c.OpenStream()
		for {
			if _, err := s.Write(data); err != nil {
				return Null{}, err
			}
		}
	})
	served := make(chan struct{})
	go func() {
		defer close(served)
		conn, err := agent.Accept()
		if err != nil {
			return
		}
		stream, err := link.ReadPreamble(conn)
		if err != nil {
			return
		}
		_ = Serve(b.Context(), stream, link.RPCHeader{}, reg, slog.New(slog.DiscardHandler), Limits{})
	}()
	conn, err := shim.Dial(b.Context(), link.KindRPC, link.RPCHeader{})
	if err != nil {
		b.Fatal(err)
	}
	if err := link.WriteMessage(conn, []byte(`{"id":1,"method":"open"}`)); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(data)))
	message := len(appendEnqueue(nil, 1<<40, data)) + frameHeader
	for b.Loop() {
		if _, err := io.CopyN(io.Discard, conn, int64(message)); err != nil {
			b.Fatal(err)
		}
	}
	_ = conn.Close()
	_ = agent.Close()
	<-served
}

func socketPair(tb testing.TB) (near, far net.Conn) {
	tb.Helper()
	listener, err := net.Listen("unix", tb.TempDir()+"/link")
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	near, err = net.Dial("unix", listener.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	far, err = listener.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	return near, far
}

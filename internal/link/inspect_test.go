package link

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"runtime"
	"testing"
	"testing/iotest"
	"time"
)

func frame(kind byte, flags uint16, stream uint32, data string) []byte {
	out := []byte{0, kind}
	out = binary.BigEndian.AppendUint16(out, flags)
	out = binary.BigEndian.AppendUint32(out, stream)
	out = binary.BigEndian.AppendUint32(out, uint32(len(data)))
	return append(out, data...)
}

// TestFloodOfPings is an agent that sends pings and reads nothing.
func TestFloodOfPings(t *testing.T) {
	a, b := net.Pipe()
	before := runtime.NumGoroutine()
	go func() { _ = awaitHello(b) }()
	host, err := Open(t.Context(), a, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	defer b.Close()
	_ = b.SetWriteDeadline(time.Now().Add(time.Minute))
	ping := frame(muxTypePing, muxFlagSYN, 0, "")
	for range 10_000 {
		if _, err := b.Write(ping); err != nil {
			break
		}
	}
	if n := runtime.NumGoroutine() - before; n > 20 {
		t.Errorf("%d goroutines wait to answer", n)
	}
	select {
	case <-host.Done():
	case <-time.After(time.Minute):
		t.Error("the link goes on")
	}
}

func TestInspect(t *testing.T) {
	const window, goAway = 1, 3
	for name, c := range map[string]struct {
		in   [][]byte
		want error
	}{
		"data":              {[][]byte{frame(0, 0, 1, "hello"), frame(window, 2, 1, ""), frame(0, 4, 1, "")}, nil},
		"data like a ping":  {[][]byte{frame(0, 0, 1, string(frame(muxTypePing, 1, 0, "")))}, nil},
		"end of session":    {[][]byte{frame(goAway, 0, 0, "")}, nil},
		"ping":              {[][]byte{frame(0, 0, 1, "x"), frame(muxTypePing, muxFlagSYN, 0, "")}, ErrForbiddenFrame},
		"answer to no ping": {[][]byte{frame(muxTypePing, 2, 0, "")}, ErrForbiddenFrame},
		"stream by data":    {[][]byte{frame(0, muxFlagSYN, 2, "x")}, ErrForbiddenFrame},
		"stream by window":  {[][]byte{frame(window, muxFlagSYN|2, 2, "")}, ErrForbiddenFrame},
	} {
		whole := bytes.Join(c.in, nil)
		for _, r := range []io.Reader{bytes.NewReader(whole), iotest.OneByteReader(bytes.NewReader(whole))} {
			got, err := io.ReadAll(&inspected{ReadWriteCloser: readOnly{r}})
			if !errors.Is(err, c.want) {
				t.Errorf("%s: %v; want %v", name, err, c.want)
			}
			if c.want == nil && !bytes.Equal(got, whole) {
				t.Errorf("%s: the bytes were changed", name)
			}
		}
	}
}

type readOnly struct{ io.Reader }

func (readOnly) Write(p []byte) (int, error) { return len(p), nil }
func (readOnly) Close() error                { return nil }

// TestStreamsAreBounded: what each stream buffers for a client that doesn't
// read is the shim's, not the machine's.
func TestStreamsAreBounded(t *testing.T) {
	host, _ := pair(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var first net.Conn
	for i := range maxStreams {
		conn, err := host.Dial(ctx, KindDial, DialHeader{Port: 1})
		if err != nil {
			t.Fatalf("stream %d: %v", i, err)
		}
		if first == nil {
			first = conn
		}
	}
	if _, err := host.Dial(ctx, KindDial, DialHeader{Port: 1}); !errors.Is(err, ErrTooManyStreams) {
		t.Fatalf("one more: %v", err)
	}
}

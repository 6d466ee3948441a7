package rpc

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/atollhq/atoll/api"
)

func TestInStream(t *testing.T) {
	small := Limits{StreamMemory: 1 << 10, ConnMemory: 4 << 10, StreamSpill: 10_000}
	for _, tt := range []struct {
		name   string
		limits Limits
		late   bool // the call comes after the data
	}{
		{"call first", Limits{}, false},
		{"call last", Limits{}, true},
		{"spilled", Limits{StreamMemory: 1 << 10}, true},
		{"spill wraps", small, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := dial(t, echoRegistry(), 0, tt.limits)
			if !tt.late {
				c.call(1, "hash", `{"streamId":3}`)
			}
			c.note("start", 3)
			h := sha256.New()
			rnd := rand.New(rand.NewPCG(1, 2))
			total := 0
			for range 200 {
				data := make([]byte, rnd.IntN(3000))
				for i := range data {
					data[i] = byte(rnd.Uint32())
				}
				h.Write(data)
				total += len(data)
				c.enqueue(3, data)
			}
			c.note("end", 3)
			if tt.late {
				c.call(1, "hash", `{"streamId":3}`)
			}
			want := fmt.Sprintf(`1 {"ok":"%d %x"}`, total, h.Sum(nil))
			if got := describe(t, c.next()); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
}

func TestInStreamErrors(t *testing.T) {
	c := dial(t, echoRegistry(), 0, Limits{})
	c.note("start", 1)
	c.send(`{"method":"$sandbox.stream.error","params":{"streamId":1,"error":"plain text"}}`)
	c.call(1, "hash", `{"streamId":1}`)
	if got := describe(t, c.next()); got != "1 Error  plain text" {
		t.Errorf("got %s", got)
	}
	c.note("start", 2)
	c.send(`{"method":"$sandbox.stream.error","params":{"streamId":2,"error":{"constructorName":"TypeError","message":"m","code":"E"}}}`)
	c.call(2, "hash", `{"streamId":2}`)
	if got := describe(t, c.next()); got != "2 TypeError E m" {
		t.Errorf("got %s", got)
	}
	c.note("start", 4)
	c.send(`{"method":"$sandbox.stream.enqueue","params":{"streamId":4,"data":"!"}}`)
	c.call(3, "hash", `{"streamId":4}`)
	if got := describe(t, c.next()); got != "3 TypeError  stream data must be a base64 string" {
		t.Errorf("got %s", got)
	}
}

func TestUnknownStreamsAreIgnored(t *testing.T) {
	c := dial(t, echoRegistry(), 0, Limits{})
	c.enqueue(77, []byte("x"))
	c.note("end", 77)
	c.note("cancel", 78)
	c.send(`{"method":"$sandbox.stream.start","params":{"streamId":"x"}}`)
	c.send(`{"method":"nothing"}`)
	c.call(1, "null", "{}")
	if got := describe(t, c.next()); got != `1 {"ok":null}` {
		t.Errorf("got %s", got)
	}
}

func TestTooMuchBeforeTheCall(t *testing.T) {
	c := dial(t, echoRegistry(), 0, Limits{StreamMemory: 1000, StreamSpill: 5000, ClaimWait: time.Millisecond})
	c.note("start", 1)
	for range 20 {
		c.enqueue(1, make([]byte, 1000))
	}
	c.note("end", 1)
	c.call(1, "hash", `{"streamId":1}`)
	if got := describe(t, c.next()); !strings.HasPrefix(got, "1 RangeError ENOBUFS more than 5000 bytes") {
		t.Errorf("got %s", got)
	}
}

func TestTooManyStreams(t *testing.T) {
	c := dial(t, echoRegistry(), 0, Limits{Streams: 2})
	for id := range int64(3) {
		c.note("start", id)
	}
	m := c.next()
	if m.Method != api.NotifyStreamCancel || m.Params.StreamID != 2 || *m.Params.Reason.Code != "EMFILE" {
		t.Errorf("got %+v", m)
	}
}

// A consumer that stops reading must not keep other calls on the connection
// from running, and the client learns that it can stop.
func TestClosedInStream(t *testing.T) {
	reg := echoRegistry()
	Register(reg, "refuse", func(_ context.Context, c *Conn, p api.StreamResult) (Null, error) {
		s := c.InStream(p.StreamID)
		var b [1]byte
		_, err := s.Read(b[:])
		s.Cancel(NewError("BrokenPipe", "EPIPE", "enough"))
		return Null{}, err
	})
	Register(reg, "close", func(_ context.Context, c *Conn, p api.StreamResult) (Null, error) {
		return Null{}, c.InStream(p.StreamID).Close()
	})
	c := dial(t, reg, 0, Limits{})
	c.note("start", 1)
	c.enqueue(1, []byte("ab"))
	c.call(1, "refuse", `{"streamId":1}`)
	if m := c.next(); m.Method != api.NotifyStreamCancel || m.Params.Reason.Message != "enough" {
		t.Errorf("got %+v", m)
	}
	c.next()
	c.note("start", 2)
	c.call(2, "close", `{"streamId":2}`)
	c.next()
	c.enqueue(2, []byte("late"))
	c.enqueue(2, []byte("later"))
	if m := c.next(); m.Method != api.NotifyStreamCancel || m.Params.StreamID != 2 {
		t.Errorf("got %+v", m)
	}
}

// What had arrived before the connection ended is still read.
func TestInStreamOutlivesConnection(t *testing.T) {
	reg := NewRegistry()
	streams := make(chan *InStream, 2)
	Register(reg, "take", func(_ context.Context, c *Conn, p api.StreamResult) (Null, error) {
		streams <- c.InStream(p.StreamID)
		return Null{}, nil
	})
	c := dial(t, reg, 0, Limits{})
	for id := range int64(2) {
		c.note("start", id)
		c.enqueue(int(id), []byte("data"))
		c.call(1, "take", fmt.Sprintf(`{"streamId":%d}`, id))
		c.next()
		if id == 1 {
			c.note("end", id)
		}
	}
	_ = c.conn.Close()
	for _, want := range []error{ErrConnClosed, nil} {
		got, err := io.ReadAll(<-streams)
		if string(got) != "data" || !errors.Is(err, want) {
			t.Errorf("got %q, %v, want %v", got, err, want)
		}
	}
}

func outRegistry(use func(*OutStream)) *Registry {
	reg := NewRegistry()
	Register(reg, "open", func(_ context.Context, c *Conn, _ struct{}) (api.StreamResult, error) {
		s := c.OpenStream()
		go use(s)
		return api.StreamResult{StreamID: s.ID()}, nil
	})
	return reg
}

func TestOutStream(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 100_000)
	for _, limit := range []int{0, 1 << 20, 1000} {
		c := dial(t, outRegistry(func(s *OutStream) {
			_, _ = s.Write(nil)
			_, _ = s.Write(data)
			_ = s.Close()
			_ = s.Close()
		}), limit, Limits{})
		c.call(1, "open", "{}")
		var got []byte
		var id int64
		for ended := false; !ended; {
			m := c.next()
			if limit > 0 && m.size > limit {
				t.Errorf("message of %d bytes over the limit of %d", m.size, limit)
			}
			switch m.Method {
			case api.NotifyStreamStart:
				id = m.Params.StreamID
			case api.NotifyStreamEnqueue:
				got = append(got, m.Params.Data...)
			case api.NotifyStreamEnd:
				ended = true
			}
			if m.Method != "" && m.Params.StreamID != id {
				t.Errorf("stream id %d, want %d", m.Params.StreamID, id)
			}
		}
		if id >= 1<<53 || !bytes.Equal(got, data) {
			t.Errorf("limit %d: id %d, %d bytes", limit, id, len(got))
		}
	}
}

func TestOutStreamCancelAndFail(t *testing.T) {
	errs := make(chan error, 1)
	c := dial(t, outRegistry(func(s *OutStream) {
		for {
			if _, err := s.Write([]byte("y\n")); err != nil {
				<-s.Cancelled()
				errs <- err
				return
			}
		}
	}), 0, Limits{})
	c.call(1, "open", "{}")
	c.note("cancel", c.next().Params.StreamID)
	if err := <-errs; !errors.Is(err, ErrStreamCancelled) {
		t.Errorf("got %v", err)
	}

	c = dial(t, outRegistry(func(s *OutStream) { s.Fail(os.ErrNotExist) }), 0, Limits{})
	c.call(1, "open", "{}")
	for {
		m := c.next()
		if m.Method == api.NotifyStreamError {
			if m.Params.Error.ConstructorName != "NotFound" {
				t.Errorf("got %+v", m.Params.Error)
			}
			return
		}
	}
}

func TestGate(t *testing.T) {
	gate := make(chan struct{})
	reg := NewRegistry()
	Register(reg, "open", func(_ context.Context, c *Conn, _ struct{}) (Null, error) {
		s := c.OpenStream()
		s.Gate(gate)
		go func() {
			_, _ = s.Write([]byte("x"))
			_ = s.Close()
		}()
		return Null{}, nil
	})
	Register(reg, "pass", func(context.Context, *Conn, struct{}) (Null, error) {
		close(gate)
		return Null{}, nil
	})
	c := dial(t, reg, 0, Limits{})
	c.call(1, "open", "{}")
	if m := c.next(); m.Method != api.NotifyStreamStart {
		t.Errorf("got %+v", m)
	}
	if m := c.next(); string(m.ID) != "1" {
		t.Errorf("got %+v", m)
	}
	c.call(2, "pass", "{}")
	seen := map[string]bool{}
	for range 3 {
		seen[c.next().Method] = true
	}
	if !seen[api.NotifyStreamEnqueue] || !seen[api.NotifyStreamEnd] {
		t.Errorf("got %v", seen)
	}
}

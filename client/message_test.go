package client

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/atollhq/atoll/api"
)

func TestAppendRequest(t *testing.T) {
	id := int64(7)
	got, err := appendRequest(nil, &id, "fileWrite", bulkParams{
		rest: api.FileHandle{FileHandleID: 3}, field: "data", data: []byte("abc"),
	})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"jsonrpc":"2.0","id":7,"method":"fileWrite","params":{"fileHandleId":3,"data":"YWJj"}}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// FuzzEnqueue checks the short cut for stream messages against the general
// decoder: what it recognises must mean the same there.
func FuzzEnqueue(f *testing.F) {
	f.Add([]byte(`{"jsonrpc":"2.0","method":"$sandbox.stream.enqueue","params":{"streamId":1,"data":"YWJj"}}`))
	f.Add([]byte(`{"jsonrpc":"2.0","method":"$sandbox.stream.enqueue","params":{"streamId":12,"data":""}}`))
	f.Add([]byte(`{"jsonrpc":"2.0","method":"$sandbox.stream.enqueue","params":{"streamId":1,"data":"Y\nJj"}}`))
	f.Add([]byte(`{"jsonrpc":"2.0","method":"$sandbox.stream.enqueue","params":{"streamId":1,"data":"YQ","x":"\"}}`))
	f.Fuzz(func(t *testing.T, msg []byte) {
		stream, encoded, ok := cutEnqueue(msg)
		if !ok {
			return
		}
		data, ok := decodeStrict(encoded)
		if !ok {
			return
		}
		var e envelope
		var p api.StreamParams
		if err := json.Unmarshal(msg, &e); err != nil {
			// Numbers with leading zeros are the one thing let through.
			if strings.Contains(string(msg), `"streamId":0`) {
				return
			}
			t.Fatalf("accepted %q: %v", msg, err)
		}
		if err := json.Unmarshal(e.Params, &p); err != nil {
			t.Fatalf("accepted %q: %v", msg, err)
		}
		if p.StreamID != stream || !bytes.Equal(p.Data, data) {
			t.Fatalf("read %d %q, the decoder reads %d %q", stream, data, p.StreamID, p.Data)
		}
	})
}

// FuzzReply does the same for results.
func FuzzReply(f *testing.F) {
	f.Add([]byte(`{"jsonrpc":"2.0","id":1,"result":{"ok":"YWJj"}}`))
	f.Add([]byte(`{"jsonrpc":"2.0","id":1,"result":{"ok":null}}`))
	f.Add([]byte(`{"jsonrpc":"2.0","id":1,"result":{"ok":1},"error":{"code":1,"message":"x"}}`))
	f.Add([]byte(`{"jsonrpc":"2.0","id":1,"result":{"error":{"constructorName":"E","message":"m"}}}`))
	f.Fuzz(func(t *testing.T, msg []byte) {
		id, result, ok := cutReply(msg)
		if !ok || !json.Valid(result) || !json.Valid(msg) {
			return // the caller's decoder refuses it
		}
		var e envelope
		if err := json.Unmarshal(msg, &e); err != nil || e.ID == nil || *e.ID != id {
			t.Fatalf("read id %d from %q; the decoder: %v", id, msg, err)
		}
		if !bytes.Equal(bytes.TrimSpace(e.Result), bytes.TrimSpace(result)) {
			t.Fatalf("read %q, the decoder reads %q", result, e.Result)
		}
		if data, ok := cutBytes(result, `{"ok":"`, `"}`); ok {
			plain, err := okOf("", result)
			var want api.Bytes
			if err != nil || json.Unmarshal(plain, &want) != nil || !bytes.Equal(want, data) {
				t.Fatalf("decoded %q from %q", data, result)
			}
		}
	})
}

// FuzzDispatch feeds anything to the message handler: it must not panic.
func FuzzDispatch(f *testing.F) {
	f.Add([]byte(`pong`))
	f.Add([]byte(`{"jsonrpc":"2.0","method":"$sandbox.stream.start","params":{"streamId":1}}`))
	f.Add([]byte(`{"jsonrpc":"2.0","method":"$sandbox.stream.error","params":{"streamId":1,"error":null}}`))
	f.Add([]byte(`{"jsonrpc":"2.0","id":0,"error":{"code":-32601,"message":"no"}}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, msg []byte) {
		c := &conn{
			done:     make(chan struct{}),
			pending:  map[int64]chan reply{0: make(chan reply, 1)},
			dropped:  map[int64]func(json.RawMessage){},
			inbound:  map[int64]*inStream{},
			outbound: map[int64]*outStream{},
			watchers: map[string]chan struct{}{},
		}
		_, _ = c.dispatch(msg)
	})
}

// TestInStreamOrder pushes and reads pieces across the limit.
func TestInStreamOrder(t *testing.T) {
	c := &conn{done: make(chan struct{}), inbound: map[int64]*inStream{}}
	id := int64(1)
	s, err := c.claim(&id)
	if err != nil {
		t.Fatal(err)
	}
	const pieces = 40
	go func() {
		for i := range pieces {
			if s.push(bytes.Repeat([]byte{byte(i)}, 256<<10)) != nil {
				return
			}
		}
		c.endStream(id, nil)
	}()
	var got []byte
	r := newReader(s)
	for {
		p := make([]byte, 256<<10)
		if _, err := io.ReadFull(r, p); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		got = append(got, p[0])
		s.mu.Lock()
		if s.size > streamBuffer+256<<10+pieceCost {
			t.Errorf("%d bytes are buffered", s.size)
		}
		s.mu.Unlock()
	}
	want := make([]byte, pieces)
	for i := range want {
		want[i] = byte(i)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestTooManyStreams bounds what a server may start unasked.
func TestTooManyStreams(t *testing.T) {
	c := &conn{done: make(chan struct{}), inbound: map[int64]*inStream{}}
	for i := range int64(maxUnclaimed) {
		if _, err := c.inStream(i); err != nil {
			t.Fatalf("stream %d: %v", i, err)
		}
	}
	if _, err := c.inStream(maxUnclaimed); err == nil {
		t.Error("no bound")
	}
}

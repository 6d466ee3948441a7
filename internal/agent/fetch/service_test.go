package fetch

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/agent/rpc"
	"github.com/atollhq/atoll/internal/link"
)

// peer is a client of the service, over a pipe.
type peer struct {
	t    *testing.T
	conn net.Conn
	got  chan message
}

type message struct {
	ID     json.RawMessage  `json:"id"`
	Method string           `json:"method"`
	Params api.StreamParams `json:"params"`
	Result struct {
		OK    *api.FetchResult `json:"ok"`
		Error *api.RemoteError `json:"error"`
	} `json:"result"`
	Error *api.RPCError `json:"error"`
}

func newPeer(t *testing.T, dial DialProcess) *peer {
	t.Helper()
	reg := rpc.NewRegistry()
	service := Register(reg, dial)
	ours, theirs := net.Pipe()
	p := &peer{t: t, conn: ours, got: make(chan message, 4096)}
	var running sync.WaitGroup
	running.Go(func() {
		rpc.Serve(context.WithoutCancel(t.Context()), theirs, link.RPCHeader{}, reg, slog.New(slog.DiscardHandler), rpc.Limits{})
	})
	running.Go(func() {
		defer close(p.got)
		frames := link.NewFrameReader(ours)
		for {
			text, err := frames.ReadMessage(1 << 30)
			if err != nil {
				return
			}
			var m message
			if err := json.Unmarshal(text, &m); err != nil {
				t.Errorf("the server sent %.200q: %v", text, err)
			}
			p.got <- m
		}
	})
	t.Cleanup(func() {
		ours.Close()
		running.Wait()
		service.Close()
	})
	return p
}

func (p *peer) send(method string, id *int, params any) {
	p.t.Helper()
	m := map[string]any{"jsonrpc": "2.0", "method": method, "params": params}
	if id != nil {
		m["id"] = *id
	}
	text, err := json.Marshal(m)
	if err != nil {
		p.t.Fatal(err)
	}
	if err := link.WriteMessage(p.conn, text); err != nil {
		p.t.Fatal(err)
	}
}

// next returns the first message for which want is true.
func (p *peer) next(want func(message) bool) message {
	p.t.Helper()
	late := time.After(time.Minute)
	for {
		select {
		case m, ok := <-p.got:
			if !ok {
				p.t.Fatal("the connection ended")
			}
			if want(m) {
				return m
			}
		case <-late:
			p.t.Fatal("no message")
		}
	}
}

func isAnswer(m message) bool { return m.Method == "" }

func (p *peer) fetch(params api.FetchParams) message {
	p.t.Helper()
	id := 1
	if params.Headers == nil {
		params.Headers = [][2]string{}
	}
	p.send("fetch", &id, params)
	return p.next(isAnswer)
}

// text collects a stream, up to its end or error.
func (p *peer) text() (string, *api.RemoteError) {
	p.t.Helper()
	var b strings.Builder
	end := p.next(func(m message) bool {
		b.Write(m.Params.Data)
		return m.Method == api.NotifyStreamEnd || m.Method == api.NotifyStreamError
	})
	return b.String(), end.Params.Error
}

func TestFetchMethod(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-A", "1")
		io.Copy(w, r.Body)
	})
	p := newPeer(t, nil)
	upload := int64(7)
	p.send(api.NotifyStreamStart, nil, api.StreamParams{StreamID: upload})
	p.send(api.NotifyStreamEnqueue, nil, api.StreamParams{StreamID: upload, Data: api.Bytes("hello")})
	p.send(api.NotifyStreamEnd, nil, api.StreamParams{StreamID: upload})
	id := 1
	p.send("fetch", &id, api.FetchParams{URL: url, Method: "POST", Headers: [][2]string{}, Redirect: "follow", BodyStreamID: &upload})
	var answer message
	var body string
	p.next(func(m message) bool {
		if isAnswer(m) {
			answer = m
		}
		body += string(m.Params.Data)
		return m.Method == api.NotifyStreamEnd
	})
	if body != "hello" {
		t.Errorf("body %q", body)
	}
	if answer.Result.OK == nil {
		answer = p.next(isAnswer)
	}
	if ok := answer.Result.OK; ok == nil || ok.Status != 200 || ok.StatusText != "OK" || ok.BodyStreamID == nil {
		t.Errorf("answer %+v", answer)
	}
}

func TestFetchMethodErrors(t *testing.T) {
	p := newPeer(t, func(context.Context, int) (net.Conn, error) {
		return nil, rpc.NewError("TypeError", "ENOENT", "no such process")
	})
	if e := p.fetch(api.FetchParams{URL: "nonsense", Method: "GET"}).Result.Error; e == nil || e.ConstructorName != "TypeError" {
		t.Errorf("bad URL: %+v", e)
	}
	pid := 5
	e := p.fetch(api.FetchParams{URL: "http://x/", Method: "GET", PID: &pid}).Result.Error
	if e == nil || e.Message != "no such process" || e.Code == nil || *e.Code != "ENOENT" {
		t.Errorf("unknown process: %+v", e)
	}
	if e := p.fetch(api.FetchParams{URL: "http://x/", Method: "GET", Redirect: "error"}).Error; e == nil || e.Code != api.RPCInvalidParams {
		t.Errorf("bad redirect mode: %+v", e)
	}
}

// endless answers with a line, then one more for every receive of next.
func endless(next <-chan struct{}, ended chan<- struct{}) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		for i := 0; ; i++ {
			fmt.Fprintf(w, "line %d\n", i)
			http.NewResponseController(w).Flush()
			select {
			case <-next:
			case <-r.Context().Done():
				return
			}
		}
	}
}

func expectEnd(t *testing.T, ended <-chan struct{}) {
	t.Helper()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Error("the request to the server goes on")
	}
}

func TestAbortEndsTheBody(t *testing.T) {
	ended := make(chan struct{})
	url := serve(t, endless(nil, ended))
	p := newPeer(t, nil)
	abort, id := int64(3), 2
	if ok := p.fetch(api.FetchParams{URL: url, Method: "GET", AbortID: &abort}).Result.OK; ok == nil {
		t.Fatal("fetch fails")
	}
	p.send("abort", &id, api.AbortParams{AbortID: abort})
	if _, err := p.text(); err == nil || err.Name == nil || *err.Name != "AbortError" {
		t.Errorf("stream's error %+v", err)
	}
	expectEnd(t, ended)
}

func TestAbortBeforeTheHeaders(t *testing.T) {
	entered := make(chan struct{})
	url := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
	})
	p := newPeer(t, nil)
	abort, id := int64(3), 1
	p.send("fetch", &id, api.FetchParams{URL: url, Method: "GET", Headers: [][2]string{}, AbortID: &abort})
	<-entered
	other := 2
	p.send("abort", &other, api.AbortParams{AbortID: abort})
	m := p.next(func(m message) bool { return string(m.ID) == "1" })
	if e := m.Result.Error; e == nil || e.Name == nil || *e.Name != "AbortError" || e.ConstructorName != "DOMException" {
		t.Errorf("error %+v", e)
	}
}

func TestCancelledStreamEndsTheRequest(t *testing.T) {
	ended := make(chan struct{})
	url := serve(t, endless(nil, ended))
	p := newPeer(t, nil)
	ok := p.fetch(api.FetchParams{URL: url, Method: "GET"}).Result.OK
	if ok == nil {
		t.Fatal("fetch fails")
	}
	p.send(api.NotifyStreamCancel, nil, api.StreamParams{StreamID: *ok.BodyStreamID})
	expectEnd(t, ended)
}

func TestClosedConnectionEndsTheRequest(t *testing.T) {
	ended := make(chan struct{})
	url := serve(t, endless(nil, ended))
	p := newPeer(t, nil)
	if ok := p.fetch(api.FetchParams{URL: url, Method: "GET"}).Result.OK; ok == nil {
		t.Fatal("fetch fails")
	}
	p.conn.Close()
	expectEnd(t, ended)
}

package deno

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/agent/proc"
	"github.com/atollhq/atoll/internal/agent/rpc"
	"github.com/atollhq/atoll/internal/link"
)

// peer is a client of a service that runs in the test, over a pipe.
type peer struct {
	t       *testing.T
	service *Service
	conn    net.Conn
	notes   chan api.Request // notifications other than those of streams

	mu      sync.Mutex
	nextID  int
	waiting map[string]chan api.Response
	streams map[int64]*stream
}

// stream collects what one stream carried.
type stream struct {
	data  []byte
	ended chan struct{}
}

// newPeer serves a fresh service whose Deno is the given program.
func newPeer(t *testing.T, deno string) *peer {
	t.Helper()
	home := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	uid, gid := uint32(os.Getuid()), uint32(os.Getgid())
	procs := proc.NewManager(proc.Config{
		UID: uid, GID: gid, Home: home, Log: log,
		Env: map[string]string{"PATH": os.Getenv("PATH"), "HOME": home, "DENO_DIR": home + "/.cache"},
	})
	reg := rpc.NewRegistry()
	proc.Register(reg, procs)
	p := &peer{
		t: t, notes: make(chan api.Request, 64),
		waiting: map[string]chan api.Response{}, streams: map[int64]*stream{},
		service: Register(reg, procs, Config{Path: deno, UID: uid, GID: gid, Home: home, Log: log}),
	}
	ours, theirs := net.Pipe()
	p.conn = ours
	var running sync.WaitGroup
	running.Go(func() {
		rpc.Serve(context.WithoutCancel(t.Context()), theirs, link.RPCHeader{}, reg, log, rpc.Limits{})
	})
	running.Go(p.read)
	t.Cleanup(func() {
		ours.Close()
		running.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		procs.Close(ctx)
		p.service.Close()
	})
	return p
}

// newFakePeer has the test binary as its Deno.
func newFakePeer(t *testing.T) *peer {
	t.Setenv(fakeDenoEnv, "1") // for a Manager that passes the agent's environment on
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return newPeer(t, self)
}

func (p *peer) read() {
	frames := link.NewFrameReader(p.conn)
	for {
		text, err := frames.ReadMessage(api.MaxClientMessage)
		if err != nil {
			return
		}
		var m struct {
			api.Request
			Result json.RawMessage `json:"result"`
			Error  *api.RPCError   `json:"error"`
		}
		if json.Unmarshal(text, &m) != nil {
			continue
		}
		if m.Method == "" {
			p.mu.Lock()
			p.waiting[string(m.ID)] <- api.Response{ID: m.ID, Result: m.Result, Error: m.Error}
			p.mu.Unlock()
		} else if !p.streamed(m.Request) {
			p.notes <- m.Request
		}
	}
}

// streamed handles the notifications of streams.
func (p *peer) streamed(m api.Request) bool {
	var params api.StreamParams
	json.Unmarshal(m.Params, &params)
	switch m.Method {
	case api.NotifyStreamEnqueue:
		s := p.stream(params.StreamID)
		s.data = append(s.data, params.Data...)
	case api.NotifyStreamEnd, api.NotifyStreamError:
		close(p.stream(params.StreamID).ended)
	case api.NotifyStreamStart:
	default:
		return false
	}
	return true
}

func (p *peer) stream(id int64) *stream {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.streams[id] == nil {
		p.streams[id] = &stream{ended: make(chan struct{})}
	}
	return p.streams[id]
}

// output waits for a stream's end and returns what it carried.
func (p *peer) output(id *int64) string {
	p.t.Helper()
	if id == nil {
		p.t.Fatal("no stream")
	}
	s := p.stream(*id)
	select {
	case <-s.ended:
	case <-time.After(time.Minute):
		p.t.Fatal("the stream does not end")
	}
	return string(s.data)
}

// start sends a call.
func (p *peer) start(method string, params any) <-chan api.Response {
	p.t.Helper()
	p.mu.Lock()
	p.nextID++
	id := strconv.Itoa(p.nextID)
	answer := make(chan api.Response, 1)
	p.waiting[id] = answer
	p.mu.Unlock()
	raw, err := json.Marshal(params)
	if err != nil {
		p.t.Fatal(err)
	}
	text, err := json.Marshal(api.Request{JSONRPC: "2.0", ID: json.RawMessage(id), Method: method, Params: raw})
	if err != nil {
		p.t.Fatal(err)
	}
	if err := link.WriteMessage(p.conn, text); err != nil {
		p.t.Fatal(err)
	}
	return answer
}

// finish waits for the answer of a call and splits it.
func finish[R any](t *testing.T, answer <-chan api.Response) (R, *api.RemoteError) {
	t.Helper()
	var ok R
	select {
	case res := <-answer:
		if res.Error != nil {
			t.Fatalf("json-rpc error: %v", res.Error)
		}
		var result api.Result
		if err := json.Unmarshal(res.Result, &result); err != nil {
			t.Fatalf("result %s: %v", res.Result, err)
		}
		if result.Error != nil {
			return ok, result.Error
		}
		if result.OK != nil {
			if err := json.Unmarshal(result.OK, &ok); err != nil {
				t.Fatalf("result %s: %v", res.Result, err)
			}
		}
	case <-time.After(time.Minute):
		t.Fatal("no answer")
	}
	return ok, nil
}

// call makes a call and waits for its result.
func call[R any](p *peer, method string, params any) (R, *api.RemoteError) {
	p.t.Helper()
	return finish[R](p.t, p.start(method, params))
}

// must makes a call that succeeds.
func must[R any](p *peer, method string, params any) R {
	p.t.Helper()
	ok, err := call[R](p, method, params)
	if err != nil {
		p.t.Fatalf("%s: %v", method, err)
	}
	return ok
}

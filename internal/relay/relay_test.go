package relay

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"

	"github.com/atollhq/atoll/internal/link"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type meter struct {
	mu       sync.Mutex
	in, out  int64
	messages []string
}

func (m *meter) Received(n int64, method string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.in += n
	m.messages = append(m.messages, method)
}

func (m *meter) Sent(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.out += n
}

// open is a guard of an agent that is always ready.
type open struct{}

func (open) Enter(context.Context) error { return nil }
func (open) Leave()                      {}
func (open) Sent()                       {}

// rig is a relay between a client and an agent that the test plays.
type rig struct {
	t      *testing.T
	client *websocket.Conn
	agent  net.Conn
	meter  *meter
	mute   *atomic.Bool // only in a bubble: what the client sends gets lost
	cancel context.CancelFunc
	cause  chan error
}

func newRig(t testing.TB, change func(*Options)) *rig {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	mine, theirs := socketPair(t)
	dial := func() (net.Conn, error) { return net.Dial("tcp", l.Addr().String()) }
	return rigOn(t, l, dial, mine, theirs, change)
}

// bubble runs a test with fake time, over unbuffered pipes.
func bubble(t *testing.T, change func(*Options), test func(r *rig)) {
	synctest.Test(t, func(t *testing.T) {
		l := pipeListener{make(chan net.Conn), make(chan struct{})}
		mine, theirs := net.Pipe()
		mute := &atomic.Bool{}
		dial := func() (net.Conn, error) {
			c, err := l.dial()
			return muted{c, mute}, err
		}
		r := rigOn(t, l, dial, mine, theirs, change)
		r.mute = mute
		test(r)
	})
}

func rigOn(t testing.TB, l net.Listener, dial func() (net.Conn, error), mine, theirs net.Conn, change func(*Options)) *rig {
	r := &rig{meter: &meter{}, cause: make(chan error, 1), agent: theirs}
	if tt, ok := t.(*testing.T); ok {
		r.t = tt
	}
	o := Options{MaxReceive: 1 << 20, MaxSend: 1 << 20, PingEvery: DefaultPingEvery, DeadAfter: DefaultDeadAfter, Meter: r.meter, Guard: open{}}
	if change != nil {
		change(&o)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		c, err := Accept(w, req, mine, o)
		if err != nil {
			r.cause <- err
			return
		}
		r.cause <- c.Run(ctx, func() Ending { return Ending{1001, "sandbox timeout"} })
	})}
	go func() { _ = server.Serve(l) }()
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return dial() }}
	client, _, err := websocket.Dial(t.Context(), "http://relay.test/", &websocket.DialOptions{HTTPClient: &http.Client{Transport: transport}})
	if err != nil {
		t.Fatal(err)
	}
	client.SetReadLimit(-1)
	r.client = client
	t.Cleanup(func() {
		cancel()
		_ = client.CloseNow()
		_ = theirs.Close()
		_ = server.Close()
		transport.CloseIdleConnections()
	})
	return r
}

// muted is a connection whose writes get lost on request, as on a cable that
// was cut.
type muted struct {
	net.Conn
	mute *atomic.Bool
}

func (m muted) Write(p []byte) (int, error) {
	if m.mute.Load() {
		return len(p), nil
	}
	return m.Conn.Write(p)
}

// pipeListener accepts in-memory connections.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (l pipeListener) dial() (net.Conn, error) {
	a, b := net.Pipe()
	select {
	case l.conns <- b:
		return a, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l pipeListener) Close() error   { close(l.closed); return nil }
func (l pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

// socketPair is a pair of connected TCP sockets: unlike net.Pipe it buffers,
// as the real link does.
func socketPair(t testing.TB) (a, b net.Conn) {
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
	return a, b
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) clientSends(msg string) {
	r.t.Helper()
	r.must(r.client.Write(r.t.Context(), websocket.MessageText, []byte(msg)))
}

func (r *rig) clientGets() string {
	r.t.Helper()
	kind, msg, err := r.client.Read(r.t.Context())
	r.must(err)
	if kind != websocket.MessageText {
		r.t.Errorf("got a message of type %v", kind)
	}
	return string(msg)
}

func (r *rig) agentGets() string {
	r.t.Helper()
	msg, err := link.NewFrameReader(r.agent).ReadMessage(1 << 30)
	r.must(err)
	return string(msg)
}

// wantEnd waits for the end and checks why it came and what the client saw.
func (r *rig) wantEnd(cause error, code websocket.StatusCode) {
	r.t.Helper()
	_, _, err := r.client.Read(r.t.Context())
	if got := websocket.CloseStatus(err); got != code {
		r.t.Errorf("close code = %v, want %v (%v)", got, code, err)
	}
	if err := <-r.cause; !errors.Is(err, cause) {
		r.t.Errorf("cause = %v, want %v", err, cause)
	}
	if n, err := r.agent.Read(make([]byte, 1)); err == nil {
		r.t.Errorf("the agent's stream is still open (%d)", n)
	}
}

func TestBothWays(t *testing.T) {
	r := newRig(t, nil)
	for _, size := range []int{0, 1, smallBuffer - 1, smallBuffer, smallBuffer + 1, link.MaxFrame, smallBuffer + link.MaxFrame, 900 << 10} {
		msg := strings.Repeat("x", size)
		r.clientSends(msg)
		if got := r.agentGets(); got != msg {
			t.Fatalf("size %d: the agent got %d bytes", size, len(got))
		}
		go func() { _ = link.WriteMessage(r.agent, []byte(msg)) }()
		if got := r.clientGets(); got != msg {
			t.Fatalf("size %d: the client got %d bytes", size, len(got))
		}
	}
	r.clientSends(`{"jsonrpc":"2.0","id":1,"method":"spawn"}`)
	r.agentGets()
	_ = r.client.Close(websocket.StatusNormalClosure, "")
	if err := <-r.cause; !errors.Is(err, ErrClientLeft) {
		t.Errorf("cause = %v", err)
	}
	if got := r.meter.messages[len(r.meter.messages)-1]; got != "spawn" || r.meter.out < 900<<10 {
		t.Errorf("metered %v, %d bytes out", got, r.meter.out)
	}
}

func TestFragmentedMessageIsOne(t *testing.T) {
	r := newRig(t, nil)
	w, err := r.client.Writer(t.Context(), websocket.MessageText)
	r.must(err)
	for range 3 {
		_, err := io.WriteString(w, "part ")
		r.must(err)
	}
	r.must(w.Close())
	if got := r.agentGets(); got != "part part part " {
		t.Errorf("the agent got %q", got)
	}
}

func TestPingIsAnsweredHere(t *testing.T) {
	r := newRig(t, nil)
	r.clientSends("ping")
	if got := r.clientGets(); got != "pong" {
		t.Errorf("got %q", got)
	}
	r.clientSends("pingx")
	if got := r.agentGets(); got != "pingx" {
		t.Errorf("the agent got %q", got)
	}
}

func TestBinaryIsRefused(t *testing.T) {
	r := newRig(t, nil)
	r.must(r.client.Write(t.Context(), websocket.MessageBinary, []byte("x")))
	r.wantEnd(ErrClientFault, websocket.StatusUnsupportedData)
}

func TestOversizedMessage(t *testing.T) {
	r := newRig(t, func(o *Options) { o.MaxReceive = 100 << 10 })
	go func() { _ = r.client.Write(context.Background(), websocket.MessageText, make([]byte, 200<<10)) }()
	go func() { _, _ = io.Copy(io.Discard, r.agent) }()
	_, _, err := r.client.Read(t.Context())
	if got := websocket.CloseStatus(err); got != websocket.StatusMessageTooBig {
		t.Errorf("close code = %v (%v)", got, err)
	}
	if err := <-r.cause; !errors.Is(err, ErrClientFault) {
		t.Errorf("cause = %v", err)
	}
}

func TestAgentSendsTooMuch(t *testing.T) {
	r := newRig(t, func(o *Options) { o.MaxSend = 300 << 10 })
	go func() { _ = link.WriteMessage(r.agent, make([]byte, 900<<10)) }()
	_, _, err := r.client.Read(t.Context())
	if got := websocket.CloseStatus(err); got != websocket.StatusInternalError {
		t.Errorf("close code = %v (%v)", got, err)
	}
	if err := <-r.cause; !errors.Is(err, errAgentFault) {
		t.Errorf("cause = %v", err)
	}
}

func TestAgentSendsNonsense(t *testing.T) {
	r := newRig(t, nil)
	_, err := r.agent.Write(bytes.Repeat([]byte{0x7f}, 100))
	r.must(err)
	r.wantEnd(errAgentFault, websocket.StatusInternalError)
}

func TestAgentLeaves(t *testing.T) {
	r := newRig(t, nil)
	r.must(r.agent.Close())
	r.wantEnd(ErrAgentLeft, websocket.StatusInternalError)
}

func TestReasonThatComesAfterTheBreak(t *testing.T) {
	r := newRig(t, nil)
	r.must(r.agent.Close())
	r.cancel()
	r.wantEnd(ErrDismissed, websocket.StatusGoingAway)
}

func TestDismissal(t *testing.T) {
	r := newRig(t, nil)
	r.cancel()
	_, _, err := r.client.Read(t.Context())
	var ce websocket.CloseError
	if !errors.As(err, &ce) || ce.Code != 1001 || ce.Reason != "sandbox timeout" {
		t.Errorf("client saw %v", err)
	}
	if err := <-r.cause; !errors.Is(err, ErrDismissed) {
		t.Errorf("cause = %v", err)
	}
}

func TestDismissalWhileBothSidesAreStuck(t *testing.T) {
	r := newRig(t, func(o *Options) { o.MaxReceive, o.MaxSend = 1<<30, 1<<30 })
	go func() { _ = r.client.Write(context.Background(), websocket.MessageText, make([]byte, 64<<20)) }()
	go func() { _ = link.WriteMessage(r.agent, make([]byte, 64<<20)) }()
	r.cancel() // nobody reads
	_ = r.client.CloseNow()
	if err := <-r.cause; !errors.Is(err, ErrDismissed) && !errors.Is(err, ErrClientLeft) {
		t.Errorf("cause = %v", err)
	}
}

func TestVanishedClient(t *testing.T) {
	r := newRig(t, nil)
	w, err := r.client.Writer(t.Context(), websocket.MessageText)
	r.must(err)
	_, err = w.Write(make([]byte, 100<<10)) // half a message
	r.must(err)
	r.must(r.client.CloseNow())
	if err := <-r.cause; !errors.Is(err, ErrClientLeft) {
		t.Errorf("cause = %v", err)
	}
	// The agent sees a broken message, never a short one.
	if _, err := link.NewFrameReader(r.agent).ReadMessage(1 << 30); err == nil {
		t.Error("the agent got a whole message")
	}
}

func TestSilentClientIsGivenUp(t *testing.T) {
	bubble(t, nil, func(r *rig) {
		began := time.Now()
		r.client.CloseRead(context.Background())
		r.mute.Store(true) // its answers to pings get lost
		if err := <-r.cause; !errors.Is(err, ErrClientDead) {
			t.Errorf("cause = %v", err)
		}
		if took := time.Since(began); took < DefaultDeadAfter || took > DefaultDeadAfter+2*checkEvery {
			t.Errorf("given up after %v", took)
		}
	})
}

func TestReadingClientLives(t *testing.T) {
	bubble(t, nil, func(r *rig) {
		r.client.CloseRead(context.Background()) // answers pings
		select {
		case err := <-r.cause:
			t.Errorf("ended: %v", err)
		case <-time.After(time.Hour):
		}
	})
}

func TestStuckAgentIsNotTheClientsSilence(t *testing.T) {
	bubble(t, nil, func(r *rig) {
		msg := strings.Repeat("x", 900<<10)
		go r.clientSends(msg)
		time.Sleep(time.Hour) // the agent reads nothing
		if got := r.agentGets(); got != msg {
			t.Errorf("the agent got %d bytes", len(got))
		}
	})
}

// TestClientThatLeavesAStuckAgent: an agent that takes nothing must not keep
// its session alive beyond the client's end.
func TestClientThatLeavesAStuckAgent(t *testing.T) {
	var r *rig
	stuck := func(deadAfter time.Duration) bool {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		mine, theirs := net.Pipe()
		dial := func() (net.Conn, error) { return net.Dial("tcp", l.Addr().String()) }
		r = rigOn(t, l, dial, mine, theirs, func(o *Options) { o.DeadAfter = deadAfter })
		_ = r.client.Write(t.Context(), websocket.MessageText, make([]byte, 100<<10))
		_, err = r.agent.Read(make([]byte, 1))
		return err == nil // from now on the relay waits for the agent
	}
	deadAfter := 50 * time.Millisecond
	for ; !stuck(deadAfter); deadAfter *= 4 { // where everything is slow, it was given up before
		if deadAfter > time.Minute {
			t.Fatal("the agent gets nothing")
		}
	}
	select {
	case err := <-r.cause:
		t.Fatalf("ended with its client there: %v", err)
	case <-time.After(4 * deadAfter):
	}
	r.must(r.client.CloseNow())
	select {
	case err := <-r.cause:
		if !errors.Is(err, ErrClientLeft) {
			t.Errorf("cause = %v", err)
		}
	case <-time.After(time.Minute):
		t.Error("the connection goes on without its client")
	}
}

func TestSlowClientLivesWhileItReads(t *testing.T) {
	bubble(t, nil, func(r *rig) {
		go func() { _ = link.WriteMessage(r.agent, make([]byte, 900<<10)) }()
		_, message, err := r.client.Reader(context.Background())
		r.must(err)
		piece, total := make([]byte, 300<<10), 0
		for {
			n, err := io.ReadFull(message, piece)
			if total += n; err != nil {
				break
			}
			time.Sleep(50 * time.Second)
		}
		if total != 900<<10 {
			t.Errorf("got %d bytes", total)
		}
	})
}

func TestMaxSendFor(t *testing.T) {
	if MaxSendFor("Python/3.13 websockets/15.0.1") != 1<<20 || MaxSendFor("") <= 1<<20 {
		t.Error("wrong limits")
	}
}

func TestMethod(t *testing.T) {
	for msg, want := range map[string]string{
		`{"jsonrpc":"2.0","id":0,"method":"spawn","params":{}}`:             "spawn",
		`{"method": "readFile", "params": {"path": "x"}, "id": 1}`:          "readFile",
		`{"params":{"method":"GET","x":[{"method":"a"}]},"method":"fetch"}`: "fetch",
		`{"id":"method","method":"stat"}`:                                   "stat",
		`{"a\"method":"x","method":"stat"}`:                                 "stat",
		`{"method":"$sandbox.stream.enqueue"`:                               "$sandbox.stream.enqueue",
		`{"method":"noSuchThing"}`:                                          "other",
		`{"jsonrpc":"2.0","id":1,"result":{"ok":{"method":"x"}}}`:           "",
		`{"method":5,"x":"spawn"}`:                                          "",
		`{"method"`:                                                         "",
		``:                                                                  "",
		`"method"`:                                                          "",
		`[{"method":"spawn"}]`:                                              "",
		`{"params":"` + strings.Repeat("x", peek) + `","method":"spawn"}`: "",
	} {
		if got := Method([]byte(msg)); got != want {
			t.Errorf("%.60s: %q, want %q", msg, got, want)
		}
	}
}

func FuzzMethod(f *testing.F) {
	f.Add([]byte(`{"jsonrpc":"2.0","id":0,"method":"spawn","params":{"a":["\\\""]}}`))
	f.Add([]byte(`{"method":"`))
	f.Fuzz(func(t *testing.T, msg []byte) {
		got := Method(msg)
		if got != "" && got != other && methods[got] == "" {
			t.Errorf("unknown name %q", got)
		}
	})
}

// FuzzFromAgent: whatever the agent sends, the relay ends and the client sees
// whole messages only.
func FuzzFromAgent(f *testing.F) {
	f.Add(link.AppendFrame(nil, []byte("hello"), false))
	f.Add(link.AppendFrame(link.AppendFrame(nil, []byte("a"), true), nil, false))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, raw []byte) {
		r := newRig(t, func(o *Options) { o.MaxSend = 4 << 10 })
		_, _ = r.agent.Write(raw)
		_ = r.agent.Close()
		r.cancel()
		for {
			if _, msg, err := r.client.Read(t.Context()); err != nil {
				break
			} else if len(msg) > 4<<10 {
				t.Errorf("%d bytes passed", len(msg))
			}
		}
		<-r.cause
	})
}

func echo(conn net.Conn) {
	frames := link.NewFrameReader(conn)
	for {
		msg, err := frames.ReadMessage(1 << 30)
		if err != nil {
			return
		}
		if link.WriteMessage(conn, msg) != nil {
			return
		}
	}
}

func benchmark(b *testing.B, size int) {
	r := newRig(b, func(o *Options) { o.MaxReceive, o.MaxSend = 1<<30, 1<<30 })
	go echo(r.agent)
	msg := bytes.Repeat([]byte("x"), size)
	b.SetBytes(int64(2 * size))
	b.ReportAllocs()
	for b.Loop() {
		if err := r.client.Write(context.Background(), websocket.MessageText, msg); err != nil {
			b.Fatal(err)
		}
		if _, _, err := r.client.Read(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRoundTripSmall(b *testing.B) { benchmark(b, 100) }
func BenchmarkRoundTripLarge(b *testing.B) { benchmark(b, 16<<20) }

package relay

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"

	"github.com/atollhq/atoll/internal/link"
)

// gate is a guard that lets something in when it is opened.
type gate struct {
	open             chan error
	inside           atomic.Bool
	sent, gaveUp     atomic.Int64
	entered, doubles atomic.Int64
}

func (g *gate) Enter(ctx context.Context) error {
	select {
	case err := <-g.open:
		if err == nil {
			g.entered.Add(1)
			if g.inside.Swap(true) {
				g.doubles.Add(1)
			}
		}
		return err
	case <-ctx.Done():
		g.gaveUp.Add(1)
		return ctx.Err()
	}
}

func (g *gate) Leave() { g.inside.Store(false) }
func (g *gate) Sent()  { g.sent.Add(1) }

// guarded makes the gate's channel where the connection is made: in the bubble.
func guarded(g *gate) func(*Options) {
	return func(o *Options) { g.open, o.Guard = make(chan error, 1), g }
}

func TestGuardHoldsUpMessages(t *testing.T) {
	g := &gate{}
	bubble(t, guarded(g), func(r *rig) {
		r.clientSends(`{"method":"stat"}`)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		select {
		case cause := <-r.cause:
			t.Fatalf("a client that waits was given up: %v", cause)
		default:
		}
		g.open <- nil
		if got := r.agentGets(); got != `{"method":"stat"}` {
			t.Errorf("the agent got %q", got)
		}
		synctest.Wait()
		if g.inside.Load() || g.entered.Load() != 1 || g.doubles.Load() != 0 {
			t.Errorf("inside %v, entered %d times, %d times at once", g.inside.Load(), g.entered.Load(), g.doubles.Load())
		}
		r.clientSends("ping") // ends here: it needs no agent, and is no traffic
		if got := r.clientGets(); got != "pong" {
			t.Errorf("the client got %q", got)
		}
		if n := g.sent.Load(); n != 0 {
			t.Errorf("%d pongs were taken for the sandbox's", n)
		}
		r.must(link.WriteMessage(r.agent, []byte("answer")))
		if got := r.clientGets(); got != "answer" {
			t.Errorf("the client got %q", got)
		}
		synctest.Wait()
		if n := g.sent.Load(); n != 1 {
			t.Errorf("%d pieces were sent, want 1", n)
		}
	})
}

func TestGuardRefuses(t *testing.T) {
	g := &gate{}
	bubble(t, guarded(g), func(r *rig) {
		g.open <- errors.New("no")
		r.clientSends(`{"method":"stat"}`)
		_, _, err := r.client.Read(r.t.Context())
		var ce websocket.CloseError
		if !errors.As(err, &ce) || ce.Code != websocket.StatusInternalError || ce.Reason != "the sandbox could not be resumed" {
			t.Errorf("closed with %v", err)
		}
		if cause := <-r.cause; !errors.Is(cause, ErrNotReady) {
			t.Errorf("cause: %v", cause)
		}
	})
}

// Who is dismissed, or leaves, while it waits for the agent gives that up.
func TestGuardIsLeft(t *testing.T) {
	for name, end := range map[string]func(r *rig){
		"dismissed": func(r *rig) { r.cancel() },
		"agent":     func(r *rig) { _ = r.agent.Close() },
	} {
		g := &gate{}
		bubble(t, guarded(g), func(r *rig) {
			r.clientSends(`{"method":"stat"}`)
			synctest.Wait()
			end(r)
			go func() { _, _, _ = r.client.Read(context.Background()) }()
			<-r.cause
			synctest.Wait()
			if g.gaveUp.Load() != 1 {
				t.Errorf("%s: it still waits", name)
			}
		})
	}
}

func TestClientThatLeavesWhileItWaits(t *testing.T) {
	var g *gate
	leave := func(deadAfter time.Duration) error {
		g = &gate{}
		r := newRig(t, func(o *Options) {
			guarded(g)(o)
			o.DeadAfter = deadAfter
		})
		_ = r.client.Write(t.Context(), websocket.MessageText, []byte(`{"method":"stat"}`))
		_ = r.client.CloseNow()
		return <-r.cause
	}
	cause := ErrClientDead
	for deadAfter := 100 * time.Millisecond; deadAfter < time.Minute && errors.Is(cause, ErrClientDead); deadAfter *= 4 {
		cause = leave(deadAfter) // where everything is slow, it is given up before the message is read
	}
	if !errors.Is(cause, ErrClientLeft) {
		t.Errorf("cause: %v", cause)
	}
	if g.gaveUp.Load() != 1 {
		t.Error("it still waits")
	}
}

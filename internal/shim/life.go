package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/atollhq/atoll/internal/link"
	"github.com/atollhq/atoll/internal/machine"
)

// life is one machine and the link's session with its agent. A sandbox that
// is suspended and resumed has one life after the other.
type life struct {
	machine    machine.Machine
	link       *link.Session
	generation uint32

	talk    sync.Mutex // held for a message and its answer
	control net.Conn   // guarded by talk; nil before the first message and after one without answer
}

// enliven opens the link to a machine's agent and has the first message said.
// When that fails, the machine is destroyed.
func (s *Shim) enliven(ctx context.Context, m machine.Machine, generation uint32, first func(*life) error) (*life, error) {
	l := &life{machine: m, generation: generation}
	err := l.greet(ctx)
	if err == nil {
		err = first(l)
	}
	if err != nil {
		err = startFailure(ctx, m, err)
		s.bury(l)
		return nil, err
	}
	if settler, ok := m.(machine.Settler); ok {
		if err := settler.Settle(); err != nil {
			s.log.Warn("settle machine", "error", err)
		}
	}
	return l, nil
}

// greet opens the session. The agent of a restored machine may first have to
// notice that its earlier one is over.
func (l *life) greet(ctx context.Context) (err error) {
	if l.generation > firstGeneration {
		if err := link.Probe(ctx, l.machine.Link()); err != nil {
			return err
		}
	}
	l.link, err = link.Open(ctx, l.machine.Link(), l.generation)
	return err
}

// bury ends a life's link and frees its machine.
func (s *Shim) bury(l *life) {
	ctx, cancel := context.WithTimeout(context.Background(), freeTimeout)
	defer cancel()
	if l.link != nil {
		_ = l.link.Close()
	} else if conn := l.machine.Link(); conn != nil {
		_ = conn.Close()
	}
	if err := l.machine.Destroy(ctx); err != nil {
		s.log.Error("destroy machine", "error", err)
	}
}

// startFailure prefers the machine's own account of its end over the broken
// stream that it caused.
func startFailure(ctx context.Context, m machine.Machine, err error) error {
	if _, refused := errors.AsType[refusal](err); refused {
		return fmt.Errorf("personalise machine: %w", err)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("personalise machine: no answer from the agent: %w", ctx.Err())
	}
	select {
	case exit := <-m.Exited():
		return fmt.Errorf("personalise machine: it ended (%s): %s", exit.Reason, exit.Detail)
	case <-time.After(time.Second):
		return fmt.Errorf("personalise machine: %w", err)
	}
}

// tell sends the agent a message and reads its answer. After a message that
// got none, the next one has a stream of its own, so that it is not given the
// answer to another.
func (l *life) tell(ctx context.Context, send func(io.Writer) error) error {
	l.talk.Lock()
	defer l.talk.Unlock()
	if l.control == nil {
		control, err := l.link.Dial(ctx, link.KindControl, struct{}{})
		if err != nil {
			return err
		}
		l.control = control
	}
	err := converse(ctx, l.control, send)
	if _, refused := errors.AsType[refusal](err); err != nil && !refused {
		_ = l.control.Close()
		l.control = nil
	}
	return err
}

func converse(ctx context.Context, control net.Conn, send func(io.Writer) error) error {
	_ = control.SetDeadline(time.Time{})
	interrupt := context.AfterFunc(ctx, func() { _ = control.SetDeadline(time.Now()) })
	defer interrupt()
	if err := send(control); err != nil {
		return err
	}
	var ready link.Ready
	if err := link.ReceiveControl(control, &ready); err != nil {
		return err
	}
	if ready.Error != "" {
		return refusal(ready.Error)
	}
	return nil
}

// refusal is what the agent answered. It is the guest's text.
type refusal string

func (r refusal) Error() string { return fmt.Sprintf("agent: %.512q", string(r)) }

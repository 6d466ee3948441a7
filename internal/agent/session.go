package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/atollhq/atoll/internal/agent/rpc"
	"github.com/atollhq/atoll/internal/link"
)

// session is one session of the link.
type session struct {
	agent *Agent
	mux   *link.Session

	ready      chan struct{} // closed when the machine is configured and knows that it was resumed
	generation uint32        // of the session's streams; valid when ready is closed
}

func (s *session) acceptAll(ctx context.Context) error {
	for {
		conn, err := s.mux.Accept()
		if err != nil {
			return fmt.Errorf("accept stream: %w", err)
		}
		s.agent.tasks.Go(func() { s.serve(ctx, conn) })
	}
}

// serve serves one stream.
func (s *session) serve(ctx context.Context, conn net.Conn) {
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	stream, err := link.ReadPreamble(conn)
	if err != nil {
		s.agent.log.Warn("refuse stream", "error", err)
		return
	}
	if stream.Kind == link.KindControl {
		err = s.control(ctx, stream)
	} else if err = s.awaitReady(ctx, stream.Generation); err == nil {
		err = s.serveKind(ctx, stream)
	}
	if err != nil && ctx.Err() == nil {
		s.agent.log.Warn("stream ends", "kind", stream.Kind, "error", err)
	}
}

// awaitReady waits until the session is ready and checks that the stream is
// of this life of the machine.
func (s *session) awaitReady(ctx context.Context, generation uint32) error {
	timer := time.NewTimer(configPatience)
	defer timer.Stop()
	select {
	case <-s.ready:
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return errors.New("no configuration has come")
	}
	if generation != s.generation {
		return fmt.Errorf("stream of generation %d, this is %d", generation, s.generation)
	}
	return nil
}

func (s *session) serveKind(ctx context.Context, stream *link.Stream) error {
	switch stream.Kind {
	case link.KindRPC:
		var h link.RPCHeader
		if err := json.Unmarshal(stream.Header, &h); err != nil {
			return fmt.Errorf("decode header: %w", err)
		}
		a := s.agent
		return rpc.Serve(ctx, stream, h, a.parts.registry, a.log, rpc.Limits{MaxMessage: a.cfg.MaxMessage})
	case link.KindDial:
		var h link.DialHeader
		if err := json.Unmarshal(stream.Header, &h); err != nil {
			return fmt.Errorf("decode header: %w", err)
		}
		return dial(ctx, stream, h.Port)
	}
	return link.ErrBadPreamble
}

// control receives the configuration and what follows it, applies and answers
// each message; it keeps the stream open until the shim closes it.
func (s *session) control(ctx context.Context, stream net.Conn) error {
	for {
		var msg link.ToAgent
		if err := link.ReceiveControl(stream, &msg); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		answer := link.Ready{Version: s.agent.opts.Version}
		then, err := s.apply(ctx, msg)
		if err != nil {
			s.agent.log.Error("configure", "error", err)
			answer = link.Ready{Error: err.Error()}
		}
		if err := link.SendControl(stream, answer); err != nil {
			return err
		}
		if then != nil {
			s.agent.tasks.Go(then)
		}
	}
}

// apply returns what is to be done when the message is answered; nil is
// nothing.
func (s *session) apply(ctx context.Context, msg link.ToAgent) (then func(), err error) {
	a := s.agent
	a.once.Lock()
	defer a.once.Unlock()
	if ctx.Err() != nil {
		return nil, ctx.Err() // the session has ended, and the next may have begun
	}
	switch {
	case msg.Update != nil:
		return nil, a.update(*msg.Update)
	case msg.Resume != nil:
		return s.resume(*msg.Resume)
	case msg.Freeze != nil:
		return nil, s.freeze(*msg.Freeze)
	}
	return nil, s.configure(msg.Config)
}

// configure personalises the machine, once.
func (s *session) configure(cfg link.Config) error {
	if err := s.agent.configure(cfg); err != nil {
		return err
	}
	s.begin(cfg.Generation)
	return nil
}

// begin makes the session ready. The agent's lock is held.
func (s *session) begin(generation uint32) {
	s.generation, s.agent.generation = generation, generation
	close(s.ready)
}

func (s *session) isReady() bool {
	select {
	case <-s.ready:
		return true
	default:
		return false
	}
}

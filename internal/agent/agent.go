package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/atollhq/atoll/internal/agent/rpc"
	"github.com/atollhq/atoll/internal/agent/trust"
	"github.com/atollhq/atoll/internal/link"
)

// configPatience is how long a stream waits for the machine's configuration.
const configPatience = 30 * time.Second

// Options are what Run can be told; a zero field has its default.
type Options struct {
	Version string       // told to the shim
	Root    string       // where the guest's files are; default "/"
	Host    Host         // the guest's kernel; default the real one
	Log     *slog.Logger // default: nothing is logged

	// Boot starts the system, in a machine that is told to.
	Boot func(link.Boot) error
}

// Agent serves one link.
type Agent struct {
	opts  Options
	log   *slog.Logger
	tasks sync.WaitGroup // streams

	ready chan struct{} // closed once configured
	once  sync.Mutex    // held while configuring
	cfg   link.Config   // before ready is closed only its writer's
	parts *services
}

// Run serves the link on conn until it ends or ctx does, and closes conn. Nil
// is an orderly end: the other side has gone.
func Run(ctx context.Context, conn io.ReadWriteCloser, opts Options) error {
	closed := context.AfterFunc(ctx, func() { _ = conn.Close() })
	session, err := link.Serve(conn)
	closed()
	if ctx.Err() != nil || errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return err
	}
	if opts.Root == "" {
		opts.Root = "/"
	}
	if opts.Host == nil {
		opts.Host = kernel{}
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	a := &Agent{opts: opts, log: opts.Log, ready: make(chan struct{})}
	return a.run(ctx, session)
}

func (a *Agent) run(ctx context.Context, session *link.Session) error {
	ctx, cancel := context.WithCancel(ctx)
	closed := context.AfterFunc(ctx, func() { _ = session.Close() })
	defer closed()
	err := a.acceptAll(ctx, session)
	cancel()
	_ = session.Close()
	a.tasks.Wait()
	if a.parts != nil {
		a.parts.close()
	}
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || ctx.Err() != nil {
		return nil
	}
	return err
}

func (a *Agent) acceptAll(ctx context.Context, session *link.Session) error {
	for {
		conn, err := session.Accept()
		if err != nil {
			return fmt.Errorf("accept stream: %w", err)
		}
		a.tasks.Go(func() { a.serve(ctx, conn) })
	}
}

// serve serves one stream.
func (a *Agent) serve(ctx context.Context, conn net.Conn) {
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	stream, err := link.ReadPreamble(conn)
	if err != nil {
		a.log.Warn("refuse stream", "error", err)
		return
	}
	if stream.Kind == link.KindControl {
		err = a.control(ctx, stream)
	} else if err = a.configured(ctx, stream.Generation); err == nil {
		err = a.serveKind(ctx, stream)
	}
	if err != nil && ctx.Err() == nil {
		a.log.Warn("stream ends", "kind", stream.Kind, "error", err)
	}
}

// configured waits for the configuration and checks that the stream is of
// this life of the machine.
func (a *Agent) configured(ctx context.Context, generation uint32) error {
	timer := time.NewTimer(configPatience)
	defer timer.Stop()
	select {
	case <-a.ready:
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return errors.New("no configuration has come")
	}
	if generation != a.cfg.Generation {
		return fmt.Errorf("stream of generation %d, this is %d", generation, a.cfg.Generation)
	}
	return nil
}

func (a *Agent) serveKind(ctx context.Context, stream *link.Stream) error {
	switch stream.Kind {
	case link.KindRPC:
		var h link.RPCHeader
		if err := json.Unmarshal(stream.Header, &h); err != nil {
			return fmt.Errorf("decode header: %w", err)
		}
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

// control receives the configuration and updates of it, applies and answers
// them; it keeps the stream open until the shim closes it.
func (a *Agent) control(ctx context.Context, stream net.Conn) error {
	for {
		var msg link.ToAgent
		if err := link.ReceiveControl(stream, &msg); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		answer := link.Ready{Version: a.opts.Version}
		if err := a.apply(ctx, msg); err != nil {
			a.log.Error("configure", "error", err)
			answer = link.Ready{Error: err.Error()}
		}
		if err := link.SendControl(stream, answer); err != nil {
			return err
		}
	}
}

func (a *Agent) apply(ctx context.Context, msg link.ToAgent) error {
	if msg.Update != nil {
		return a.update(*msg.Update)
	}
	return a.configure(ctx, msg.Config)
}

// update adds what was not known when the machine was configured. The roots
// come first: a process that sees the environment finds them.
func (a *Agent) update(u link.Update) error {
	a.once.Lock()
	defer a.once.Unlock()
	select {
	case <-a.ready:
	default:
		return errors.New("the machine has no configuration yet")
	}
	env := a.parts.procs.Env()
	if u.ExtraRoots != "" {
		vars, err := trust.Store{Root: a.opts.Root, Log: a.log}.Set(u.ExtraRoots)
		if err != nil {
			return err
		}
		env.AddMissing(vars)
	}
	for name, value := range u.Env {
		if err := env.Set(name, value); err != nil {
			return err
		}
	}
	return nil
}

func (a *Agent) boot(b *link.Boot) error {
	switch {
	case b == nil:
		return nil
	case a.opts.Boot == nil:
		return errors.New("this machine's system is not the agent's to start")
	}
	if err := a.opts.Boot(*b); err != nil {
		return fmt.Errorf("start system: %w", err)
	}
	return nil
}

// configure personalises the machine, once.
func (a *Agent) configure(ctx context.Context, cfg link.Config) error {
	a.once.Lock()
	defer a.once.Unlock()
	select {
	case <-a.ready:
		return errors.New("the machine has its configuration already")
	default:
	}
	if err := a.boot(cfg.Boot); err != nil {
		return err
	}
	env, err := personalise(a.opts.Root, a.opts.Host, cfg, a.log)
	if err != nil {
		return err
	}
	a.cfg = cfg
	a.parts = newServices(ctx, cfg, env, a.log)
	close(a.ready)
	return nil
}

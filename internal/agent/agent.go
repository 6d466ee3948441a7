package agent

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/atollhq/atoll/internal/link"
)

// configPatience is how long a stream waits for the machine's configuration,
// or for word of its resumption.
const configPatience = 30 * time.Second

// Options are what Run can be told; a zero field has its default.
type Options struct {
	Version string       // told to the shim
	Root    string       // where the guest's files are; default "/"
	Host    Host         // the guest's kernel; default the real one
	Log     *slog.Logger // default: nothing is logged

	// Boot starts the system, in a machine that is told to.
	Boot func(link.Boot) error

	// Freezer stops the guest's processes, in a machine with a kernel of its
	// own. It is used when the system has been started. With nil, processes
	// never need to be stopped: gVisor's random numbers are the host's, so that
	// no two machines draw the same ones.
	Freezer Freezer

	// Next yields the connection of the next session, in a machine that can be
	// saved and restored: it is called when the one before has ended and its
	// connection is closed. io.EOF says that there will be none. With nil, Run
	// returns at the end of the first session.
	Next func(ctx context.Context) (io.ReadWriteCloser, error)
}

// Agent serves one link, in one session after the other.
type Agent struct {
	opts  Options
	log   *slog.Logger
	life  context.Context // ends with Run
	tasks sync.WaitGroup  // streams and hooks
	hooks sync.Mutex      // held while hooks run

	once       sync.Mutex // held while a control message is applied; guards the following
	configured bool
	cfg        link.Config       // written once, before any session is ready
	parts      *services         // likewise
	given      map[string]string // the variables that the shim gave
	generation uint32            // the latest session's
	self       self
	late       *time.Timer // thaws; nil unless processes are stopped, and stay so for as long as the session lasts
}

// Run serves the link on conn until it ends for good or ctx does, and closes
// conn. Nil is an orderly end: the other side has gone.
func Run(ctx context.Context, conn io.ReadWriteCloser, opts Options) error {
	if opts.Root == "" {
		opts.Root = "/"
	}
	if opts.Host == nil {
		opts.Host = kernel{}
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	life, end := context.WithCancel(ctx)
	a := &Agent{opts: opts, log: opts.Log, life: life}
	err := a.sessions(conn)
	end()
	a.tasks.Wait()
	if a.parts != nil {
		a.parts.close()
	}
	if ctx.Err() != nil || orderly(err) {
		return nil
	}
	return err
}

func orderly(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) }

// sessions serves one session after the other. Processes, and what else
// belongs to the machine, go on from one to the next; clients don't.
func (a *Agent) sessions(conn io.ReadWriteCloser) error {
	for {
		err := a.session(conn)
		if a.opts.Next == nil || a.life.Err() != nil {
			return err
		}
		a.log.Info("the link's session has ended", "error", err)
		if conn, err = a.opts.Next(a.life); err != nil {
			return err
		}
	}
}

// session serves one session and closes its connection. Streams of it may
// take a moment longer to end.
func (a *Agent) session(conn io.ReadWriteCloser) error {
	closed := context.AfterFunc(a.life, func() { _ = conn.Close() })
	mux, err := link.Serve(conn)
	closed()
	if err != nil {
		_ = conn.Close()
		return err
	}
	ctx, cancel := context.WithCancel(a.life)
	defer cancel()
	closed = context.AfterFunc(ctx, func() { _ = mux.Close() })
	defer closed()
	defer func() { _ = mux.Close() }()
	s := &session{agent: a, mux: mux, ready: make(chan struct{})}
	err = s.acceptAll(ctx)
	cancel() // nothing of it is applied any more
	a.sessionEnded()
	return err
}

// sessionEnded leaves stopped processes to the next session: if there is one,
// this machine continues from a saved one, and must first know who it is.
func (a *Agent) sessionEnded() {
	a.once.Lock()
	defer a.once.Unlock()
	a.staysFrozen()
}

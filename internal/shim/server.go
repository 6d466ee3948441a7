package shim

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/atollhq/atoll/internal/shim/wire"
)

const requestTimeout = 10 * time.Second // for a request line to arrive

// server answers the daemon on the shim's socket. Only root can reach it: the
// socket lies in a private directory.
type server struct {
	shim     *Shim
	listener net.Listener

	mu    sync.Mutex
	conns map[net.Conn]bool // open connections
	wg    sync.WaitGroup    // their handlers, and the accept loop
}

func (s *Shim) serve(listener net.Listener) *server {
	srv := &server{shim: s, listener: listener, conns: map[net.Conn]bool{}}
	srv.wg.Go(srv.accept)
	return srv
}

func (srv *server) accept() {
	for {
		conn, err := srv.listener.Accept()
		if err != nil {
			return // closed by shutdown
		}
		srv.mu.Lock()
		srv.conns[conn] = true
		srv.mu.Unlock()
		srv.wg.Go(func() { srv.handle(conn) })
	}
}

func (srv *server) handle(conn net.Conn) {
	defer func() {
		_ = conn.Close()
		srv.mu.Lock()
		delete(srv.conns, conn)
		srv.mu.Unlock()
	}()
	_ = conn.SetReadDeadline(time.Now().Add(requestTimeout))
	in := bufio.NewReaderSize(conn, 4096)
	var request wire.Request
	if err := wire.Read(in, &request); err != nil {
		if !errors.Is(err, io.EOF) {
			_ = wire.Write(conn, wire.Reply{Error: err.Error()})
		}
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	if err := srv.answer(conn, in, request); err != nil {
		srv.shim.log.Debug("answer request", "op", request.Op, "error", err)
	}
}

func (srv *server) answer(conn net.Conn, in *bufio.Reader, r wire.Request) error {
	switch r.Op {
	case wire.OpOpen:
		return srv.open(conn, in, r)
	case wire.OpStatus:
		status := srv.shim.measured()
		return wire.Write(conn, wire.Reply{Status: &status})
	case wire.OpWatch:
		return srv.watch(conn)
	case wire.OpConfigure:
		return srv.configure(conn, r.Personal)
	case wire.OpPolicy:
		return srv.policy(conn, r.Policy)
	case wire.OpPause:
		took, err := srv.shim.pause(asker(conn), r.ToDisk)
		return srv.reply(conn, wire.Reply{Pause: &took}, err)
	case wire.OpResume:
		return srv.reply(conn, wire.Reply{}, srv.shim.resume(asker(conn)))
	case wire.OpFork:
		return srv.fork(conn)
	case wire.OpStop:
		return srv.stop(conn, r.Reason)
	default:
		return wire.Write(conn, wire.Reply{Error: fmt.Sprintf("unknown request %q", r.Op)})
	}
}

// reply answers, with the error if there is one.
func (srv *server) reply(conn net.Conn, r wire.Reply, err error) error {
	if err == nil {
		return wire.Write(conn, r)
	}
	refusal := wire.Reply{Error: err.Error()}
	if coded, ok := errors.AsType[*codedError](err); ok {
		refusal.Code, refusal.Error = coded.code, coded.text
		if coded.cause != nil {
			refusal.Cause = coded.cause.Error()
		}
	}
	return wire.Write(conn, refusal)
}

func (srv *server) configure(conn net.Conn, p *wire.Personal) error {
	if p == nil {
		return srv.reply(conn, wire.Reply{}, errors.New("there is nothing to configure"))
	}
	return srv.reply(conn, wire.Reply{}, srv.shim.configure(*p))
}

func (srv *server) policy(conn net.Conn, change *wire.SetPolicy) error {
	p, err := srv.shim.setPolicy(change)
	return srv.reply(conn, wire.Reply{Policy: &p}, err)
}

// fork frees what children start from when the connection is closed.
func (srv *server) fork(conn net.Conn) error {
	ctx := asker(conn)
	f, done, err := srv.shim.fork(ctx)
	if err != nil {
		return srv.reply(conn, wire.Reply{}, err)
	}
	defer done()
	err = wire.Write(conn, wire.Reply{Fork: &f})
	f = wire.Fork{} // it holds the secrets
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
	case <-srv.shim.finished:
	}
	return nil
}

// asker is a context that ends when the other end, which says nothing more, has
// gone.
func asker(conn net.Conn) context.Context {
	ctx, gone := context.WithCancel(context.Background())
	go func() {
		defer gone()
		_, _ = io.Copy(io.Discard, conn)
	}()
	return ctx
}

// open joins the connection with a new stream of the link.
func (srv *server) open(conn net.Conn, in *bufio.Reader, r wire.Request) error {
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	l, err := srv.shim.running()
	if err != nil {
		return srv.reply(conn, wire.Reply{}, err)
	}
	stream, err := l.link.Dial(ctx, r.Kind, r.Header)
	if err != nil {
		return srv.reply(conn, wire.Reply{}, err)
	}
	if err := wire.Write(conn, wire.Reply{}); err != nil {
		return errors.Join(err, stream.Close())
	}
	splice(conn, in, stream, l.link.Done())
	return nil
}

// splice copies both ways until both directions have ended. The daemon's end
// going away ends the stream; the link's end ends the connection.
func splice(conn net.Conn, in *bufio.Reader, stream net.Conn, ended <-chan struct{}) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(conn, stream)
		select {
		case <-ended:
			_ = conn.Close()
		default:
			if half, ok := conn.(*net.UnixConn); ok {
				_ = half.CloseWrite()
			}
		}
	}()
	if n := in.Buffered(); n > 0 {
		_, _ = io.CopyN(stream, in, int64(n))
	}
	_, _ = io.Copy(stream, conn)
	_ = stream.Close()
	<-done
}

// watch reports the exit when it comes.
func (srv *server) watch(conn net.Conn) error {
	status := srv.shim.snapshot()
	if err := wire.Write(conn, wire.Reply{Status: &status}); err != nil {
		return err
	}
	select {
	case <-srv.shim.finished:
		return wire.Write(conn, wire.Reply{Exit: &srv.shim.exit})
	case <-asker(conn).Done():
		return nil
	}
}

func (srv *server) stop(conn net.Conn, reason string) error {
	select {
	case srv.shim.stop <- reason:
	default: // already stopping
	}
	<-srv.shim.finished
	return wire.Write(conn, wire.Reply{Exit: &srv.shim.exit})
}

// shutdown lets watchers read the exit, then closes everything.
func (srv *server) shutdown() {
	_ = srv.listener.Close()
	deadline := time.Now().Add(drainTimeout)
	srv.mu.Lock()
	for conn := range srv.conns {
		_ = conn.SetDeadline(deadline)
	}
	srv.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.wg.Wait()
	}()
	select {
	case <-done:
	case <-time.After(drainTimeout + time.Second):
	}
}

package proc

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/atollhq/atoll/api"
	"github.com/atollhq/atoll/internal/agent/rpc"
	"golang.org/x/sys/unix"
)

// gatePatience is how long output waits for the client's first processWait
// while nothing comes for the process's stdin. It is counted in ticks: a time
// in which the machine stood still is one of them at most.
const (
	gatePatience = gateTicks * gateTick
	gateTicks    = 10
	gateTick     = 200 * time.Millisecond
)

const (
	readSize = 64 << 10 // bytes read from a pipe at once: what a pipe holds
	fastPipe = 1 << 20  // size that a pipe gets once it was full
)

// end is one of a child's three descriptors: the child's end, and this
// process's end of the same pipe, nil when it is /dev/null.
type end struct{ child, own *os.File }

// stdio is a child's three descriptors before they are given away.
type stdio struct{ stdin, stdout, stderr end }

func (m *Manager) openStdio(o api.ProcessOptions) (*stdio, error) {
	io := &stdio{}
	var err error
	if io.stdin, err = m.openEnd(o.StdinStreamID != nil, false); err == nil {
		if io.stdout, err = m.openEnd(o.Stdout == api.StdioPiped, true); err == nil {
			io.stderr, err = m.openEnd(o.Stderr == api.StdioPiped, true)
		}
	}
	if err != nil {
		io.closeChildEnds()
		io.closeOwnEnds()
		return nil, rpc.FromOS("spawn", err)
	}
	return io, nil
}

// openEnd makes a pipe, or takes /dev/null. The child's end blocks, as
// programs expect; this process's end doesn't, so that waiting costs no
// thread.
func (m *Manager) openEnd(piped, output bool) (end, error) {
	if !piped {
		null, err := m.devNull()
		return end{child: null}, err
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return end{}, fmt.Errorf("make pipe: %w", err)
	}
	own, child := fds[0], fds[1]
	if !output {
		own, child = child, own
	}
	if err := unix.SetNonblock(own, true); err != nil {
		_ = unix.Close(own)
		_ = unix.Close(child)
		return end{}, fmt.Errorf("set up pipe: %w", err)
	}
	return end{child: os.NewFile(uintptr(child), "child"), own: os.NewFile(uintptr(own), "pipe")}, nil
}

func (s *stdio) closeChildEnds() {
	for _, e := range []end{s.stdin, s.stdout, s.stderr} {
		if e.own != nil {
			_ = e.child.Close()
		}
	}
}

func (s *stdio) closeOwnEnds() {
	for _, e := range []end{s.stdin, s.stdout, s.stderr} {
		if e.own != nil {
			_ = e.own.Close()
		}
	}
}

// attach opens the streams of a started process and pumps them.
func (p *Process) attach(s *stdio, stdin *int64) {
	var in *rpc.InStream
	if s.stdin.own != nil {
		in = p.conn.InStream(*stdin)
		go p.pumpIn(s.stdin.own, in)
	}
	p.result = api.SpawnResult{
		PID:            p.pid,
		StdoutStreamID: p.pumpOut(s.stdout.own),
		StderrStreamID: p.pumpOut(s.stderr.own),
	}
	if p.result.StdoutStreamID != nil || p.result.StderrStreamID != nil {
		p.scheduleGate(in)
	}
}

// scheduleGate lets the output through when the client has not asked for the
// process's status in time. A client that is still busy sending input has
// more time.
func (p *Process) scheduleGate(in *rpc.InStream) {
	left, last := gateTicks, time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timer = time.AfterFunc(gateTick, func() {
		left--
		if in != nil && in.LastActivity().After(last) {
			left, last = gateTicks, in.LastActivity()
		}
		if left == 0 {
			p.openGate()
			return
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.timer.Reset(gateTick)
	})
}

// pumpOut sends a pipe's content to the client; nil for no pipe.
func (p *Process) pumpOut(pipe *os.File) *int64 {
	if pipe == nil {
		return nil
	}
	out := p.conn.OpenStream()
	out.Gate(p.gate)
	id := out.ID()
	go func() {
		defer func() { _ = pipe.Close() }()
		copyOut(out, pipe)
	}()
	return &id
}

// copyOut copies until the last writer has closed the pipe. When the client
// has cancelled the stream it closes the pipe, as a closed terminal would;
// when only the connection is gone the process may go on, and its output is
// dropped.
func copyOut(out *rpc.OutStream, pipe *os.File) {
	r := pipeReader{pipe: pipe}
	var send io.Writer = out
	for {
		err := r.next(send)
		switch {
		case err == nil:
		case errors.Is(err, rpc.ErrStreamCancelled):
			_ = out.Close()
			return
		case errors.Is(err, rpc.ErrConnClosed):
			send = io.Discard
		default:
			_ = out.Close()
			return
		}
	}
}

var readBuffers = sync.Pool{New: func() any { return new([readSize]byte) }}

// pipeReader reads a pipe. It holds a buffer only while there is data.
type pipeReader struct {
	pipe *os.File
	fast bool // the pipe was made larger
}

// next waits for data and hands it on. It returns io.EOF at the end.
func (r *pipeReader) next(w io.Writer) error {
	raw, err := r.pipe.SyscallConn()
	if err != nil {
		return err
	}
	var buf *[readSize]byte
	var n int
	var readErr error
	err = raw.Read(func(fd uintptr) bool {
		buf = readBuffers.Get().(*[readSize]byte)
		n, readErr = ignoringEINTR(int(fd), buf[:])
		if readErr == unix.EAGAIN {
			readBuffers.Put(buf)
			return false
		}
		r.widen(int(fd), n)
		return true
	})
	if err != nil {
		return err
	}
	defer readBuffers.Put(buf)
	switch {
	case readErr != nil:
		return readErr
	case n == 0:
		return io.EOF
	}
	_, err = w.Write(buf[:n])
	return err
}

// widen makes a pipe that was full larger, once: fewer and larger messages.
func (r *pipeReader) widen(fd, n int) {
	if n < readSize || r.fast {
		return
	}
	r.fast = true
	_, _ = unix.FcntlInt(uintptr(fd), unix.F_SETPIPE_SZ, fastPipe)
}

func ignoringEINTR(fd int, p []byte) (int, error) {
	for {
		n, err := syscall.Read(fd, p)
		if err != syscall.EINTR {
			return max(n, 0), err
		}
	}
}

// pumpIn feeds a process's stdin until the client ends it or nobody reads it
// any more.
func (p *Process) pumpIn(pipe *os.File, in *rpc.InStream) {
	p.OnExit(func() { _ = in.Close() })
	_, err := io.Copy(pipe, in)
	_ = pipe.Close()
	if errors.Is(err, unix.EPIPE) {
		in.Cancel(rpc.FromOS("stdin", unix.EPIPE))
		return
	}
	_ = in.Close()
}

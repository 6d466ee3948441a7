package relay

import (
	"bufio"
	"net"
	"net/http"
	"syscall"

	"golang.org/x/sys/unix"
)

// socket keeps the connection that an upgrade takes over, to be able to ask
// the kernel about it.
type socket struct {
	http.ResponseWriter
	conn net.Conn // set by Hijack
}

// Hijack implements http.Hijacker.
func (s *socket) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(s.ResponseWriter).Hijack()
	s.conn = conn
	return conn, rw, err
}

// gone reports whether the client has closed its end. It finds out without
// reading, for the time in which nothing is read from the client because the
// agent doesn't take it: an agent that takes nothing must not keep its session
// alive beyond its client. A farewell behind data that doesn't fit into the
// kernel's buffers is noticed late, by TCP's keep-alive.
func (s *socket) gone() bool {
	sc, ok := s.conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	gone := false
	err = raw.Control(func(fd uintptr) {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(poll, 0)
		gone = err == nil && n > 0 && poll[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
	})
	return gone || err != nil
}

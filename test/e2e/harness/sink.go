//go:build e2e

package harness

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"time"
)

const (
	sinkIdle   = time.Minute
	maxSunk    = 256 << 10 // bytes of a connection that are kept
	recordType = 0x16      // the first byte of TLS
)

// sink takes everything that is sent to one of its addresses, on any port,
// over TCP and UDP, and notes it. It answers what looks like HTTP and speaks
// TLS, so that clients say what they have to say.
type sink struct {
	at  string
	log *journal
	tls *tls.Config
	tcp net.Listener
	udp net.PacketConn
}

func (n *Internet) newSink(at string, cert tls.Certificate) (*sink, error) {
	s := &sink{at: at, log: &n.log, tls: &tls.Config{Certificates: []tls.Certificate{cert}}}
	err := s.listen()
	if err != nil {
		return nil, err
	}
	n.closers = append(n.closers, s.tcp, s.udp)
	n.accept(s.tcp, s.serve)
	n.done.Go(s.receive)
	return s, nil
}

// listen finds a port that is free for both protocols.
func (s *sink) listen() (err error) {
	for range 10 {
		if s.tcp, err = net.Listen("tcp4", "127.0.0.1:0"); err != nil {
			return err
		}
		if s.udp, err = net.ListenPacket("udp4", s.tcp.Addr().String()); err == nil {
			return nil
		}
		_ = s.tcp.Close()
	}
	return err
}

func (s *sink) serve(c net.Conn) {
	wire := &noted{Conn: c, more: s.log.begin(s.at, "tcp")}
	first := make([]byte, 1)
	_ = c.SetDeadline(time.Now().Add(sinkIdle))
	if _, err := io.ReadFull(wire, first); err != nil {
		return
	}
	whole := &prefixed{Conn: wire, head: first}
	if first[0] != recordType {
		answerAll(whole)
		return
	}
	inner := tls.Server(whole, s.tls)
	if err := inner.Handshake(); err != nil {
		return
	}
	answerAll(&noted{Conn: inner, more: s.log.begin(s.at, "tls "+inner.ConnectionState().ServerName)})
}

// answerAll answers everything that could be a request.
func answerAll(c net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		_ = c.SetDeadline(time.Now().Add(sinkIdle))
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		if bytes.Contains(bytes.ToUpper(buf[:n]), []byte("HTTP/")) || bytes.HasSuffix(buf[:n], []byte("\n")) {
			if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nsunk\n"); err != nil {
				return
			}
		}
	}
}

func (s *sink) receive() {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := s.udp.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		s.log.note(s.at, "udp %q", buf[:n])
		_, _ = s.udp.WriteTo([]byte("sunk"), from)
	}
}

// noted is a connection of which every byte read is noted.
type noted struct {
	net.Conn
	more func([]byte)
	size int
}

func (c *noted) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.size < maxSunk {
		c.more(b[:n])
		c.size += n
	}
	return n, err
}

// prefixed is a connection some of whose bytes have been read.
type prefixed struct {
	net.Conn
	head []byte
}

func (c *prefixed) Read(b []byte) (int, error) {
	if len(c.head) > 0 {
		n := copy(b, c.head)
		c.head = c.head[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}

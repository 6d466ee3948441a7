//go:build e2e

package harness

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// Servers of protocols that turn to TLS after some words in clear. Both note
// the words and the name in the hello.

func (n *Internet) listenMail(cert tls.Certificate) error {
	return n.listenConn(&n.mail, func(c net.Conn) {
		r := bufio.NewReader(c)
		fmt.Fprint(c, "220 mail.atoll.test ESMTP\r\n")
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			n.log.note(AtMail, "%q", line)
			switch strings.ToUpper(strings.TrimSpace(line)) {
			case "STARTTLS":
				fmt.Fprint(c, "220 go ahead\r\n")
				n.secure(AtMail, c, r, cert)
				return
			case "QUIT":
				return
			}
			if strings.HasPrefix(strings.ToUpper(line), "EHLO") {
				fmt.Fprint(c, "250-mail.atoll.test\r\n250 STARTTLS\r\n")
			} else {
				fmt.Fprint(c, "250 ok\r\n")
			}
		}
	})
}

const sslRequest = 80877103 // PostgreSQL's protocol, "SSLRequest"

func (n *Internet) listenDB(cert tls.Certificate) error {
	return n.listenConn(&n.db, func(c net.Conn) {
		r := bufio.NewReader(c)
		head := make([]byte, 8)
		if _, err := io.ReadFull(r, head); err != nil || binary.BigEndian.Uint32(head[4:]) != sslRequest {
			n.log.note(AtDB, "not a request for TLS: %q", head)
			return
		}
		n.log.note(AtDB, "SSLRequest")
		_, _ = c.Write([]byte("S"))
		n.secure(AtDB, c, r, cert)
	})
}

// secure does the handshake, notes the name and what is said inside.
func (n *Internet) secure(at string, c net.Conn, r io.Reader, cert tls.Certificate) {
	inner := tls.Server(&reader{c, r}, &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		n.log.note(at, "hello %s", h.ServerName)
		return &tls.Config{Certificates: []tls.Certificate{cert}}, nil
	}})
	buf := make([]byte, 4<<10)
	if size, err := inner.Read(buf); err == nil {
		n.log.note(at, "inside %q", buf[:size])
		_, _ = inner.Write([]byte("ok\r\n"))
	}
	_ = inner.Close()
}

func (n *Internet) listenConn(l *net.Listener, handle func(net.Conn)) (err error) {
	if *l, err = net.Listen("tcp4", "127.0.0.1:0"); err != nil {
		return err
	}
	n.closers = append(n.closers, *l)
	n.accept(*l, func(c net.Conn) {
		_ = c.SetDeadline(time.Now().Add(sinkIdle))
		handle(c)
	})
	return nil
}

// reader is a connection that is read through something else.
type reader struct {
	net.Conn
	from io.Reader
}

func (c *reader) Read(b []byte) (int, error) { return c.from.Read(b) }

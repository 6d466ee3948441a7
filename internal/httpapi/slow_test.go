package httpapi_test

import (
	"bufio"
	"io"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/atollhq/atoll/internal/httpapi"
	"github.com/atollhq/atoll/internal/obs"
)

// oneConn is a listener with one connection.
type oneConn struct {
	conns chan net.Conn
	done  chan struct{}
}

func (l oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l oneConn) Close() error   { close(l.done); return nil }
func (l oneConn) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

// slow runs test with fake time on the client's end of a connection.
func slow(t *testing.T, test func(client net.Conn)) {
	synctest.Test(t, func(t *testing.T) {
		l := oneConn{make(chan net.Conn, 1), make(chan struct{})}
		client, theirs := net.Pipe()
		l.conns <- theirs
		server := &http.Server{
			Handler:           httpapi.New(httpapi.Options{Metrics: obs.NewMetrics(), Log: slog.New(slog.DiscardHandler)}),
			ReadHeaderTimeout: httpapi.HeaderTimeout, IdleTimeout: httpapi.IdleTimeout,
		}
		go func() { _ = server.Serve(l) }()
		defer server.Close()
		defer client.Close()
		began := time.Now()
		test(client)
		if took := time.Since(began); took > 2*time.Minute {
			t.Errorf("the connection was held for %s", took)
		}
	})
}

func TestBodyThatNeverComes(t *testing.T) {
	for _, head := range []string{"Content-Length: 10\r\n", "Transfer-Encoding: chunked\r\n"} {
		slow(t, func(client net.Conn) {
			_ = client.SetDeadline(time.Now().Add(time.Hour))
			_, err := io.WriteString(client, "POST /healthz HTTP/1.1\r\nHost: x\r\n"+head+"\r\n")
			if err != nil {
				t.Error(err)
			}
			_, _ = io.Copy(io.Discard, client) // until the server has had enough
		})
	}
}

func TestAnswerThatIsNeverRead(t *testing.T) {
	slow(t, func(client net.Conn) {
		_ = client.SetDeadline(time.Now().Add(time.Hour))
		out := bufio.NewWriter(client)
		for {
			if _, err := out.WriteString("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
				return
			}
		}
	})
}

package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

// dialPatience bounds a dial inside the guest.
const dialPatience = 10 * time.Second

// dial connects a stream to a port of the guest, on whichever loopback
// address something listens. A failure shows as the stream's end before its
// first byte.
func dial(ctx context.Context, stream net.Conn, port uint16) error {
	ctx, cancel := context.WithTimeout(ctx, dialPatience)
	defer cancel()
	var d net.Dialer
	var failed error
	for _, host := range []string{"127.0.0.1", "::1"} {
		conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(port))))
		if err == nil {
			splice(stream, conn.(*net.TCPConn))
			return nil
		}
		failed = errors.Join(failed, err)
	}
	return fmt.Errorf("dial port %d: %w", port, failed)
}

// splice copies both ways. The client's end of input is passed on; when the
// guest's server has said everything, or the stream is closed from outside,
// both are over.
func splice(stream net.Conn, conn *net.TCPConn) {
	in := make(chan struct{})
	go func() {
		defer close(in)
		_, _ = io.Copy(conn, stream)
		_ = conn.CloseWrite()
	}()
	_, _ = io.Copy(stream, conn)
	_ = conn.Close()
	_ = stream.Close()
	<-in
}

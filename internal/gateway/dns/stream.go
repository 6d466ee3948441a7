package dns

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"
)

const (
	streamIdle    = 10 * time.Second // RFC 7766 leaves it to the server
	streamQueries = 1000             // on one connection
)

// ServeStream answers the queries on a TCP connection, one after the other,
// until its end, an error, or some seconds of silence. It does not close the
// connection; ctx does not interrupt a read, closing the connection does.
func (s *Server) ServeStream(ctx context.Context, conn net.Conn) error {
	buf := make([]byte, 2+MaxQuery)
	for range streamQueries {
		_ = conn.SetDeadline(time.Now().Add(streamIdle))
		msg, err := readMessage(conn, buf)
		if err != nil {
			return err
		}
		release, ok := s.TryAcquire()
		if !ok {
			return nil
		}
		answer := s.Answer(ctx, msg, false)
		release()
		if answer == nil {
			return errNotQuery
		}
		_ = conn.SetDeadline(time.Now().Add(streamIdle))
		if _, err := conn.Write(withLength(answer)); err != nil {
			return err
		}
	}
	return nil
}

// readMessage reads a message behind its length (RFC 1035, section 4.2.2).
func readMessage(r io.Reader, buf []byte) ([]byte, error) {
	if _, err := io.ReadFull(r, buf[:2]); err != nil {
		return nil, err
	}
	size := int(binary.BigEndian.Uint16(buf))
	if size > len(buf)-2 {
		return nil, fmt.Errorf("dns: message of %d bytes is over the limit of %d", size, len(buf)-2)
	}
	_, err := io.ReadFull(r, buf[2:2+size])
	return buf[2 : 2+size], err
}

func withLength(msg []byte) []byte {
	out := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(msg)), uint16(len(msg)))
	return append(out, msg...)
}

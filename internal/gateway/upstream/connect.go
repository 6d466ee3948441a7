package upstream

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// maxConnectHead bounds a proxy's answer, in bytes.
const maxConnectHead = 16 << 10

var (
	errHeadTooLong = errors.New("the answer has no end")
	errNotHTTP     = errors.New("the answer is not HTTP")
)

// httpShake asks an HTTP proxy for a tunnel (RFC 9110, section 9.3.6).
func httpShake(user *url.Userinfo) func(net.Conn, target) error {
	credentials := ""
	if user != nil {
		password, _ := user.Password()
		pair := base64.StdEncoding.EncodeToString([]byte(user.Username() + ":" + password))
		credentials = "Proxy-Authorization: Basic " + pair + "\r\n"
	}
	return func(conn net.Conn, to target) error {
		head := "CONNECT " + to.String() + " HTTP/1.1\r\nHost: " + to.String() + "\r\n" + credentials + "\r\n"
		if _, err := io.WriteString(conn, head); err != nil {
			return err
		}
		status, err := readConnectHead(conn)
		if err == nil && status/100 != 2 {
			err = fmt.Errorf("the proxy answers with status %d", status)
		}
		return err
	}
}

// readConnectHead reads the head of an answer and not a byte more: what
// follows is the destination's.
func readConnectHead(r io.Reader) (status int, err error) {
	var head []byte
	var one [1]byte
	for !ends(head) {
		if len(head) == maxConnectHead {
			return 0, errHeadTooLong
		}
		if _, err := io.ReadFull(r, one[:]); err != nil {
			return 0, fmt.Errorf("read the answer: %w", err)
		}
		head = append(head, one[0])
	}
	return statusOf(head)
}

// ends is true of a whole head, also of one whose lines end without a
// carriage return (RFC 9112, section 2.2).
func ends(head []byte) bool {
	return bytes.HasSuffix(head, []byte("\n\r\n")) || bytes.HasSuffix(head, []byte("\n\n"))
}

func statusOf(head []byte) (int, error) {
	line, _, _ := strings.Cut(string(head), "\n")
	version, rest, _ := strings.Cut(strings.TrimSuffix(line, "\r"), " ")
	code, _, _ := strings.Cut(rest, " ")
	status, err := strconv.ParseUint(code, 10, 16)
	if version != "HTTP/1.1" && version != "HTTP/1.0" || len(code) != 3 || err != nil {
		return 0, errNotHTTP
	}
	return int(status), nil
}

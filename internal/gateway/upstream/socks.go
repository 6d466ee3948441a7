package upstream

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
)

// The numbers of SOCKS5 (RFC 1928) and of its passwords (RFC 1929).
const (
	socksVersion  = 5
	socksConnect  = 1
	socksIP4      = 1
	socksName     = 3
	socksIP6      = 4
	socksOpen     = 0 // no authentication
	socksPassword = 2

	passwordVersion = 1
	maxSocksText    = 255 // bytes of a name, a user or a password
)

var (
	errNotSOCKS    = errors.New("the answer is not SOCKS5")
	errCredentials = errors.New("the proxy does not take the credentials")
	errSocksText   = errors.New("user and password must have at most 255 bytes each, for SOCKS5")
)

// socksReplies are the texts of RFC 1928.
var socksReplies = []string{
	"succeeded", "general failure", "not allowed by its rules", "network unreachable", "host unreachable",
	"connection refused", "TTL expired", "command not supported", "address type not supported",
}

// socksShake asks a SOCKS5 proxy for a connection.
func socksShake(user *url.Userinfo) func(net.Conn, target) error {
	return func(conn net.Conn, to target) error {
		if err := socksAuthenticate(conn, user); err != nil {
			return err
		}
		if _, err := conn.Write(socksRequest(to)); err != nil {
			return err
		}
		return readSocksReply(conn)
	}
}

func socksAuthenticate(conn io.ReadWriter, user *url.Userinfo) error {
	offer := []byte{socksVersion, 1, socksOpen}
	if user != nil {
		offer = []byte{socksVersion, 2, socksOpen, socksPassword}
	}
	if _, err := conn.Write(offer); err != nil {
		return err
	}
	var chosen [2]byte
	if _, err := io.ReadFull(conn, chosen[:]); err != nil {
		return err
	}
	switch {
	case chosen[0] != socksVersion:
		return errNotSOCKS
	case chosen[1] == socksOpen:
		return nil
	case chosen[1] == socksPassword && user != nil:
		return socksLogin(conn, user)
	}
	return errCredentials
}

func socksLogin(conn io.ReadWriter, user *url.Userinfo) error {
	name := user.Username()
	password, _ := user.Password()
	if len(name) > maxSocksText || len(password) > maxSocksText {
		return errSocksText
	}
	msg := append([]byte{passwordVersion, byte(len(name))}, name...)
	msg = append(append(msg, byte(len(password))), password...)
	if _, err := conn.Write(msg); err != nil {
		return err
	}
	var answer [2]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return err
	}
	if answer[1] != 0 {
		return errCredentials
	}
	return nil
}

func socksRequest(to target) []byte {
	msg := []byte{socksVersion, socksConnect, 0}
	switch {
	case to.name != "": // at most 253 bytes
		msg = append(append(msg, socksName, byte(len(to.name))), to.name...)
	case to.addr.Is4():
		msg = append(append(msg, socksIP4), to.addr.AsSlice()...)
	default:
		msg = append(append(msg, socksIP6), to.addr.AsSlice()...)
	}
	return binary.BigEndian.AppendUint16(msg, to.port)
}

// readSocksReply reads the answer to a request, with the address in it, and
// not a byte more: what follows is the destination's.
func readSocksReply(r io.Reader) error {
	var head [5]byte // with the first byte of the address
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if head[0] != socksVersion {
		return errNotSOCKS
	}
	if code := int(head[1]); code != 0 {
		if code < len(socksReplies) {
			return fmt.Errorf("the proxy answers: %s", socksReplies[code])
		}
		return fmt.Errorf("the proxy answers with code %d", code)
	}
	var rest int
	switch head[3] {
	case socksIP4:
		rest = 4 - 1
	case socksIP6:
		rest = 16 - 1
	case socksName:
		rest = int(head[4])
	default:
		return errNotSOCKS
	}
	if _, err := io.ReadFull(r, make([]byte, rest+2)); err != nil { // and the port
		return fmt.Errorf("read the answer: %w", err)
	}
	return nil
}

package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The kernel lists and ends sockets through sock_diag(7). The structures are
// those of linux/inet_diag.h.
const (
	sockDestroy  = 21 // linux/sock_diag.h
	diagRequest  = 56 // bytes of inet_diag_req_v2
	diagMessage  = 72 // bytes of inet_diag_msg
	diagSocketID = 48 // bytes of inet_diag_sockid, in which ports and addresses are big endian
	diagBuffer   = 64 << 10

	// tcpConnected are the states of a connection: all but listening, closed
	// and waiting for the last segments. Bit n is state n of linux/tcp_states.h.
	tcpConnected = 1<<1 | 1<<2 | 1<<3 | 1<<4 | 1<<5 | 1<<8 | 1<<9 | 1<<11
)

// cutConnections ends the TCP connections that lead out of the machine. A
// kernel without sock_diag is gVisor's, which restores none.
func cutConnections() error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open sock_diag: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	patience := unix.Timeval{Sec: 5}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience); err != nil {
		return fmt.Errorf("open sock_diag: %w", err)
	}
	return errors.Join(cutFamily(fd, unix.AF_INET), cutFamily(fd, unix.AF_INET6))
}

func cutFamily(fd int, family byte) error {
	ids, err := connections(fd, family)
	if err != nil {
		return fmt.Errorf("list connections: %w", err)
	}
	var failed error
	for _, id := range ids {
		err := ask(fd, sockDestroy, unix.NLM_F_ACK, diagQuery(family, id), func([]byte) {})
		if err != nil && !errors.Is(err, unix.ENOENT) { // it may have ended meanwhile
			failed = fmt.Errorf("end connection: %w", err)
		}
	}
	return failed
}

// connections returns the sockets, as inet_diag_sockid, that are connected
// with something outside.
func connections(fd int, family byte) (ids [][]byte, err error) {
	err = ask(fd, unix.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP, diagQuery(family, nil), func(msg []byte) {
		if id := outside(msg); id != nil {
			ids = append(ids, id)
		}
	})
	return ids, err
}

// outside returns the socket of an inet_diag_msg whose other end is not in
// this machine, or nil.
func outside(msg []byte) []byte {
	if len(msg) < diagMessage {
		return nil
	}
	id := append([]byte(nil), msg[4:4+diagSocketID]...)
	from, to := diagAddr(msg[0], id[4:20]), diagAddr(msg[0], id[20:36])
	if !to.IsValid() || to.IsLoopback() || to == from {
		return nil
	}
	return id
}

func diagAddr(family byte, b []byte) netip.Addr {
	if family == unix.AF_INET {
		b = b[:4]
	}
	addr, _ := netip.AddrFromSlice(b)
	return addr.Unmap()
}

// diagQuery is an inet_diag_req_v2 for one socket, or for all.
func diagQuery(family byte, id []byte) []byte {
	q := make([]byte, 8, diagRequest)
	q[0], q[1] = family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(q[4:], tcpConnected)
	return append(q, id...)[:diagRequest]
}

// ask sends one netlink request and calls each with the answers' bodies.
func ask(fd int, kind, flags uint16, body []byte, each func([]byte)) error {
	msg := make([]byte, unix.SizeofNlMsghdr, unix.SizeofNlMsghdr+diagRequest)
	head := (*unix.NlMsghdr)(unsafe.Pointer(&msg[0]))
	head.Len, head.Type, head.Flags = uint32(len(msg)+len(body)), kind, unix.NLM_F_REQUEST|flags
	if err := unix.Sendto(fd, append(msg, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	buf := make([]byte, diagBuffer)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if done, err := answers(buf[:n], each); done {
			return err
		}
	}
}

// answers reads the messages of one datagram from the kernel.
func answers(data []byte, each func([]byte)) (done bool, err error) {
	for len(data) >= unix.SizeofNlMsghdr {
		size, kind := int(binary.NativeEndian.Uint32(data)), binary.NativeEndian.Uint16(data[4:])
		if size < unix.SizeofNlMsghdr || size > len(data) {
			return true, errors.New("malformed answer")
		}
		body := data[unix.SizeofNlMsghdr:size]
		switch kind {
		case unix.NLMSG_DONE:
			return true, nil
		case unix.NLMSG_ERROR:
			if len(body) < 4 {
				return true, errors.New("malformed answer")
			}
			if errno := -int32(binary.NativeEndian.Uint32(body)); errno != 0 {
				return true, unix.Errno(errno)
			}
			return true, nil
		}
		each(body)
		data = data[min((size+3)&^3, len(data)):]
	}
	return false, nil
}

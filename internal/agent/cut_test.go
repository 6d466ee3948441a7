package agent

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/atollhq/atoll/internal/agent/rpc/rpctest"
)

// TestCutConnections: in a network of its own, connections to elsewhere end,
// and those within the machine go on.
func TestCutConnections(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("a network of its own needs root")
	}
	ownNetwork(t, "10.9.0.1/24", "10.9.0.2/24", "fd09::1/64", "fd09::2/64")
	for _, c := range []struct {
		from, to string
		cut      bool
	}{
		{"10.9.0.1", "10.9.0.2", true},
		{"fd09::1", "fd09::2", true},
		{"127.0.0.1", "127.0.0.1", false},
		{"::1", "::1", false},
		{"10.9.0.1", "10.9.0.1", false},
	} {
		near, far := connect(t, c.from, c.to)
		if err := cutConnections(); err != nil {
			t.Fatal(err)
		}
		if cut := !passes(near, far); cut != c.cut {
			t.Errorf("from %s to %s: cut %v", c.from, c.to, cut)
		}
	}
}

// ownNetwork gives the test's thread, which ends with it, a network with
// addresses.
func ownNetwork(t *testing.T, addrs ...string) {
	t.Helper()
	runtime.LockOSThread() // and never unlock
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skip("no network namespace: ", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
	for _, text := range addrs {
		addr, err := netlink.ParseAddr(text)
		if err != nil {
			t.Fatal(err)
		}
		addr.Flags = unix.IFA_F_NODAD
		if err := netlink.AddrAdd(lo, addr); err != nil {
			t.Fatal(err)
		}
	}
}

// connect does without another goroutine, which would be in another network.
func connect(t *testing.T, from, to string) (near, far net.Conn) {
	t.Helper()
	listener, err := net.Listen("tcp", net.JoinHostPort(to, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 100 * time.Millisecond}
	for deadline := time.Now().Add(rpctest.Patience); ; { // the kernel puts addresses to use when it finds time
		if near, err = dialer.Dial("tcp", listener.Addr().String()); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = near.Close() })
	for { // an attempt that took too long may have got there, too
		if far, err = listener.Accept(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = far.Close() })
		if far.RemoteAddr().String() == near.LocalAddr().String() {
			return near, far
		}
	}
}

func passes(near, far net.Conn) bool {
	_, werr := near.Write([]byte("x"))
	_ = far.SetReadDeadline(time.Now().Add(rpctest.Patience))
	_, rerr := io.ReadFull(far, make([]byte, 1))
	return werr == nil && rerr == nil
}

func TestAnswersRefuses(t *testing.T) {
	for name, data := range map[string][]byte{
		"a size below the header's": {4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
		"a size beyond the end":     {32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
		"an error without number":   {16, 0, 0, 0, unix.NLMSG_ERROR, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
	} {
		if done, err := answers(data, func([]byte) { t.Error(name) }); !done || err == nil {
			t.Errorf("%s: %v, %v", name, done, err)
		}
	}
	refusal := append([]byte{20, 0, 0, 0, unix.NLMSG_ERROR, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 0xfe, 0xff, 0xff, 0xff)
	if done, err := answers(refusal, nil); !done || !errors.Is(err, unix.ENOENT) {
		t.Errorf("%v, %v", done, err)
	}
}

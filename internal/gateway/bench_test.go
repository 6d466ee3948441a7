package gateway

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/atollhq/atoll/internal/gateway/gatewaytest"
	"github.com/atollhq/atoll/internal/machine"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// kernelGuest is a guest whose TCP/IP stack is the host kernel's, in a network
// namespace that holds nothing but a TAP: what a machine looks like to the
// gateway. It needs root. Its namespace lives as long as the locked thread.
func kernelGuest(b *testing.B, n machine.Network) machine.NIC {
	b.Helper()
	if os.Getuid() != 0 {
		b.Skip("needs root for a network namespace with a TAP")
	}
	runtime.LockOSThread() // and never unlocked: the thread dies with the benchmark
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		b.Skip("no network namespace: ", err)
	}
	tap := &netlink.Tuntap{
		LinkAttrs: netlink.LinkAttrs{Name: "card", MTU: n.MTU, HardwareAddr: n.GuestMAC},
		Mode:      netlink.TUNTAP_MODE_TAP, Flags: netlink.TUNTAP_NO_PI, Queues: 1,
	}
	steps := []func() error{
		func() error { return netlink.LinkAdd(tap) },
		func() error { return netlink.LinkSetMTU(tap, n.MTU) },
		func() error { return netlink.LinkSetHardwareAddr(tap, n.GuestMAC) },
		func() error {
			return netlink.AddrAdd(tap, &netlink.Addr{IPNet: &net.IPNet{IP: n.Guest4.Addr().AsSlice(), Mask: net.CIDRMask(24, 32)}})
		},
		func() error { return netlink.LinkSetUp(tap) },
		func() error { return netlink.RouteAdd(&netlink.Route{Gw: n.Gateway4.AsSlice()}) },
	}
	for i, step := range steps {
		if err := step(); err != nil {
			b.Fatalf("make TAP, step %d: %v", i, err)
		}
	}
	return machine.NIC{Kind: machine.NICTap, File: tap.Fds[0], MTU: n.MTU}
}

// dialKernel connects from the namespace of the calling goroutine's locked thread.
func dialKernel(b *testing.B, addr string) net.Conn {
	b.Helper()
	to := netip.MustParseAddrPort(addr)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		b.Fatal(err)
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}); err != nil {
		b.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "guest")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		b.Fatal(err)
	}
	return c
}

func startKernel(b *testing.B, mtu int) *gatewaytest.Internet {
	b.Helper()
	world := gatewaytest.NewInternet()
	s := setup{world: world}
	var err error
	s.gw, err = New(Config{Network: gatewaytest.Network(mtu), HostAddrs: noHost, Upstream: world, Log: quiet()})
	if err != nil {
		b.Fatal(err)
	}
	if err := s.gw.Attach(kernelGuest(b, gatewaytest.Network(mtu))); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = s.gw.Close()
		world.Close()
	})
	return world
}

const chunk = 256 << 10

// send writes n chunks, sink counts what arrives.
func send(c net.Conn, n int) {
	buf := make([]byte, chunk)
	for range n {
		if _, err := c.Write(buf); err != nil {
			return
		}
	}
}

func benchUpload(b *testing.B, world *gatewaytest.Internet, dial func() net.Conn) {
	done := make(chan int64, 1)
	world.ServeTCP(public4+":80", func(c net.Conn) {
		n, _ := io.Copy(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c})
		done <- n
	})
	c := dial()
	b.SetBytes(chunk)
	b.ResetTimer()
	send(c, b.N)
	_ = c.(interface{ CloseWrite() error }).CloseWrite()
	if n := <-done; n != int64(b.N)*chunk {
		b.Errorf("%d bytes arrived of %d", n, b.N*chunk)
	}
	b.StopTimer()
	_ = c.Close()
}

func benchDownload(b *testing.B, world *gatewaytest.Internet, dial func() net.Conn) {
	world.ServeTCP(public4+":80", func(c net.Conn) {
		_, _ = c.Read(make([]byte, 1))
		send(c, b.N)
	})
	c := dial()
	b.SetBytes(chunk)
	b.ResetTimer()
	_, _ = c.Write([]byte{1})
	n, _ := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, make([]byte, chunk))
	if n != int64(b.N)*chunk {
		b.Errorf("%d bytes arrived of %d", n, b.N*chunk)
	}
	b.StopTimer()
	_ = c.Close()
}

var mtus = []int{1500, 16384, 65520}

func BenchmarkKernelGuest(b *testing.B) {
	for _, mtu := range mtus {
		b.Run(fmt.Sprintf("upload/mtu=%d", mtu), func(b *testing.B) {
			world := startKernel(b, mtu)
			benchUpload(b, world, func() net.Conn { return dialKernel(b, public4+":80") })
		})
		b.Run(fmt.Sprintf("download/mtu=%d", mtu), func(b *testing.B) {
			world := startKernel(b, mtu)
			benchDownload(b, world, func() net.Conn { return dialKernel(b, public4+":80") })
		})
	}
}

func BenchmarkStreamGuest(b *testing.B) {
	for _, mtu := range mtus {
		dial := func(s setup) func() net.Conn {
			return func() net.Conn {
				c, err := s.guest.DialTCP(context.Background(), public4+":80")
				if err != nil {
					b.Fatal(err)
				}
				return c
			}
		}
		b.Run(fmt.Sprintf("upload/mtu=%d", mtu), func(b *testing.B) {
			s := start(b, machine.NICStream, mtu, nil)
			benchUpload(b, s.world, dial(s))
		})
		b.Run(fmt.Sprintf("download/mtu=%d", mtu), func(b *testing.B) {
			s := start(b, machine.NICStream, mtu, nil)
			benchDownload(b, s.world, dial(s))
		})
	}
}

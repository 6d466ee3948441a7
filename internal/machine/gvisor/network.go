package gvisor

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/atollhq/atoll/internal/machine"
)

const guestInterface = "eth0"

// addrGenModeNone is IN6_ADDR_GEN_MODE_NONE of linux/if_link.h: no link-local
// address, so no neighbour discovery by the kernel.
const addrGenModeNone = 1

// enterNamespace makes a network namespace with nothing but a configured TAP
// device in it, and returns the device's host end. It must run on a locked
// thread and leaves that thread in the namespace, which has no name and lives
// as long as the thread, the device or a process started from the thread.
func enterNamespace(n machine.Network) (*os.File, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("make network namespace: %w", err)
	}
	tap, err := openTap(guestInterface)
	if err != nil {
		return nil, err
	}
	if err := configureTap(n); err != nil {
		return nil, errors.Join(err, tap.Close())
	}
	return tap, nil
}

// openTap makes a TAP device in the thread's namespace. It goes away with the
// returned file.
func openTap(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err == nil {
		// The sentry leaves checksums to the device: see machine.NIC. Without
		// this the kernel computes them before we read.
		err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("make tap device: %w", err)
	}
	return os.NewFile(uintptr(fd), "tap"), nil
}

// configureTap gives the device the guest's addresses and routes, from where
// runsc copies them into the sentry's own network stack and then takes the
// addresses away. The kernel's stack must stay silent on the device.
func configureTap(n machine.Network) error {
	handle, err := netlink.NewHandle()
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer handle.Close()
	link, err := handle.LinkByName(guestInterface)
	if err != nil {
		return fmt.Errorf("find tap device: %w", err)
	}
	loopback, err := handle.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback: %w", err)
	}
	steps := []struct {
		what string
		do   func() error
	}{
		{"set hardware address", func() error { return handle.LinkSetHardwareAddr(link, n.GuestMAC) }},
		{"set mtu", func() error { return handle.LinkSetMTU(link, n.MTU) }},
		{"silence the kernel's IPv6", func() error { return handle.LinkSetIP6AddrGenMode(link, addrGenModeNone) }},
		{"set loopback up", func() error { return handle.LinkSetUp(loopback) }},
		{"set tap up", func() error { return handle.LinkSetUp(link) }},
		{"add IPv4 address", func() error { return addAddress(handle, link, n.Guest4) }},
		{"add IPv6 address", func() error { return addAddress(handle, link, n.Guest6) }},
		{"add IPv4 neighbour", func() error { return addGateway(handle, link, n.Gateway4, n.GatewayMAC) }},
		{"add IPv6 neighbour", func() error { return addGateway(handle, link, n.Gateway6, n.GatewayMAC) }},
	}
	for _, step := range steps {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return nil
}

func addAddress(h *netlink.Handle, link netlink.Link, p netip.Prefix) error {
	if !p.IsValid() {
		return nil
	}
	return h.AddrAdd(link, &netlink.Addr{
		IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())},
		Flags: unix.IFA_F_NODAD,
	})
}

// addGateway makes the gateway a permanent neighbour and the default route.
func addGateway(h *netlink.Handle, link netlink.Link, gateway netip.Addr, mac net.HardwareAddr) error {
	if !gateway.IsValid() {
		return nil
	}
	neighbour := &netlink.Neigh{
		LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT,
		IP: gateway.AsSlice(), HardwareAddr: mac,
	}
	if err := h.NeighSet(neighbour); err != nil {
		return err
	}
	return h.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway.AsSlice()})
}

package boot

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/atollhq/atoll/internal/link"
)

// configureCard gives the network card its addresses. The gateway is a
// permanent neighbour: it answers nothing but what goes through it.
func configureCard(b link.Boot) error {
	loopback, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback: %w", err)
	}
	card, err := findCard(b.CardMAC)
	if err != nil {
		return fmt.Errorf("find network card: %w", err)
	}
	gateway, err := net.ParseMAC(b.GatewayMAC)
	if err != nil {
		return fmt.Errorf("gateway's address: %w", err)
	}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"set loopback up", func() error { return netlink.LinkSetUp(loopback) }},
		{"set MTU", func() error { return netlink.LinkSetMTU(card, b.MTU) }},
		{"set network card up", func() error { return netlink.LinkSetUp(card) }},
		{"add IPv4 address", func() error { return addAddress(card, b.Guest4) }},
		{"add IPv6 address", func() error { return addAddress(card, b.Guest6) }},
		{"add IPv4 gateway", func() error { return addGateway(card, b.Gateway4, gateway) }},
		{"add IPv6 gateway", func() error { return addGateway(card, b.Gateway6, gateway) }},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return nil
}

func findCard(mac string) (netlink.Link, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	for _, l := range links {
		if l.Attrs().HardwareAddr.String() == mac {
			return l, nil
		}
	}
	return nil, fmt.Errorf("none has the address %s", mac)
}

func addAddress(card netlink.Link, p netip.Prefix) error {
	if !p.IsValid() {
		return nil
	}
	return netlink.AddrAdd(card, &netlink.Addr{
		IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())},
		Flags: unix.IFA_F_NODAD,
	})
}

func addGateway(card netlink.Link, gateway netip.Addr, mac net.HardwareAddr) error {
	if !gateway.IsValid() {
		return nil
	}
	index := card.Attrs().Index
	neighbour := &netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, IP: gateway.AsSlice(), HardwareAddr: mac}
	if err := netlink.NeighSet(neighbour); err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{LinkIndex: index, Gw: gateway.AsSlice()})
}

package wire

import (
	"net"
	"net/netip"

	"github.com/atollhq/atoll/internal/machine"
)

// cardMTU is the largest that a TAP takes, in whole words, because no packet
// leaves the host as it is: the gateway ends every connection, and each packet
// costs several changes between processes.
const cardMTU = 65520

// Network is what every guest sees: each sandbox is alone on its network, so
// all have the same addresses. Daemon and shim agree on it, because it is part
// of what machines are saved with.
func Network() machine.Network {
	gateway4, gateway6 := netip.MustParseAddr("10.87.0.1"), netip.MustParseAddr("fd00:a701::1")
	return machine.Network{
		MTU:         cardMTU,
		GuestMAC:    net.HardwareAddr{0x02, 0xa7, 0x01, 0x00, 0x00, 0x02},
		GatewayMAC:  net.HardwareAddr{0x02, 0xa7, 0x01, 0x00, 0x00, 0x01},
		Guest4:      netip.MustParsePrefix("10.87.0.2/24"),
		Gateway4:    gateway4,
		Guest6:      netip.MustParsePrefix("fd00:a701::2/64"),
		Gateway6:    gateway6,
		Nameservers: []netip.Addr{gateway4, gateway6},
	}
}

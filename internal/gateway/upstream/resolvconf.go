package upstream

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"
)

const (
	defaultResolvConf = "/etc/resolv.conf"
	recheck           = 5 * time.Second
	maxNameservers    = 3 // as in resolv.conf(5)
	dnsPort           = 53
)

// resolvConf remembers the name servers in a file until it changes.
type resolvConf struct {
	mu      sync.Mutex // guards all
	checked time.Time
	changed time.Time
	servers []netip.AddrPort
}

func (r *resolvConf) nameservers(file string) ([]netip.AddrPort, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.checked) < recheck {
		return r.servers, nil
	}
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("read name servers: %w", err)
	}
	if !info.ModTime().Equal(r.changed) {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read name servers: %w", err)
		}
		r.servers, r.changed = parseResolvConf(string(b)), info.ModTime()
	}
	r.checked = time.Now()
	return r.servers, nil
}

// parseResolvConf returns the name servers in the text of a resolv.conf(5);
// none at all means the one on this host.
func parseResolvConf(text string) []netip.AddrPort {
	var out []netip.AddrPort
	for sc := bufio.NewScanner(strings.NewReader(text)); sc.Scan(); {
		fields := strings.Fields(sc.Text())
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(fields[1]); err == nil && len(out) < maxNameservers {
			out = append(out, netip.AddrPortFrom(a, dnsPort))
		}
	}
	if out == nil {
		out = append(out, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), dnsPort))
	}
	return out
}

package doctor

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/atollhq/atoll/internal/config"
)

// settings are those of flags, environment and file.
func (h Host) settings(context.Context) Check {
	if h.Settings == nil {
		return ok("can be read")
	}
	return fail(strings.ReplaceAll(h.Settings.Error(), "\n", "; "), `mend them where they are: in a flag, the environment or the file; "atoll serve --help" shows them`)
}

// network says what sandboxes may reach at most and by which way, and looks
// whether the proxy on it is there.
func (h Host) network(ctx context.Context) Check {
	says := describe(h.Network)
	if h.Network.Proxy == "" {
		return ok(says)
	}
	proxy, err := url.Parse(string(h.Network.Proxy))
	if err != nil {
		return fail("net_proxy is no URL", "write http://host:port") // the error would show a password
	}
	says += ", through the proxy " + proxy.Host
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", proxy.Host)
	if err != nil {
		return warn(fmt.Sprintf("%s, which does not answer (%v)", says, err), "start it or change net_proxy: until then sandboxes reach nothing")
	}
	_ = conn.Close()
	return ok(says)
}

func describe(n config.Network) string {
	says := "sandboxes reach public addresses"
	if len(n.Ceiling) > 0 {
		says = fmt.Sprintf("sandboxes reach what net_ceiling lists (entries: %d)", len(n.Ceiling))
	}
	if len(n.Exceptions) > 0 {
		says += fmt.Sprintf(" and net_exceptions (entries: %d)", len(n.Exceptions))
	}
	if n.Strict {
		says += ", all their TLS is read (net_strict)"
	}
	if n.HostOverrides != "" {
		says += ", some addresses elsewhere (host_overrides)"
	}
	return says
}

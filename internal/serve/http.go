package serve

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
)

// serveHTTP begins to answer, and tells the commands on this host where.
func (d *daemon) serveHTTP(context.Context) error {
	d.url = d.cfg.URL
	if d.url == "" {
		d.url = urlOf(d.listener.Addr())
	}
	if err := writeFile(d.cfg.Data().EndpointFile(), d.url+"\n", 0o644); err != nil {
		return err
	}
	d.serving = make(chan struct{})
	go func() {
		defer close(d.serving)
		if err := d.http.Serve(d.listener); !errors.Is(err, http.ErrServerClosed) {
			d.failed <- err
		}
	}()
	return nil
}

// stopHTTP ends the server. Its WebSockets have been dismissed by then.
func (d *daemon) stopHTTP(ctx context.Context) error {
	err := d.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, d.http.Close())
	}
	if d.serving != nil {
		<-d.serving
	}
	return err
}

// urlOf is how clients on this host reach an address that was listened on.
func urlOf(addr net.Addr) string {
	host, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return "http://" + addr.String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port)
}

// notify tells the service manager how the server is, if there is one that
// wants to know (sd_notify(3)).
func notify(state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return
	}
	_, _ = conn.Write([]byte(state))
	_ = conn.Close()
}

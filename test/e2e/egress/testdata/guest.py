"""What attacks from inside a sandbox have in common.

Whatever an attacker means to get out contains the word "evil": the fake
internet is searched for it.
"""
import os, socket, ssl, struct, subprocess, sys, time

API, TENANT, EVIL, RAW = "api.atoll.test", "tenant.atoll.test", "evil.atoll.test", "raw.atoll.test"
MAIL, DB = "mail.atoll.test", "db.atoll.test"
API4, EVIL4, RAW4 = "93.184.215.20", "93.184.215.66", "93.184.215.30"
EVIL6 = "2606:2800:21f:cb07::66"
WAIT = 1.0  # seconds for an answer that may not come
PATIENCE = 60  # for what comes, however slow everything is


def tcp(host, port, wait=WAIT, within=PATIENCE):
    s = socket.create_connection((host, port), within)
    s.settimeout(wait)
    return s


def say(s, *parts, pause=0.0):
    """Sends bytes, each part in a packet of its own."""
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for i, part in enumerate(parts):
        if i and pause:
            time.sleep(pause)
        s.sendall(part)


def hear(s, least=1):
    """Reads until there is enough, the end, or silence."""
    out = b""
    try:
        while len(out) < least:
            got = s.recv(65536)
            if not got:
                break
            out += got
    except OSError as e:
        print("heard", repr(e))
    return out


def talk(host, port, *parts, pause=0.0, within=PATIENCE):
    """One connection that says something and shows the answer."""
    try:
        s = tcp(host, port, within=within)
        say(s, *parts, pause=pause)
        print("answer", hear(s)[:300])
        s.close()
    except OSError as e:
        print("refused", repr(e))


def http(line, *headers, body=b""):
    return ("\r\n".join((line,) + headers) + "\r\n\r\n").encode("latin-1") + body


def tls(s, sni, alpn=None, **more):
    c = ssl.create_default_context()
    c.check_hostname, c.verify_mode = False, ssl.CERT_NONE
    if alpn:
        c.set_alpn_protocols(alpn)
    wait = s.gettimeout()
    s.settimeout(PATIENCE)
    s = c.wrap_socket(s, server_hostname=sni, **more)
    s.settimeout(wait)
    return s


# A ClientHello that always carries the word, in what should be random.
def extension(kind, data):
    return struct.pack(">HH", kind, len(data)) + data


def server_name(name):
    if isinstance(name, str):
        name = name.encode()
    return extension(0, struct.pack(">HBH", len(name) + 3, 0, len(name)) + name)


def hello(sni=None, *extensions, pad=0, version=0x0303, bare=False, share=b"\x00\x1d\x00\x20" + b"evil" * 8):
    exts = b""
    if pad:
        exts += extension(21, bytes(pad))
    if sni is not None:
        exts += server_name(sni)
    exts += extension(43, b"\x04\x03\x04\x03\x03") + extension(10, b"\x00\x02\x00\x1d") + extension(13, b"\x00\x02\x04\x03")
    exts += extension(51, struct.pack(">H", len(share)) + share)
    exts += b"".join(extensions)
    body = struct.pack(">H", version) + b"evil" * 8 + b"\x20" + b"evil" * 8 + b"\x00\x04\x13\x01\xc0\x2b" + b"\x01\x00"
    if not bare:
        body += struct.pack(">H", len(exts)) + exts
    return b"\x01" + struct.pack(">I", len(body))[1:] + body


def records(message, size=16384):
    return b"".join(
        b"\x16\x03\x01" + struct.pack(">H", len(message[i : i + size])) + message[i : i + size]
        for i in range(0, len(message), size)
    )


# DNS.
TYPES = dict(A=1, NS=2, CNAME=5, SOA=6, NULL=10, PTR=12, MX=15, TXT=16, AAAA=28, SRV=33, NAPTR=35, SVCB=64, HTTPS=65, SPF=99, IXFR=251, AXFR=252, ANY=255, CAA=257, TYPE65280=65280)


def question(name, kind="A", extra=b"", additional=0, opcode=0):
    out = struct.pack(">HHHHHH", 0x6576, 0x0100 | opcode << 11, 1, 0, 0, additional)
    for label in name.rstrip(".").split("."):
        out += bytes([len(label)]) + label.encode("latin-1")
    return out + b"\x00" + struct.pack(">HH", TYPES[kind], 1) + extra


def ask(message, server="10.87.0.1", port=53, stream=False):
    """Asks a DNS server and returns the response code, or None."""
    try:
        s = socket.socket(socket.AF_INET6 if ":" in server else socket.AF_INET, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM)
        s.settimeout(WAIT)
        s.connect((server, port))
        s.send(struct.pack(">H", len(message)) + message if stream else message)
        back = s.recv(4096)[2 if stream else 0 :]
        return back[3] & 15 if len(back) > 3 else None
    except OSError as e:
        return repr(e)


def run(*command):
    r = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    print(command[0], r.returncode, r.stdout[-300:], r.stderr[-300:])
    return r


def shout(address, port, data=b"evil datagram"):
    """Sends a datagram and shows what comes back."""
    try:
        s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        s.settimeout(0.5)
        s.connect((address, port))
        s.send(data)
        print("answer", s.recv(1000))
    except OSError as e:
        print("silence", repr(e))


# HTTP/2 with prior knowledge, just enough to say a name.
def frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(name, value):
    return b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def h2(stream, authority, path="/", scheme="http", *more):
    block = b"".join(literal(*h) for h in ((":method", "GET"), (":scheme", scheme), (":path", path), (":authority", authority)) + more)
    return frame(1, 5, stream, block)


H2_START = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"")

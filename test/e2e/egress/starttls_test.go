package egress

// Protocols that turn to TLS after some words in clear.
var startRows = []evasion{
	{id: "starttls-smtp", attack: "STARTTLS to an allowed mail server, with a refused name in its hello", in: listed, script: `#!
for name in mail.atoll.test evil.atoll.test; do
  (sleep 0.3; echo QUIT) | timeout 60 openssl s_client -starttls smtp -connect mail.atoll.test:587 -servername $name >/dev/null 2>&1
done; true`, arrives: []string{"mail hello mail.atoll.test"}, open: "mail hello evil"},
	{id: "starttls-postgres", attack: "PostgreSQL's request for TLS, with a refused name in the hello", in: listed, script: `#!
for name in db.atoll.test evil.atoll.test; do
  (sleep 0.3; echo Q) | timeout 60 openssl s_client -starttls postgres -connect db.atoll.test:5432 -servername $name >/dev/null 2>&1
done; true`, arrives: []string{"db hello db.atoll.test"}, open: "db hello evil"},
	{id: "starttls-imap", attack: "the same in other protocols, the hello in pieces", in: listed, script: `
h = records(hello(EVIL, extension(0x1234, b"....the tail")), 100)
assert b"the tail" in h
for port, words in ((143, b"a1 STARTTLS\r\n"), (21, b"AUTH TLS\r\n"), (389, b"\x30\x1d\x02\x01\x01\x77\x18\x80\x161.3.6.1.4.1.1466.20037")):
    talk(RAW, port, words, h, pause=0.2)
talk(RAW, 21, b"AUTH TLS\r\n", *[h[:-8][i:i+9] for i in range(0, len(h) - 8, 9)], h[-8:], pause=0.01)`,
		never: "the tail", open: "the tail"},
	{id: "starttls-hidden", attack: "such a hello inside of what pretends to be another record", in: listed, script: `
whole = hello(EVIL, extension(0x1234, b"the tail"))
decoy = b"\x16\x03\x01\x3f\xff\x01\0\x3f\x00\x03\x03"
talk(RAW, 143, b"a1 STARTTLS\r\n", decoy + records(whole), pause=0.2)
talk(RAW, 143, b"a1 STARTTLS\r\n", decoy * 3, records(whole), pause=0.2)`,
		never: "the tail", open: "the tail"},
	{id: "starttls-ech", attack: "such a hello, encrypted", in: listed, script: `
talk(RAW, 143, b"a1 STARTTLS\r\n", records(hello(RAW, extension(0xfe0d, b"\0\0\x01\0\x01\x2a\0\x20" + b"evil" * 8 + b"\0\x20" + b"evil" * 8))), pause=0.2)`},
}

